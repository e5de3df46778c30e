"""The loop of a training: batches, steps, measurements, and its state in a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from ..evaluate.errors import UserError, nearest
from ..evaluate.models.loading import Normalized, build_network
from ..evaluate.models.outputs import check_classes
from ..evaluate.models.targets import named_errors
from ..evaluate.serialization import to_builtins
from .recipes import make_recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from .config import Training


@dataclass(frozen=True)
class Epoch:
    """The measurements after an epoch.

    Attributes:
        epoch: 1, 2, ...
        lr: Learning rate of its last step.
        loss: Mean cross-entropy of what was trained on.
        accuracy: Of the held-out images.
        perturbed_loss: Mean cross-entropy of the held-out images under the recipe, and
        perturbed_accuracy: the accuracy there.
    """

    epoch: int
    lr: float
    loss: float
    accuracy: float
    perturbed_loss: float
    perturbed_accuracy: float


class Loop:
    """The state of a training in one process."""

    def __init__(
        self, fabric: Fabric, training: Training, images: torch.Tensor, labels: torch.Tensor
    ) -> None:
        self.fabric, self.training = fabric, training
        if training.batch_size % fabric.world_size:
            raise UserError(
                f"batch_size: {training.batch_size} cannot be divided among"
                f" {fabric.world_size} processes"
            )
        torch.manual_seed(training.seed)  # every process begins with the same weights
        highest = int(labels.max())
        network, self.model_config = build_network(training.model, num_classes=highest + 1)
        self._check_first_logits(network, highest)
        self.recipe = make_recipe(training.recipe, images.shape[1])
        order = torch.randperm(len(images), generator=_generator(training.seed))
        held_out = round(training.holdout * len(images))
        self.images, self.labels = images, labels
        self.held_out, self.trained_on = order[:held_out], order[held_out:]
        self.per_epoch = len(self.trained_on) // training.batch_size
        self.optimizer = _make_optimizer(training, network)
        self.schedule = _make_schedule(training, self.optimizer, self.per_epoch * training.epochs)
        self.network = network
        self.wrapped, self.stepper = fabric.setup(network, self.optimizer)
        self.recipe.prepare(fabric)
        torch.manual_seed(training.seed + fabric.global_rank)
        self.epoch = self.position = 0
        self.total = torch.zeros((), dtype=torch.float64, device=fabric.device)
        self.history: list[Epoch] = []
        self.best: dict[str, Any] | None = None

    def _check_first_logits(self, network: torch.nn.Module, highest: int) -> None:
        """Let the network's first call raise a UserError if it has too few classes."""
        config, data = self.model_config, self.training.data
        named = {"model": config._target_ or config.name, "data": data._target_ or data.name}

        def check(_: torch.nn.Module, __: Any, logits: torch.Tensor) -> None:
            handle.remove()
            check_classes(logits.shape, highest, **named)

        handle = network.register_forward_hook(check)

    @property
    def between_epochs(self) -> bool:
        """Return True when an epoch has just ended."""
        return self.position == 0

    @property
    def stopped(self) -> bool:
        """Return True when no epoch is left or patience is spent."""
        patience = self.training.patience
        if self.epoch >= self.training.epochs:
            return True
        return patience is not None and self.epoch - self._best_epoch() >= patience

    def steps(self) -> Iterator[int]:
        """Train; yields the number of steps so far after each, its epoch's end included."""
        config = self.model_config
        name = f"_target_: {config._target_}" if config._target_ else f"name: {config.name}"
        while not self.stopped:
            batches = self._batches()
            while self.position < self.per_epoch:
                with named_errors(f"model.{name}"):
                    self._step(batches[self.position])
                self.position += 1
                if self.position < self.per_epoch:
                    yield self.epoch * self.per_epoch + self.position
            self._measure()
            self.recipe.remember()
            self.epoch, self.position = self.epoch + 1, 0
            self.total.zero_()
            yield self.epoch * self.per_epoch

    def content(self, run: str) -> dict[str, Any]:
        """Return what a checkpoint holds; the same in every process."""
        fabric = self.fabric
        self._share_buffers()
        random = {"cpu": torch.get_rng_state()}
        if fabric.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(fabric.device)
        own = {**random, "total": self.total.reshape(1)}
        return {
            "run": run,
            "epoch": self.epoch,
            "position": self.position,
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "recipe": self.recipe.state_dict(),
            "precision": fabric.strategy.precision.state_dict(),
            "best": self.best,
            "processes": {name: self._gathered(value) for name, value in own.items()},
        }

    def _gathered(self, value: torch.Tensor) -> torch.Tensor:
        """Return the values of all processes, shape (processes, length)."""
        # fabric.all_gather calls a function that PyTorch has deprecated
        own = value.to(self.fabric.device)
        parts = [torch.empty_like(own) for _ in range(self.fabric.world_size)]
        if len(parts) == 1:
            return own[None]
        torch.distributed.all_gather(parts, own)
        return torch.stack(parts)

    def restore(self, content: dict[str, Any], run: str, path: Path) -> None:
        """Resume from a checkpoint.

        Raises:
            UserError: It is of another training, or of another model.
        """
        if content.get("run") != run:
            raise UserError(
                f"checkpoint: {path} belongs to another training (another config, or other data);"
                " remove it to train from the beginning, or choose another folder"
            )
        try:
            self.network.load_state_dict(content["network"])
            self.recipe.load_state_dict(content["recipe"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.schedule.load_state_dict(content["schedule"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:150]
            raise UserError(
                f"checkpoint: {path} belongs to another model ({reason}); remove it to train from"
                " the beginning, or choose another folder"
            ) from error
        self.fabric.strategy.precision.load_state_dict(content["precision"])
        self.epoch, self.position = content["epoch"], content["position"]
        self.history = [Epoch(**epoch) for epoch in content["history"]]
        self.best = content["best"]
        world, stored = self.fabric.world_size, len(content["processes"]["cpu"])
        if world != stored:
            raise UserError(f"processes: {path} was written by {stored} processes, not {world}")
        rank = self.fabric.global_rank
        # a copy: PyTorch reads a generator's state from where the memory of a view begins
        own = {name: values[rank].clone() for name, values in content["processes"].items()}
        self.total.copy_(own["total"][0])
        torch.set_rng_state(own["cpu"])
        if "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"], self.fabric.device)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights of the epoch that is kept, without the normalisation."""
        state: dict[str, torch.Tensor] = self.best or self.network.state_dict()
        if not isinstance(self.network, Normalized):
            return state
        return {name.removeprefix("model."): value for name, value in state.items()}

    def about(self) -> dict[str, Any]:
        """Return what is stored beside the weights."""
        config = self.model_config
        kept = self.history[self._best_epoch() - 1 if self.best else -1]
        return {
            "architecture": config._target_ or config.name,
            "num_classes": config.num_classes,
            "mean": config.mean,
            "std": config.std,
            "recipe": to_builtins(self.training.recipe),
            "accuracy": kept.accuracy,
            "perturbed_accuracy": kept.perturbed_accuracy,
            "epoch": kept.epoch,
        }

    def _batches(self) -> list[torch.Tensor]:
        """Return this process's part of each batch of the epoch."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        generator = _generator(self.training.seed, self.epoch + 1)
        order = self.trained_on[torch.randperm(len(self.trained_on), generator=generator)]
        whole = order[: self.per_epoch * self.training.batch_size]
        return [batch[rank::world] for batch in torch.split(whole, self.training.batch_size)]

    def _step(self, batch: torch.Tensor) -> None:
        fabric, share = self.fabric, self.training.recipe.share
        images, labels = fabric.to_device((self.images[batch], self.labels[batch]))
        images = shifted(images, self.training.shift)
        if self.training.flip:
            mirrored = torch.rand(len(images), 1, 1, 1).to(images.device) < 0.5
            images = torch.where(mirrored, images.flip(-1), images)
        part = slice(0, round(share * len(images)))  # the batch is in random order
        if images[part].numel():
            self.recipe.learn(fabric, self.network, images[part], labels[part])
            perturbed = self._perturbed(images[part], labels[part])
            images = torch.cat([perturbed, images[part.stop :]])
        self.wrapped.train()
        loss = cross_entropy(self.wrapped(images), labels)
        self.stepper.zero_grad()
        fabric.backward(loss)
        self.stepper.step()
        self.schedule.step()
        self.total += loss.detach()

    def _perturbed(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with self.fabric.autocast():
            return self.recipe.perturbed(self.network, images, labels)

    def _measure(self) -> None:
        """Measure an epoch that ends; draws no number that the training would have drawn."""
        fabric = self.fabric
        rank, world = fabric.global_rank, fabric.world_size
        sums = torch.zeros(4, dtype=torch.float64, device=fabric.device)
        self._share_buffers()
        self.network.eval()
        devices = [fabric.device] if fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.training.seed + rank)  # the same noise in every epoch
            for batch in torch.split(self.held_out[rank::world], self.training.batch_size):
                x, y = fabric.to_device((self.images[batch], self.labels[batch]))
                noisy = self._perturbed(x, y)
                with torch.no_grad(), fabric.autocast():
                    clean, logits = self.network(x).float(), self.network(noisy).float()
                loss = cross_entropy(logits, y, reduction="sum")
                right = [(z.argmax(1) == y).sum() for z in (clean, logits)]
                sums += torch.stack([torch.ones_like(loss) * len(y), loss, *right])
        summed: Any = fabric.all_reduce(sums, reduce_op="sum")
        averaged: Any = fabric.all_reduce(self.total / self.per_epoch, reduce_op="mean")
        mean = float(averaged)
        if mean != mean:
            raise UserError(
                f"training: the loss is not a number in epoch {self.epoch + 1}; lower optimizer.lr,"
                f" which is {self.training.optimizer.lr:g}"
            )
        count, perturbed_loss, right, withstood = summed.tolist()
        self.history.append(
            Epoch(
                self.epoch + 1,
                float(self.schedule.get_last_lr()[0]),
                mean,
                right / count,
                perturbed_loss / count,
                withstood / count,
            )
        )
        if self.training.patience is not None and self._best_epoch() == len(self.history):
            self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def _share_buffers(self) -> None:
        """Take batch norm's statistics from the first process, whose are stored."""
        if self.fabric.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _best_epoch(self) -> int:
        """Return the first epoch with the lowest loss on held-out images, or 0 before any."""
        losses = [epoch.perturbed_loss for epoch in self.history]
        return losses.index(min(losses)) + 1 if losses else 0


def shifted(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """Shift each image by up to so many pixels, at random; black moves in."""
    if pixels == 0:
        return images
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (pixels,) * 4)
    offsets = torch.randint(0, 2 * pixels + 1, (2, count)).to(images.device)
    rows = offsets[0][:, None] + torch.arange(height, device=images.device)
    columns = offsets[1][:, None] + torch.arange(width, device=images.device)
    which = torch.arange(count, device=images.device)[:, None, None]
    moved = padded[which, :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def _generator(*seed: int) -> torch.Generator:
    """Return a generator seeded by training and epoch."""
    mixed = hashlib.blake2b(repr(seed).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed, "little"))


def _make_optimizer(training: Training, network: torch.nn.Module) -> torch.optim.Optimizer:
    config = training.optimizer
    kind = _named("optimizer.name", config.name, torch.optim, torch.optim.Optimizer)
    params = {"lr": config.lr, **config.params}
    made: torch.optim.Optimizer = _made("optimizer", kind, network.parameters(), **params)
    return made


def _make_schedule(
    training: Training, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    config, module = training.schedule, torch.optim.lr_scheduler
    kind = _named("schedule.name", config.name, module, module.LRScheduler)
    if kind is module.ReduceLROnPlateau:
        raise UserError("schedule.name: ReduceLROnPlateau works per epoch; use CosineAnnealingLR")
    known = {"total_steps": steps, "T_max": steps, "total_iters": steps}
    known["max_lr"] = training.optimizer.lr  # type: ignore[assignment]
    accepted = inspect.signature(kind).parameters
    standing = {key: value for key, value in known.items() if key in accepted}
    params = {**standing, **config.params}
    made: torch.optim.lr_scheduler.LRScheduler = _made("schedule", kind, optimizer, **params)
    return made


def _named(key: str, name: str, module: Any, base: type) -> Any:
    kinds = {
        n: kind
        for n, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, base) and not n.startswith("_")
    }
    if name not in kinds or kinds[name] is base:
        raise UserError(f"{key}: PyTorch has no {name!r}; {nearest(name, kinds)}")
    return kinds[name]


def _made(key: str, kind: Any, *arguments: Any, **params: Any) -> Any:
    try:
        return kind(*arguments, **params)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: PyTorch cannot make {kind.__name__}: {error}") from error
