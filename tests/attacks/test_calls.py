"""What attacks take and give back, and how they refuse the rest."""

import math

import eagerpy as ep
import foolbox as fb
import numpy as np
import pytest
import torch

from foolbox_carescale import attacks
from tests.attacks import model_cases
from tests.attacks.table import (
    SOME,
    SOME_GRADIENT,
    assert_norm,
    in_turns,
    on_torch,
)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@on_torch
def test_a_bad_epsilon_is_refused(case, make, arguments):
    for epsilon in (-1.0, math.nan, math.inf, np.float32(-1), torch.tensor(-1.0)):
        for epsilons in (epsilon, [0.1, epsilon]):
            with pytest.raises(ValueError, match=r"^epsilons: expected finite numbers >= 0, got"):
                make(**arguments)(case.model, case.x, case.labels, epsilons=epsilons)


@in_turns(SOME)
def test_the_tensor_comes_back_in_the_type_that_it_came_in(case, make, arguments):
    attack, before = make(**arguments), case.numpy(case.x)
    call = {"epsilons": case.epsilon(arguments["p"])}
    raw, clipped, success = attack(case.model, case.x, case.labels, **call)
    for tensor in (raw, clipped):
        assert case.backend.is_own(tensor)
        assert case.backend.dtype_of(tensor) == "float32"
    assert case.backend.is_own(success)
    wrapped = attack(case.model, ep.astensor(case.x), ep.astensor(case.labels), **call)
    assert all(isinstance(tensor, ep.Tensor) for tensor in wrapped)
    assert np.array_equal(case.numpy(case.x), before), "the inputs were modified"


@on_torch
def test_repeat_refuses_inputs_outside_the_bounds_like_the_attack_itself(case):
    attack = attacks.L2ClipAwarePGD(steps=1).repeat(2)
    with pytest.raises(ValueError, match="outside the bounds"):
        attack(case.model, case.x + 1, case.labels, epsilons=1.0)
    raw, _, _ = attack(case.model, case.x + 1e-7, case.labels, epsilons=1.0)
    assert case.in_box(raw)
    assert isinstance(attack.repeat(3), type(attack))
    assert attack.repeat(3).times == 6
    with pytest.raises(ValueError, match=r"times: expected an integer >= 1, got 1\.5"):
        attacks.L2ClipAwarePGD().repeat(1.5)


@on_torch
def test_run_takes_an_epsilon_as_people_write_it(case):
    attack = attacks.L2ClipAwareBIM(steps=1)
    points = attack.run(case.model, case.x, case.labels, epsilon="8/255")
    assert torch.equal(points, attack.run(case.model, case.x, case.labels, epsilon=8 / 255))
    for wrong in (None, "large", True):
        with pytest.raises(ValueError, match=r"^epsilon: .* number") as error:
            attack.run(case.model, case.x, case.labels, epsilon=wrong)
        assert repr(wrong) in str(error.value)


@pytest.mark.parametrize(("make", "arguments"), SOME_GRADIENT)
@on_torch
def test_a_criterion_without_classes_is_refused_by_name(case, make, arguments):
    class Confident(fb.criteria.Criterion):
        def __repr__(self):
            return "Confident()"

        def __call__(self, perturbed, outputs):
            return outputs.max(axis=-1) > 0

    with pytest.raises(ValueError, match=r"criterion: expected .* got Confident\(\)"):
        make(**arguments)(case.model, case.x, Confident(), epsilons=1.0)


@in_turns(SOME)
def test_labels_that_are_not_one_for_each_input_are_refused_by_name(case, make, arguments):
    attack, n = make(**arguments), model_cases.SAMPLES
    targets = fb.criteria.TargetedMisclassification(case.labels[1:])
    for wrong in (case.labels[1:], targets):
        message = rf"expected one class for each of {n} inputs, a number, got shape \({n - 1},\)"
        with pytest.raises(ValueError, match=message):
            attack(case.model, case.x, wrong, epsilons=1.0)
        with pytest.raises(ValueError, match=message):
            attacks.MinimalEpsilon(attack).run(case.model, case.x, wrong)
    with pytest.raises(ValueError, match=rf"criterion: expected labels .* \({n},\), .* got str"):
        attack(case.model, case.x, "0", epsilons=1.0)


@on_torch
def test_noise_takes_any_criterion(case):
    class Anything(fb.criteria.Criterion):
        def __repr__(self):
            return "Anything()"

        def __call__(self, perturbed, outputs):
            return outputs.max(axis=-1) > -math.inf

    noise = attacks.L2ClipAwareGaussianNoise(repeats=2)
    _, _, success = noise(case.model, case.x, Anything(), epsilons=1.0)
    assert success.all()


@pytest.mark.parametrize(("make", "arguments"), SOME)
@on_torch
def test_an_unknown_argument_of_the_call_is_a_type_error_with_its_name(case, make, arguments):
    with pytest.raises(TypeError, match="early_stop"):
        make(**arguments)(case.model, case.x, case.labels, epsilons=1.0, early_stop=1)


@in_turns(SOME)
def test_inputs_outside_the_bounds_are_refused_with_the_worst_value(case, make, arguments):
    x = case.numpy(case.x)
    x[2, 0, 0, 0] = 4.5
    with pytest.raises(ValueError, match=r"inputs: 1 of 768 values lie outside.* 4\.5 in sample 2"):
        make(**arguments)(case.model, case.backend.tensor(x), case.labels, epsilons=1.0)
    x[2, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"inputs: 1 of 768 values are NaN.* sample 2"):
        make(**arguments)(case.model, case.backend.tensor(x), case.labels, epsilons=1.0)


