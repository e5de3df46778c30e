import copy
import csv
import dataclasses
import math
import typing

import lightning_fabric
import pytest
import torch
from torch.nn.functional import cross_entropy

from experiments.training import noise_training
from foolbox_carescale.training.config import RecipeConfig, RecipeName
from foolbox_carescale.training.recipes import make_recipe
from tests.training import factories

EPS = {1.0: 12.0, 2.0: 1.0, math.inf: 0.3}  # small enough that noise around grey is not clipped
EXACT = ("gaussian-exact", "adversarial-noise", "pgd-at")


@pytest.fixture
def batch():
    images, labels = factories.images()
    return torch.from_numpy(images), torch.from_numpy(labels)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return factories.network()


def recipe_of(name, p=2.0, **changes):
    torch.manual_seed(1)
    recipe = make_recipe(RecipeConfig(name, eps=EPS[p], p=p, **changes))
    recipe.prepare(lightning_fabric.Fabric(accelerator="cpu", devices=1))
    return recipe


def sizes(images, points, p):
    return torch.linalg.vector_norm((points - images).double().flatten(1), ord=p, dim=1)


def test_images_are_exactly_epsilon_away_inside_the_box_and_without_a_graph(batch, network):
    for p in EPS:
        for name in EXACT:
            images, labels = batch
            points = recipe_of(name, p).perturbed(network, images, labels)
            assert sizes(images, points, p).numpy() == pytest.approx(EPS[p], rel=1e-5)
            assert points.min() >= 0
            assert points.max() <= 1
            assert not points.requires_grad


def test_naive_noise_loses_what_the_clip_takes_away_and_nothing_else(batch, network):
    for p in EPS:
        images, labels = batch[0].round(), batch[1]  # every pixel on a bound
        recipe = recipe_of("gaussian-naive", p)
        found = sizes(images, recipe.perturbed(network, images, labels), p)
        assert (found <= EPS[p] * (1 + 1e-6)).all()
        assert found.mean() < 0.99 * EPS[p]
        middle = torch.full_like(images, 0.5)  # far from the bounds nothing is clipped
        found = sizes(middle, recipe.perturbed(network, middle, labels), p)
        assert found.tolist() == pytest.approx([EPS[p]] * len(images), rel=1e-5)


def test_the_network_is_left_as_it_is(batch, network):
    for name in typing.get_args(RecipeName):
        network.train()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        recipe = recipe_of(name)
        fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
        recipe.learn(fabric, network, *batch)
        recipe.perturbed(network, *batch)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert network.training


def test_the_generator_learns_to_raise_the_loss(batch, network):
    images, labels = batch
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()
    network.eval()
    recipe = recipe_of("adversarial-noise", kernel_size=3)

    def loss():
        torch.manual_seed(3)
        with torch.no_grad():
            logits = [network(recipe.perturbed(network, images, labels)) for _ in range(8)]
        return cross_entropy(torch.cat(logits), labels.repeat(8)).item()

    before = loss()
    for _ in range(60):
        recipe.learn(fabric, network, images, labels)
    assert loss() > 1.2 * before


def test_a_generator_resumes_from_its_state(batch, network):
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    first, second = recipe_of("adversarial-noise"), recipe_of("adversarial-noise")
    first.learn(fabric, network, *batch)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    noisy = []
    for recipe in (first, second):
        torch.manual_seed(4)
        recipe.learn(fabric, network, *batch)
        noisy.append(recipe.perturbed(network, *batch))
    assert torch.equal(*noisy)


def test_half_of_the_noise_is_that_of_earlier_generators(batch, network):
    images, labels = batch
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    recipe, gaussian = recipe_of("adversarial-noise"), recipe_of("adversarial-noise")
    for _ in range(20):
        recipe.learn(fabric, network, images, labels)
    noisy = []
    for each in (recipe, gaussian):
        torch.manual_seed(5)
        noisy.append(each.perturbed(network, images, labels))
    half = len(images) // 2
    # only the generator's beginning is remembered so far, and that is Gaussian noise
    assert torch.equal(noisy[0][:half], noisy[1][:half])
    assert not torch.isclose(noisy[0][half:], noisy[1][half:]).all()
    recipe.remember()
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        replayed = recipe.perturbed(network, images, labels)[:half]
        torch.manual_seed(seed)
        seen.add(torch.equal(replayed, gaussian.perturbed(network, images, labels)[:half]))
    assert seen == {False, True}  # both the beginning and what was learned come up
    assert len(recipe.state_dict()["past"]) == 2


@pytest.mark.nightly
def test_the_experiment_measures_every_recipe_in_its_short_form(tmp_path, monkeypatch):
    quick = dataclasses.replace(noise_training.QUICK, holdout=0.9, samples=8, pgd_samples=2)
    monkeypatch.setattr(noise_training, "QUICK", quick)
    monkeypatch.setattr(noise_training, "PGD_STEPS", 2)
    noise_training.main(["--quick", "--output", str(tmp_path)])
    assert (tmp_path / "noise_training.png").stat().st_size < 200_000
    with (tmp_path / "noise_training.csv").open() as file:
        rows = list(csv.DictReader(file))
    cells = 1 + sum(len(epsilons) for *_, epsilons in noise_training.NOISES) + 2
    assert len(rows) == cells * len(noise_training.RECIPES)
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    text = (tmp_path / "noise_training.md").read_text(encoding="utf-8")
    assert text.count("| gaussian, L2 |") == 4
    assert "seeds" in text
