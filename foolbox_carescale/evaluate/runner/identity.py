"""Check that the run in a folder is the requested run."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config.types import Evaluation
from ..errors import EvaluationWarning, UserError, warn
from ..serialization import flatten_keys, to_builtins
from .tasks import Tasks

PACKAGES = ("foolbox-carescale", "foolbox", "eagerpy", "numpy", "torch", "torchvision")

FRAMEWORKS = ("jax", "tensorflow")
"""Those that a model of the user's own may be written in; PyTorch is always there."""

NON_IDENTITY_KEYS = ("executor", "tracking", "report", "shard", "output")
"""Keys that say where a run is computed, tracked and shown, and change none of its rows.

The device and the number of threads are not among them: both change the last bits.
"""

ROUNDING = 0.02
"""Difference of a sample's logits, relative to their spread, up to which two models with the same
weights are the same: devices and versions round differently, TensorFloat-32 by some thousandths."""

LEAST_SPREAD = 0.1
"""The least spread that a sample is given, in median spreads of all."""

MIXTURES = 4
"""Random sums of a sample's logits that are compared, in the place of the logits themselves."""

MOST_SAMPLES = 10**9

_SHOWN = 4


def record_of(
    asked: Evaluation,
    resolved: Evaluation,
    inputs: Mapping[str, str],
    tasks: Tasks,
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what identifies a run, for ``RunFolder.start``.

    Args:
        asked: The run as it was asked for, and
        resolved: with resolved defaults.
        inputs: What identifies its samples, as a worker says.
        tasks: All of it.
        model: What identifies it, as a worker says.
    """
    identity = {
        "config": _identity(resolved),
        "inputs": dict(inputs),
        "weights": model["weights"],
    }
    return {
        "fingerprint": hashlib.blake2b(_text(identity).encode(), digest_size=16).hexdigest(),
        "asked": _identity(asked),
        "resolved": identity["config"],
        "samples": tasks.samples,
        "tasks": len(tasks),
        "inputs": identity["inputs"],
        "model": dict(model),
        "versions": versions(),
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def reconcile(evaluation: Evaluation, record: Mapping[str, Any], folder: Path) -> Evaluation:
    """Return the run that is asked for, with the choices that the run in the folder has made.

    A key fits if it is what was asked for then, or what came of it: a run is continued by the
    command that started it, and by the folder's own config. Resolved defaults stay as
    they were chosen, so that a machine with another number of cores can help.

    Raises:
        UserError: The folder holds another run; the message names the keys that differ.
    """
    if not _is_record(record):
        raise UserError(
            f"output: {folder / 'run.json'} is no record of a run; choose another folder"
        )
    asked, now = (
        flatten_keys(record["asked"]),
        flatten_keys(json.loads(_text(_identity(evaluation)))),
    )
    resolved = flatten_keys(record["resolved"])
    missing = object()
    different = [
        key
        for key in dict.fromkeys([*asked, *now])
        if now.get(key, missing) not in (asked.get(key, missing), resolved.get(key, missing))
    ]
    if different:
        _refuse(different, asked, now, folder)
    order = [label for label in record["resolved"]["attacks"] if label in evaluation.attacks]
    evaluation = dataclasses.replace(
        evaluation, attacks={label: evaluation.attacks[label] for label in order}
    )
    if evaluation.threads is None:
        evaluation = dataclasses.replace(evaluation, threads=record["resolved"]["threads"])
    if evaluation.device == "auto":
        evaluation = dataclasses.replace(evaluation, device=record["resolved"]["device"])
    _warn_of_versions(record["versions"], folder)
    return evaluation


def same_choices(adopted: Evaluation, resolved: Evaluation) -> bool:
    """Return whether a run made the choices that the folder has, which another process started."""
    return (
        adopted.threads == resolved.threads
        and adopted.device.partition(":")[0] == resolved.device.partition(":")[0]
        and list(adopted.attacks) == list(resolved.attacks)
    )


def check_same(
    record: Mapping[str, Any], resolved: Evaluation, inputs: Mapping[str, str], folder: Path
) -> None:
    """Raise a UserError where the same config has come to mean another run."""
    check_inputs(record["inputs"], inputs, f"the run in {folder}")
    check_config(record["resolved"], json.loads(_text(_identity(resolved))), folder)


def check_config(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise a UserError that names the keys in which the configs of two runs differ.

    Args:
        then: Of the run that the folder holds, in plain types, and
        now: of the one that is asked for.
        folder: Of the run.
    """
    before, after = flatten_keys(then), flatten_keys(now)
    missing = object()
    different = [
        key
        for key in dict.fromkeys([*before, *after])
        if before.get(key, missing) != after.get(key, missing)
    ]
    if different:
        _refuse(different, before, after, folder)


def check_same_model(then: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raise a UserError where two models differ in weights, or in logits by more than rounding.

    Args:
        then: What identifies a model, as a worker says, and
        now: the same of a model that should be the same.
        where: Whose the first is.
    """
    differ = f"model: it is not the model {where}: "
    remedy = "load or seed its weights, or choose another folder with output=..."
    if then["weights"] != now["weights"]:
        raise UserError(f"{differ}its weights have changed; {remedy}")
    before, after = np.asarray(then["logits"], float), np.asarray(now["logits"], float)
    if before.shape != after.shape:
        raise UserError(f"{differ}it was seen on another number of samples; {remedy}")
    spread = before[:, :1]
    finite = spread[np.isfinite(spread)]
    # a sample whose logits are all but equal is as unsure as others by rounding
    least = LEAST_SPREAD * np.median(finite) if len(finite) else 0.0
    tolerance = ROUNDING * np.maximum(spread, least)
    off = ~((np.abs(after - before) <= tolerance) | (np.isnan(after) & np.isnan(before))).all(1)
    if off.any():
        i = int(np.flatnonzero(off)[0])
        by = float(np.abs(after - before)[i].max() / max(spread[i, 0], least))
        raise UserError(
            f"{differ}the logits of sample {i} differ by {by:.0%} of their spread; its code has"
            f" changed, or it answers differently each time; {remedy}"
        )


def logit_mixtures(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what shows whether two models give the same logits, of few numbers.

    Args:
        logits: Shape (N, classes).

    Returns:
        Shape (N, 1 + MIXTURES): the standard deviation of a sample's logits, and some sums of
        them with random signs, divided by the root of their number, so that a change of r
        standard deviations changes each sum by about as much.
    """
    with np.errstate(invalid="ignore"):  # of logits that are infinite
        centred = logits - logits.mean(axis=1, keepdims=True)
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (logits.shape[1], MIXTURES))
        mixtures = centred @ signs / np.sqrt(logits.shape[1])
        return np.column_stack([centred.std(axis=1), mixtures])


def check_inputs(then: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    """Raise a UserError that says in what the data of two runs differ.

    Args:
        then: What ``inputs_digest`` returned for one run, and
        now: for another.
        where: Which run the first is.
    """
    if different := [name for name in now if now[name] != then.get(name)]:
        raise UserError(
            f"data: the {' and the '.join(different)} are not those that {where} was started"
            " with; choose another folder with output=..."
        )


def inputs_digest(
    index: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], hashes: Iterable[str]
) -> dict[str, str]:
    """Return BLAKE2b, 16 bytes in hexadecimal, of samples' places, labels and image hashes.

    Args:
        index: Places of all samples in the data set.
        labels: Those that are known.
        hashes: Of the images that were decoded.
    """
    parts = {
        "places in the data set": np.ascontiguousarray(index).tobytes(),
        "labels": np.ascontiguousarray(labels).tobytes(),
        "images": "".join(hashes).encode(),
    }
    return {n: hashlib.blake2b(part, digest_size=16).hexdigest() for n, part in parts.items()}


def versions() -> dict[str, str]:
    """Versions of Python, and of the packages that make the results."""
    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    loaded = {name: sys.modules[name] for name in FRAMEWORKS if name in sys.modules}
    return found | {name: str(module.__version__) for name, module in loaded.items()}


def _is_record(record: Mapping[str, Any]) -> bool:
    """Return whether a record, which may come from a stranger, has what is read of it."""
    kinds = {"asked": dict, "resolved": dict, "inputs": dict, "model": dict, "versions": dict}
    if not all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
        return False
    resolved, model = record["resolved"], record["model"]
    samples, logits = record.get("samples"), model.get("logits")
    return (
        isinstance(resolved.get("attacks"), dict)
        and isinstance(resolved.get("threads"), int)
        and isinstance(resolved.get("device"), str)
        and isinstance(samples, int)
        and 0 < samples <= MOST_SAMPLES
        and isinstance(logits, list)
        and all(isinstance(row, list) and len(row) == 1 + MIXTURES for row in logits)
        and all(isinstance(number, (int, float)) for row in logits for number in row)
        and "weights" in model
    )


def _identity(evaluation: Evaluation) -> dict[str, Any]:
    content: dict[str, Any] = to_builtins(evaluation)
    for key in NON_IDENTITY_KEYS:
        content.pop(key, None)
    for key in ("workers", "on_error"):  # what cannot be read is in the run folder
        del content["data"][key]
    content["device"] = content["device"].partition(":")[0]  # which of several GPUs is no matter
    content["epsilons"] = {norm: sorted(values) for norm, values in content["epsilons"].items()}
    for attack in content["attacks"].values():
        attack["epsilons"] = attack["epsilons"] and sorted(attack["epsilons"])
    return content


def _described(key: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    shown = key.replace(".params.", ".")
    if key not in now:
        return f"{shown} is {then[key]!r} there and not given here"
    if key not in then:
        return f"{shown} is {now[key]!r} here and not given there"
    return f"{shown} is {then[key]!r} there and {now[key]!r} here"


def _refuse(
    different: list[str], then: Mapping[str, Any], now: Mapping[str, Any], folder: Path
) -> None:
    more = f"; {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    runs_code = any(key.endswith("._target_") and then[key] is not None for key in then)
    raise UserError(
        f"output: {folder} holds a run with another config: "
        + "; ".join(_described(key, then, now) for key in different[:_SHOWN])
        + more
        + f"; choose another folder, or continue that run with {folder / 'config.yaml'}"
        + (" --allow-code" if runs_code else "")
    )


def _warn_of_versions(then: Mapping[str, str], folder: Path) -> None:
    now = versions()
    changed = [f"{n} {then[n]}, now {now[n]}" for n in now if then.get(n, now[n]) != now[n]]
    if changed:
        warn(
            EvaluationWarning(
                f"{folder} was started with other versions ({'; '.join(changed)}), so its rows"
                " may not be those of one run",
                "start again in another folder if that matters",
            ),
            stacklevel=3,
        )


def _text(content: Any) -> str:
    return json.dumps(content, default=repr)
