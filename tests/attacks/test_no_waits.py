"""How often attacks wait for a GPU, counted without one; see ``experiments.gpu.counting``."""

import itertools
import json
import math
import os
import subprocess
import sys

import foolbox as fb
import pytest
import torch

import foolbox_carescale as fc
from experiments.gpu import counting
from foolbox_carescale import attacks

ORDERS = tuple(counting.EPSILONS)


@pytest.fixture
def gpu_road():
    with counting.on_gpu_road(compiled=False):
        yield


@pytest.mark.usefixtures("gpu_road")
@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("name", ["PGD", "APGD", "minimum norm"])
def test_no_step_of_a_gradient_attack_waits_or_copies(name, p):
    _, waits, copied = counting.of_attack(name, p)
    assert (waits, copied) == ({}, [])


@pytest.mark.usefixtures("gpu_road")
@pytest.mark.parametrize("p", ORDERS)
def test_a_query_of_square_reads_once_and_copies_a_few_numbers_per_sample(p):
    _, waits, copied = counting.of_attack("Square", p)
    assert waits == {"read": 1}
    windows = 1 if p == math.inf else 2
    assert copied[0] == 3 * (2 * windows + 3)  # samples; two numbers per window, signs of channels
    assert len(copied) == 5


@pytest.mark.usefixtures("gpu_road")
def test_an_operator_waits_at_most_once_and_never_without_checks():
    for name, p, checked, unchecked in counting.of_operators():
        assert (sum(checked.waits.values()) <= 1, unchecked.waits.total()) == (True, 0), (name, p)
        assert checked.copied == unchecked.copied == []


@pytest.mark.usefixtures("gpu_road")
def test_noise_is_made_on_the_device():
    model, x, labels = counting.example()
    for distribution, epsilon in itertools.product(attacks.noise.DISTRIBUTIONS, (0.1, 0.4)):
        attack = attacks.ClipAwareNoise(p=3, distribution=distribution)
        with counting.counted() as count:
            raw = attack.run(model, x, labels, epsilon=epsilon)
        assert max(count.copied, default=0) <= len(x), distribution
        sizes = (raw - x).flatten(1).norm(3, dim=1)
        assert sizes.tolist() == pytest.approx([epsilon] * len(x), rel=1e-5), distribution


RUNS = {
    "PGD": (attacks.ClipAwarePGD(p=2, steps=8), 0.5),
    "PGD Linf": (attacks.ClipAwarePGD(p=math.inf, steps=8), 0.05),
    "APGD": (attacks.ClipAwareAPGD(p=2, steps=12, restarts=2), 0.5),
    "minimum norm": (attacks.ClipAwareMinimumNorm(p=2, steps=8), None),
    "early stop": (attacks.ClipAwareMinimumNorm(p=2, steps=20), 0.5),
    "Square": (attacks.ClipAwareSquare(p=2, queries=20, seed=0), 0.3),
    "Square Linf": (attacks.ClipAwareSquare(p=math.inf, queries=20, seed=0), 0.02),
}


@pytest.mark.parametrize("run", RUNS)
def test_the_road_of_a_gpu_leads_to_the_same_points(run):
    attack, epsilon = RUNS[run]
    model, x, labels = counting.example(6)
    found = []
    for road in (False, True):
        torch.manual_seed(0)
        with counting.on_gpu_road(compiled=False) if road else fc.value_checks("each_call"):
            found.append(attack(model, x, labels, epsilons=epsilon)[1])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("gpu_road")
def test_a_class_that_the_model_does_not_have_is_found_before_a_loss_indexes_by_it():
    model, x, labels = counting.example()
    labels[1] = 10
    with pytest.raises(ValueError, match="class 10 of sample 1 is none of the model's 10"):
        attacks.ClipAwarePGD(steps=2)(model, x, labels, epsilons=0.1)


@pytest.mark.usefixtures("gpu_road")
def test_inputs_and_logits_are_checked_on_the_road_of_a_gpu_too():
    model, x, labels = counting.example()
    with pytest.raises(ValueError, match="inputs: 75 of 225 values are NaN"):
        attacks.ClipAwarePGD(steps=2).run(
            model, torch.where(x == x[:1], math.nan, x), labels, epsilon=1
        )
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(75, 10))
    torch.nn.init.constant_(module[1].bias, math.nan)
    bad = fb.PyTorchModel(module.eval(), bounds=(0, 1), device="cpu")
    with pytest.warns(RuntimeWarning, match="logits of 3 of 3 samples are not finite"):
        attacks.ClipAwareSquare(queries=2, seed=0)(bad, x, labels, epsilons=0.1)


# of a step, beside the model, its loss and its gradient
LAUNCHES = {"1.0": 19, "2.0": 10, "inf": 10}
COUNTED = """
import json
from experiments.gpu import counting
with counting.on_gpu_road():
    plain = counting.of_a_gradient(*counting.example()).launches.total()
    found = {p: counting.of_attack("PGD", p, computed=False) for p in counting.EPSILONS}
print(json.dumps({p: [sum(of.values()) - plain, waits] for p, (of, waits, _) in found.items()}))
"""


def test_a_step_of_pgd_launches_little_beside_the_model():
    pytest.importorskip("triton", reason="Triton is not installed: it has no wheel here")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COUNTED],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for p, (launches, waits) in json.loads(done.stdout).items():
        assert waits == {}, p
        assert launches <= LAUNCHES[p.replace("Infinity", "inf")], p