@in_turns(SOME)
def test_inputs_outside_the_bounds_by_rounding_count_as_on_them(case, make, arguments):
    lower, upper = case.model.bounds
    x = case.numpy(case.x)
    excess = np.where(x == upper, 3e-7, np.where(x == lower, -3e-7, 0.0)) * abs(upper)
    outside = case.backend.tensor(x + excess)
    assert not case.in_box(outside)
    p = arguments["p"]
    raw, _, _ = make(**arguments)(case.model, outside, case.labels, epsilons=case.epsilon(p))
    ball = arguments.get("constraint") == "ball"
    assert_norm(case, raw, p, case.epsilon(p), at_most=ball)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@on_torch
def test_inputs_that_require_a_gradient_work_and_keep_none(case, make, arguments):
    x = case.x.clone().requires_grad_()
    raw, _, _ = make(**arguments)(case.model, x, case.labels, epsilons=case.epsilon(arguments["p"]))
    assert not raw.requires_grad
    assert x.grad is None


CONSTRUCTOR_ERRORS = [
    (attacks.ClipAwarePGD, {"p": 0.5}, r"p: expected a number in \[1, inf\], got 0.5"),
    (attacks.ClipAwareFGM, {"p": 0.5}, r"p: expected a number in \[1, inf\], got 0.5"),
    (attacks.LpClipAwareBIM, {"p": 0.5}, r"p: expected a number in \[1, inf\], got 0.5"),
    (attacks.ClipAwareGaussianNoise, {"p": 0}, r"p: expected a number in \(0, inf\], got 0"),
    (attacks.ClipAwareUniformNoise, {"p": "L2"}, r"p: expected a number .*, got 'L2'"),
    (attacks.ClipAwareLaplaceNoise, {"p": math.nan}, "p: expected a number .*, got nan"),
    (attacks.ClipAwarePGD, {"steps": 0}, "steps: expected an integer >= 1, got 0"),
    (attacks.ClipAwareBIM, {"steps": 2.5}, "steps: expected an integer >= 1, got 2.5"),
    (attacks.L2ClipAwarePGD, {"rel_stepsize": 0}, "rel_stepsize: expected a finite .* got 0"),
    (attacks.L2ClipAwarePGD, {"abs_stepsize": -1}, "abs_stepsize: expected a finite .* got -1"),
    (attacks.L2ClipAwarePGD, {"abs_stepsize": math.inf}, "abs_stepsize: .* got inf"),
    (attacks.L2ClipAwarePGD, {"momentum": 1}, r"momentum: .* in \[0, 1\), got 1"),
    (attacks.L2ClipAwarePGD, {"momentum": math.nan}, r"momentum: .* got nan"),
    (attacks.L2ClipAwarePGD, {"momentum": "0.5"}, r"momentum: .* got '0.5'"),
    (attacks.L2ClipAwarePGD, {"loss": "mse"}, "loss: .*dlr_targeted or a function, got 'mse'"),
    (
        attacks.L1ClipAwarePGD,
        {"sparsity": 0},
        r"sparsity: .* in \(0, 1\] or 'adaptive', got 0",
    ),
    (
        attacks.L2ClipAwarePGD,
        {"schedule": "linear"},
        "schedule: .*cosine, constant, halving, got 'linear'",
    ),
    (attacks.L2ClipAwarePGD, {"constraint": "box"}, "constraint: .*sphere, ball, got 'box'"),
    (attacks.L2ClipAwareBIM, {"keep": "first"}, "keep: .*best, last, got 'first'"),
    (attacks.L2ClipAwarePGD, {"random_start": "no"}, "random_start: .* True or False, got 'no'"),
    (attacks.L2ClipAwarePGD, {"stop_when_broken": "off"}, "stop_when_broken: .* got 'off'"),
    (attacks.L2ClipAwareGaussianNoise, {"inside": 1}, "inside: .* got 1"),
    (attacks.L2ClipAwareGaussianNoise, {"repeats": 0}, "repeats: .* >= 1, got 0"),
    (attacks.ClipAwareNoise, {"distribution": "cauchy"}, "distribution: .* got 'cauchy'"),
]


@pytest.mark.parametrize(("make", "arguments", "message"), CONSTRUCTOR_ERRORS)
def test_a_constructor_names_the_argument_and_the_value_that_it_refuses(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_a_parameter_is_checked_wherever_it_is_assigned():
    attack = attacks.L2ClipAwarePGD()
    with pytest.raises(ValueError, match="steps: expected an integer >= 1, got 0"):
        attack.steps = 0
    assert attack.steps == 40


def test_an_argument_that_the_constructor_does_not_have_is_a_type_error():
    for make, arguments in (
        (attacks.L2ClipAwarePGD, {"p": 1}),
        (attacks.L2ClipAwarePGD, {"stepsize": 1}),
        (attacks.ClipAwareFGM, {"steps": 3}),
        (attacks.ClipAwareBIM, {"random_start": True}),
    ):
        with pytest.raises(TypeError, match=next(iter(arguments))):
            make(**arguments)
    with pytest.raises(TypeError, match=r"LpClipAwarePGD.* 'p'"):
        attacks.LpClipAwarePGD()
