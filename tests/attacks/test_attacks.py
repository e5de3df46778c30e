"""Every attack on every backend with gradients: norm of each iterate, box, seeds, arguments."""

import math

import eagerpy as ep
import foolbox as fb
import numpy as np
import pytest
import torch
import torch.utils.checkpoint

import foolbox_carescale as fc
from foolbox_carescale import attacks
from foolbox_carescale.attacks import progress
from foolbox_carescale.attacks.losses import goal_of
from tests import reference
from tests.attacks import victims

ORDERS = (1, 1.5, 2, 3, math.inf)
NOISES = (
    attacks.ClipAwareGaussianNoise,
    attacks.ClipAwareUniformNoise,
    attacks.ClipAwareLaplaceNoise,
    attacks.ClipAwareSaltAndPepperNoise,
)


def row(attack, **arguments):
    parts = (f"{name}={value}" for name, value in arguments.items())
    return pytest.param(attack, arguments, id=f"{attack.__name__}({', '.join(parts)})")


GRADIENT_ROWS = [
    *(
        row(attacks.ClipAwarePGD, p=p, constraint=constraint, schedule=schedule, steps=4)
        for p in ORDERS
        for constraint in ("sphere", "ball")
        for schedule in ("cosine", "constant")
    ),
    *(
        row(attacks.ClipAwareBIM, p=p, constraint=constraint, steps=4)
        for p in ORDERS
        for constraint in ("sphere", "ball")
    ),
    *(row(attacks.ClipAwareBIM, p=p, schedule="constant", steps=4) for p in (1, 2, math.inf)),
    *(row(attacks.ClipAwareFGM, p=p) for p in ORDERS),
    row(attacks.ClipAwarePGD, p=2, abs_stepsize=0.3, momentum=0.0, keep="last", steps=4),
    *(row(attacks.ClipAwarePGD, p=p, wide_start=True, steps=4) for p in (1, 2, math.inf)),
    row(attacks.ClipAwareAPGD, p=1, steps=20, restarts=2),
    row(attacks.ClipAwarePGD, p=1, rel_stepsize=0.1, momentum=0.75, sparsity=0.2, steps=4),
    row(attacks.ClipAwarePGD, p=math.inf, random_start=False, steps=4),
    *(
        row(getattr(attacks, f"{norm}ClipAware{kind}"), **({} if kind == "FGM" else {"steps": 3}))
        for norm in ("L1", "L2", "Linf")
        for kind in ("FGM", "BIM", "PGD")
    ),
    *(
        row(kind, p=p, steps=4)
        for kind in (
            attacks.ClipAwareMomentumPGD,
            attacks.ClipAwareAdamPGD,
            attacks.ClipAwareAPGD,
            attacks.ClipAwareFrankWolfe,
        )
        for p in (1, 2, math.inf)
    ),
    row(attacks.ClipAwareAPGD, p=1, sparsity="adaptive", direction="conjugate", steps=12),
    row(attacks.ClipAwareAPGD, p=2, constraint="ball", steps=20, restarts=2),
    row(attacks.ClipAwareFrankWolfe, p=1.5, constraint="ball", steps=4),
    *(
        row(attacks.ClipAwarePGD, p=2, steps=3, loss=loss)
        for loss in ("margin", "dlr", "dlr_targeted")
    ),
    row(attacks.LpClipAwareFGM, p=1.3),
    row(attacks.LpClipAwareBIM, p=1.3, steps=3),
    row(attacks.LpClipAwarePGD, p=1.3, steps=3),
]
NOISE_ROWS = [
    *(row(noise, p=p) for noise in NOISES for p in ORDERS),
    *(
        row(getattr(attacks, f"{norm}{noise.__name__}"), repeats=2)
        for noise in NOISES
        for norm in ("L1", "L2", "Linf")
    ),
    *(row(getattr(attacks, f"Lp{noise.__name__}"), p=0.5, repeats=2) for noise in NOISES),
]
SEARCH_ROWS = [
    *(row(attacks.ClipAwareSquare, p=p, queries=8) for p in (0.5, *ORDERS)),
    *(row(getattr(attacks, f"{norm}ClipAwareSquare"), queries=1) for norm in ("L1", "L2", "Linf")),
    *(
        row(attacks.ClipAwareAutoAttack, p=p, steps=2, restarts=1, queries=3)
        for p in (1, 1.5, 2, math.inf)
    ),
    row(attacks.L2ClipAwareAutoAttack, attacks=("pgd-margin",), steps=2, restarts=2),
]
ROWS = GRADIENT_ROWS + NOISE_ROWS + SEARCH_ROWS
# one of each kind, where a property does not depend on the setting
SOME_GRADIENT = [
    row(attacks.ClipAwarePGD, p=1, steps=3),
    row(attacks.ClipAwarePGD, p=2, steps=3),
    row(attacks.ClipAwarePGD, p=3, steps=3),
    row(attacks.ClipAwarePGD, p=math.inf, steps=3, constraint="ball"),
    row(attacks.ClipAwareBIM, p=2, steps=3),
    row(attacks.ClipAwareFGM, p=2),
]
SOME = [
    *SOME_GRADIENT,
    row(attacks.ClipAwareFrankWolfe, p=2, steps=3),
    row(attacks.ClipAwareGaussianNoise, p=2, repeats=2),
    row(attacks.ClipAwareSquare, p=1, queries=5),
    row(
        attacks.ClipAwareAutoAttack,
        p=math.inf,
        steps=2,
        targets=1,
        restarts=1,
        queries=3,
        seed=None,
    ),
]

every_backend = pytest.mark.parametrize("victim", victims.WITH_GRADIENT, indirect=True)
on_torch = pytest.mark.parametrize("victim", ["torch"], indirect=True)


def iterates_of(attack, victim, criterion=None, **arguments):
    """What the attack returns, and every iterate on the way."""
    seen = []
    if isinstance(attack, attacks.ClipAwareGradientAttack):
        arguments["on_step"] = seen.append
    criterion = victim.labels if criterion is None else criterion
    return attack(victim.model, victim.x, criterion, **arguments), seen


def assert_size(victim, points, p, epsilon, *, at_most=False):
    excess = victim.norm(points, p) - epsilon
    if at_most:
        # each coordinate is rounded once more when it is added to x, which p = inf feels
        rounding = np.spacing(np.float32(max(map(abs, victim.model.bounds)))) / 2
        assert np.all(excess <= 1e-6 * epsilon + (rounding if p == math.inf else 0.0))
    else:
        assert np.all(np.abs(excess) <= 1e-5 * epsilon)
    assert victim.in_box(points)


@pytest.mark.parametrize(("make", "arguments"), ROWS)
@every_backend
def test_every_iterate_is_exactly_epsilon_away_and_inside_the_box(victim, make, arguments):
    attack = make(**arguments)
    epsilon = victim.epsilon(1.5 if attack.p == 1.3 else attack.p)
    ball = arguments.get("constraint") == "ball"
    (raw, clipped, success), seen = iterates_of(attack, victim, epsilons=epsilon)
    for iterate in seen:
        assert_size(victim, iterate.x, attack.p, epsilon, at_most=ball)
    assert_size(victim, raw, attack.p, epsilon, at_most=ball)
    assert np.array_equal(victim.numpy(raw), victim.numpy(clipped))
    assert np.array_equal(
        np.asarray(success), victim.logits(raw).argmax(1) != np.asarray(victim.labels)
    )


@pytest.mark.parametrize(("make", "arguments"), SOME)
@every_backend
def test_the_seed_of_the_framework_decides_the_outcome(victim, make, arguments):
    def outcome(seed):
        victims.seed(victim.kit.framework, seed)
        raw, _, _ = make(**arguments)(
            victim.model, victim.x, victim.labels, epsilons=victim.epsilon(arguments["p"]) / 4
        )
        return victim.numpy(raw)

    first = outcome(1)
    assert np.array_equal(first, outcome(1))
    if make not in (attacks.ClipAwareBIM, attacks.ClipAwareFGM):
        assert not np.array_equal(first, outcome(2))


@pytest.mark.parametrize("p", ORDERS)
def test_the_backends_agree(p):
    results = []
    for name in ("torch", "tensorflow", "jax"):
        victim = victims.make(name)
        raw, _, _ = attacks.ClipAwareBIM(p=p, steps=3)(
            victim.model, victim.x, victim.labels, epsilons=victim.epsilon(p)
        )
        results.append((victim.numpy(raw), victim.losses(raw)))
    for points, losses in results[1:]:
        # a sign of a gradient near 0, or a tie, may fall differently in single pixels
        assert np.mean(np.abs(points - results[0][0]) > 1e-3) < 0.02
        assert losses == pytest.approx(results[0][1], rel=1e-3)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@every_backend
def test_a_list_of_epsilons_gives_lists_and_one_epsilon_a_tensor(victim, make, arguments):
    attack, p = make(**arguments), arguments["p"]
    epsilons = [victim.epsilon(p) * part for part in (0.1, 0.5, 1)]
    raw, clipped, success = attack(victim.model, victim.x, victim.labels, epsilons=epsilons)
    assert len(raw) == len(clipped) == 3
    assert tuple(success.shape) == (3, victims.SAMPLES)
    for points, epsilon in zip(raw, epsilons, strict=True):
        ball = arguments.get("constraint") == "ball"
        assert_size(victim, points, p, epsilon, at_most=ball)
    raw, _, success = attack(victim.model, victim.x, victim.labels, epsilons=epsilons[0])
    assert tuple(raw.shape) == tuple(victim.x.shape)
    assert tuple(success.shape) == (victims.SAMPLES,)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@every_backend
def test_each_sample_has_its_own_epsilon(victim, make, arguments):
    p = arguments["p"]
    epsilon = victim.epsilon(p) * np.linspace(0, 1, victims.SAMPLES).astype(np.float32)
    ball = arguments.get("constraint") == "ball"
    for form in (victim.kit.tensor(epsilon), epsilon):
        raw = make(**arguments).run(victim.model, victim.x, victim.labels, epsilon=form)
        assert_size(victim, raw, p, epsilon.astype(float), at_most=ball)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@every_backend
def test_epsilon_zero_returns_the_inputs(victim, make, arguments):
    raw, clipped, success = make(**arguments)(victim.model, victim.x, victim.labels, epsilons=0.0)
    for points in (raw, clipped):
        assert np.array_equal(victim.numpy(points), victim.numpy(victim.x))
    assert not np.asarray(success).any()


@pytest.mark.parametrize(("make", "arguments"), SOME)
@every_backend
def test_an_epsilon_out_of_reach_goes_as_far_as_the_box_allows(victim, make, arguments):
    p = arguments["p"]
    far = 10 * victim.span * np.prod(victims.SHAPE)
    (raw, clipped, _), seen = iterates_of(make(**arguments), victim, epsilons=far)
    assert np.array_equal(victim.numpy(raw), victim.numpy(clipped))
    x, bounds = victim.numpy(victim.x), victim.model.bounds
    for points in [iterate.x for iterate in seen] or [raw]:
        assert victim.in_box(points)
        moved = victim.numpy(points) - x
        if arguments.get("constraint") == "ball":  # its momentum stays inside the box
            assert np.isfinite(moved).all()
            continue
        reachable = reference.reachable_norm(x, moved, p, *bounds)
        assert reachable.min() > 0
        assert victim.norm(points, p) == pytest.approx(reachable, rel=1e-5)


@pytest.mark.parametrize("epsilon", [-1.0, math.nan, math.inf, np.float32(-1), "torch"], ids=repr)
@pytest.mark.parametrize(("make", "arguments"), SOME)
@on_torch
def test_a_bad_epsilon_is_refused(victim, make, arguments, epsilon):
    epsilon = torch.tensor(-1.0) if isinstance(epsilon, str) else epsilon
    for epsilons in (epsilon, [0.1, epsilon]):
        with pytest.raises(ValueError, match=r"^epsilon: expected.*finite number.*>= 0, got"):
            make(**arguments)(victim.model, victim.x, victim.labels, epsilons=epsilons)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@every_backend
def test_the_tensor_comes_back_in_the_type_that_it_came_in(victim, make, arguments):
    attack, before = make(**arguments), victim.numpy(victim.x)
    call = {"epsilons": victim.epsilon(arguments["p"])}
    raw, clipped, success = attack(victim.model, victim.x, victim.labels, **call)
    for tensor in (raw, clipped):
        assert victim.kit.is_own(tensor)
        assert victim.kit.dtype_of(tensor) == "float32"
    assert victim.kit.is_own(success)
    wrapped = attack(victim.model, ep.astensor(victim.x), ep.astensor(victim.labels), **call)
    assert all(isinstance(tensor, ep.Tensor) for tensor in wrapped)
    assert np.array_equal(victim.numpy(victim.x), before), "the inputs were modified"


@pytest.mark.parametrize(("make", "arguments"), SOME_GRADIENT)
@every_backend
def test_on_step_gets_native_tensors_numbered_in_order(victim, make, arguments):
    attack = make(**arguments)
    _, seen = iterates_of(attack, victim, epsilons=victim.epsilon(attack.p))
    first = 0 if attack.random_start else 1
    assert [iterate.step for iterate in seen] == list(range(first, attack.steps + 1))
    assert all(victim.kit.is_own(iterate.x) for iterate in seen)


@on_torch
def test_the_cosine_schedule_falls_from_two_epsilon_and_the_constant_one_stays(victim):
    def stepsizes(**arguments):
        _, seen = iterates_of(attacks.ClipAwareBIM(steps=5, **arguments), victim, epsilons=0.5)
        return [iterate.stepsize for iterate in seen]

    falling = stepsizes()
    assert falling[0] == 1.0
    assert np.all(np.diff(falling) < 0)
    assert falling[-1] > 0.005 * 0.5
    assert stepsizes(schedule="constant") == pytest.approx([2.5 / 5 * 0.5] * 5)
    assert stepsizes(schedule="constant", rel_stepsize=0.1) == pytest.approx([0.05] * 5)
    given = stepsizes(schedule="constant", rel_stepsize=0.1, abs_stepsize=0.3)
    assert given == pytest.approx([0.3] * 5)
    given = stepsizes(abs_stepsize=0.3)
    assert given[0] == pytest.approx(0.3)
    last = 0.005 * 0.3
    assert given[-1] == pytest.approx(last + (0.3 - last) * (1 + math.cos(math.pi * 4 / 5)) / 2)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@every_backend
def test_a_targeted_attack_reaches_its_target(victim, make, arguments):
    labels = np.asarray(victim.labels)
    target = (labels + 1) % victims.CLASSES
    criterion = fb.TargetedMisclassification(ep.from_numpy(ep.astensor(victim.labels), target).raw)
    p, epsilon = arguments["p"], victim.epsilon(arguments["p"]) * 2
    attack = make(**arguments)
    if isinstance(attack, attacks.ClipAwarePGD):
        attack.steps = 20
    (raw, clipped, success), seen = iterates_of(attack, victim, criterion, epsilons=epsilon)
    ball = arguments.get("constraint") == "ball"
    for points in [raw, *(iterate.x for iterate in seen)]:
        assert_size(victim, points, p, epsilon, at_most=ball)
    assert np.array_equal(np.asarray(success), victim.logits(clipped).argmax(1) == target)
    if seen:
        assert np.all(victim.losses(raw, target) < victim.losses(victim.x, target))
    if isinstance(attack, attacks.ClipAwarePGD):
        assert np.asarray(success).all()


@pytest.mark.parametrize(("make", "arguments"), SOME)
@every_backend
def test_repeat_keeps_size_and_box_and_never_loses_a_success(victim, make, arguments):
    p, epsilon = arguments["p"], victim.epsilon(arguments["p"]) / 4

    def successes(attack):
        victims.seed(victim.kit.framework)
        raw, clipped, success = attack(victim.model, victim.x, victim.labels, epsilons=[epsilon])
        for points in (raw[0], clipped[0]):
            ball = arguments.get("constraint") == "ball"
            assert_size(victim, points, p, epsilon, at_most=ball)
        return np.asarray(success)

    once, thrice = successes(make(**arguments)), successes(make(**arguments).repeat(3))
    assert np.all(thrice >= once)


@on_torch
def test_repeat_refuses_inputs_outside_the_bounds_like_the_attack_itself(victim):
    attack = attacks.L2ClipAwarePGD(steps=1).repeat(2)
    with pytest.raises(ValueError, match="outside the bounds"):
        attack(victim.model, victim.x + 1, victim.labels, epsilons=1.0)
    raw, _, _ = attack(victim.model, victim.x + 1e-7, victim.labels, epsilons=1.0)
    assert victim.in_box(raw)
    assert isinstance(attack.repeat(3), type(attack))
    assert attack.repeat(3).times == 6


@pytest.mark.parametrize(("make", "arguments"), SOME_GRADIENT)
@on_torch
def test_a_criterion_without_classes_is_refused_by_name(victim, make, arguments):
    class Confident(fb.criteria.Criterion):
        def __repr__(self):
            return "Confident()"

        def __call__(self, perturbed, outputs):
            return outputs.max(axis=-1) > 0

    with pytest.raises(ValueError, match=r"criterion: expected .* got Confident\(\)"):
        make(**arguments)(victim.model, victim.x, Confident(), epsilons=1.0)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@every_backend
def test_labels_that_are_not_one_for_each_input_are_refused_by_name(victim, make, arguments):
    attack, n = make(**arguments), victims.SAMPLES
    targets = fb.criteria.TargetedMisclassification(victim.labels[1:])
    for wrong in (victim.labels[1:], targets):
        message = rf"criterion: expected one class for each of {n} inputs, got shape \({n - 1},\)"
        with pytest.raises(ValueError, match=message):
            attack(victim.model, victim.x, wrong, epsilons=1.0)
        with pytest.raises(ValueError, match=message):
            attacks.MinimalEpsilon(attack).run(victim.model, victim.x, wrong)
    with pytest.raises(ValueError, match=rf"criterion: expected labels .* \({n},\), .* got list"):
        attack(victim.model, victim.x, [0] * n, epsilons=1.0)


@on_torch
def test_noise_takes_any_criterion(victim):
    class Anything(fb.criteria.Criterion):
        def __repr__(self):
            return "Anything()"

        def __call__(self, perturbed, outputs):
            return outputs.max(axis=-1) > -math.inf

    noise = attacks.L2ClipAwareGaussianNoise(repeats=2)
    _, _, success = noise(victim.model, victim.x, Anything(), epsilons=1.0)
    assert success.all()


@pytest.mark.parametrize(("make", "arguments"), SOME)
@on_torch
def test_an_unknown_argument_of_the_call_is_a_type_error_with_its_name(victim, make, arguments):
    with pytest.raises(TypeError, match="early_stop"):
        make(**arguments)(victim.model, victim.x, victim.labels, epsilons=1.0, early_stop=1)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@every_backend
def test_inputs_outside_the_bounds_are_refused_with_the_worst_value(victim, make, arguments):
    x = victim.numpy(victim.x)
    x[2, 0, 0, 0] = 4.5
    with pytest.raises(ValueError, match=r"x: 1 of 768 values lie outside.* 4\.5 in sample 2"):
        make(**arguments)(victim.model, victim.kit.tensor(x), victim.labels, epsilons=1.0)
    x[2, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"x: 1 of 768 values are NaN.* sample 2"):
        make(**arguments)(victim.model, victim.kit.tensor(x), victim.labels, epsilons=1.0)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@every_backend
def test_inputs_outside_the_bounds_by_rounding_count_as_on_them(victim, make, arguments):
    lower, upper = victim.model.bounds
    x = victim.numpy(victim.x)
    excess = np.where(x == upper, 3e-7, np.where(x == lower, -3e-7, 0.0)) * abs(upper)
    outside = victim.kit.tensor(x + excess)
    assert not victim.in_box(outside)
    p = arguments["p"]
    raw, _, _ = make(**arguments)(victim.model, outside, victim.labels, epsilons=victim.epsilon(p))
    ball = arguments.get("constraint") == "ball"
    assert_size(victim, raw, p, victim.epsilon(p), at_most=ball)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@pytest.mark.parametrize("bounds", [(-2.1, 2.64), (-0.3, 0.7), (0, 255)], ids=repr)
def test_bounds_that_float32_cannot_hold_are_kept_as_it_rounds_them(make, arguments, bounds):
    lower, upper = (np.float32(bound) for bound in bounds)
    x = np.clip(victims.images(bounds), lower, upper)
    assert x.min() == lower
    assert x.max() == upper
    centre = torch.tensor(x).reshape(len(x), -1)
    # small, for a loss that is 0 has no gradient
    weights = torch.arange(3 * 192).reshape(192, 3).sin() / float(upper - lower) / 10
    victim = victims.build(
        "torch", lambda t: (t.reshape(len(t), -1) - centre.mean(0)) @ weights, x, bounds=bounds
    )
    p = arguments["p"]
    raw, clipped, _ = make(**arguments)(
        victim.model, victim.x, victim.labels, epsilons=victim.epsilon(p)
    )
    for points in (raw, clipped):
        values = victim.numpy(points).astype(np.float32)
        assert values.min() >= lower
        assert values.max() <= upper
        error = victim.norm(points, p) / victim.epsilon(p) - 1
        assert np.abs(error).max() <= 1e-5


@pytest.mark.parametrize(("make", "arguments"), SOME)
def test_half_precision_is_exact_up_to_the_rounding_of_the_points(make, arguments):
    weights = torch.arange(3 * 192).reshape(192, 3).sin().half()
    x = victims.images().astype(np.float16)
    victim = victims.build(
        "torch", lambda t: (t.reshape(len(t), -1) - 0.5) @ weights, x, dtype="float16"
    )
    p, epsilon = arguments["p"], victim.epsilon(arguments["p"])
    (raw, clipped, _), seen = iterates_of(make(**arguments), victim, epsilons=epsilon)
    assert raw.dtype == clipped.dtype == torch.float16
    # by the triangle inequality: half a unit in the last place below 1, for every coordinate
    rounding = 2.0**-12 * (1 if p == math.inf else 192 ** (1 / p))
    for points in [raw, clipped, *(iterate.x for iterate in seen)]:
        assert victim.in_box(points)
        assert np.abs(victim.norm(points, p) - epsilon).max() <= rounding
    assert torch.equal(raw, clipped)


@pytest.mark.parametrize(("make", "arguments"), SOME)
@on_torch
def test_inputs_that_require_a_gradient_work_and_keep_none(victim, make, arguments):
    x = victim.x.clone().requires_grad_()
    raw, _, _ = make(**arguments)(
        victim.model, x, victim.labels, epsilons=victim.epsilon(arguments["p"])
    )
    assert not raw.requires_grad
    assert x.grad is None


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("direction", ["gradient", "momentum", "adam", "conjugate"])
def test_a_gradient_that_is_nan_does_not_reach_the_result(direction, p, keep):
    def forward(t):
        flat = t.reshape(len(t), -1)
        # the root of 0 has an infinite slope, times 0: NaN
        broken = torch.sqrt(flat[:, :50] * 0).sum(1)
        return torch.stack([flat[:, 50:].sum(1) - broken, flat[:, 100:].sum(1) * 3 - 60], 1)

    victim = victims.build("torch", forward, victims.images())
    x = victim.x.clone().requires_grad_()
    victim.model(x)[:, 0].sum().backward()
    assert x.grad.isnan().any()
    (raw, clipped, _), seen = iterates_of(
        attacks.ClipAwarePGD(p=p, steps=4, keep=keep, direction=direction),
        victim,
        epsilons=victim.epsilon(p),
    )
    for points in [raw, clipped, *(iterate.x for iterate in seen)]:
        assert_size(victim, points, p, victim.epsilon(p))


def convolution(**options):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5)]
    if options:
        layers[0] = Checkpointed(layers[0], **options)
    return torch.nn.Sequential(*layers).eval()


class Checkpointed(torch.nn.Module):
    def __init__(self, inner, **options):
        super().__init__()
        self.inner, self.options = inner, options

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.inner, x, **self.options)


@pytest.mark.parametrize("make", [attacks.L2ClipAwarePGD, attacks.LinfClipAwareFGM])
def test_parameters_get_no_gradient_and_keep_what_they_have(make):
    network = convolution()
    held = [torch.full_like(parameter, 7) for parameter in network.parameters()]
    for parameter, gradient in zip(network.parameters(), held, strict=True):
        parameter.grad = gradient.clone()
    model = fb.PyTorchModel(network, bounds=(0, 1))
    make()(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), epsilons=0.1)
    for parameter, gradient in zip(network.parameters(), held, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, gradient)


def test_attacks_work_where_gradients_are_switched_off():
    model = fb.PyTorchModel(convolution(), bounds=(0, 1))
    x, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    attack = attacks.L2ClipAwareBIM(steps=3)
    expected, _, _ = attack(model, x, labels, epsilons=0.5)
    with torch.no_grad():
        found, _, _ = attack(model, x, labels, epsilons=0.5)
    assert torch.equal(found, expected)


# PyTorch's, where the model is asked for logits alone
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_models_that_checkpoint_activations_are_attacked_alike(reentrant):
    x, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    with torch.no_grad():
        found = [
            attacks.L2ClipAwareBIM(steps=3)(
                fb.PyTorchModel(network, bounds=(0, 1)), x, labels, epsilons=0.5
            )[0]
            for network in (convolution(), convolution(use_reentrant=reentrant))
        ]
    torch.testing.assert_close(*found)


def test_sparsity_suits_the_model_that_is_attacked():
    """Where one element decides, few are moved; where only many do, many."""
    x = torch.full((1, 1000), 0.5)

    weights = 1 / torch.arange(1.0, 1001.0)

    def few(t):
        return torch.stack([t[:, 0] * 0, (weights * (t - 0.5)).sum(1) - 0.5], 1)

    def many(t):  # no element counts further than 0.02 from where it was
        flat = weights**0.1 * (t - 0.5).clamp(-0.02, 0.02)
        return torch.stack([t[:, 0] * 0, flat.sum(1) - 0.5], 1)

    moves = []
    for function in (few, many):
        model, criterion = foolbox_model(function), fb.criteria.Misclassification(torch.tensor([0]))
        ascent = progress.Ascent(model, ep.astensor(x), criterion, 2.0)
        goal = goal_of(criterion, "margin")
        _, _, gradient = ascent.evaluate(ascent.x0, goal, gradient=True)
        progress.Sparsity("auto", 30, ascent).probe(ascent.x0, gradient, goal)
        moves.append(ascent.move.item())
    assert moves[0] > 2 * moves[1]


def foolbox_model(function):
    return fb.PyTorchModel(Function(function), bounds=(0, 1))


class Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x):
        return self.function(x)


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
    (
        attacks.L1ClipAwarePGD,
        {"sparsity": 0},
        r"sparsity: .* in \(0, 1\], 'auto' or 'adaptive', got 0",
    ),
    (
        attacks.L2ClipAwarePGD,
        {"schedule": "linear"},
        "schedule: .*cosine, constant, halving, got 'linear'",
    ),
    (attacks.L2ClipAwarePGD, {"constraint": "box"}, "constraint: .*sphere, ball, got 'box'"),
    (attacks.L2ClipAwareBIM, {"keep": "first"}, "keep: .*best, last, got 'first'"),
    (attacks.L2ClipAwareGaussianNoise, {"repeats": 0}, "repeats: .* >= 1, got 0"),
    (attacks.ClipAwareNoise, {"distribution": "cauchy"}, "distribution: .* got 'cauchy'"),
]


@pytest.mark.parametrize(("make", "arguments", "message"), CONSTRUCTOR_ERRORS)
def test_a_constructor_names_the_argument_and_the_value_that_it_refuses(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


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


# ---------------------------------------------------------------------------------- strength

LEVELS = [(1, 8.0), (2, 0.5), (math.inf, 0.03)]
FOOLBOX_PGD = {1: fb.attacks.L1PGD, 2: fb.attacks.L2PGD, math.inf: fb.attacks.LinfPGD}


@pytest.mark.parametrize(("p", "epsilon"), LEVELS)
def test_pgd_is_stronger_than_foolbox_s_at_equal_steps(digits, p, epsilon):
    def strength(attack):
        torch.manual_seed(0)
        _, clipped, success = attack(digits.model, digits.x, digits.labels, epsilons=epsilon)
        return 1 - success.float().mean().item(), digits.losses(clipped).mean()

    robust, loss = strength(attacks.ClipAwarePGD(p=p, steps=40))
    their_robust, their_loss = strength(FOOLBOX_PGD[p](steps=40))
    assert 0 < their_robust < 1, "the level tells nothing"
    assert robust <= their_robust
    assert loss > their_loss


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("bounds", [(0, 1), (-1, 3)])
def test_fgm_gains_all_that_any_step_in_ball_and_box_can_gain(bounds, p):
    victim, weights = victims.linear(bounds=bounds)
    epsilon = victim.epsilon(p)
    raw, _, _ = attacks.ClipAwareFGM(p=p)(victim.model, victim.x, victim.labels, epsilons=epsilon)
    g = loss_direction(victim, weights)
    gain = (g * (victim.numpy(raw) - victim.numpy(victim.x)).reshape(g.shape)).sum(1)
    room = reference.room(victim.x, g.reshape(victim.x.shape), *bounds)
    for row_gain, row_g, row_room in zip(gain, np.abs(g), room, strict=True):
        bound = best_gain(row_g, row_room, epsilon, p)
        assert row_gain == pytest.approx(bound, rel=1e-5)


@pytest.mark.parametrize("constraint", ["sphere", "ball"])
@pytest.mark.parametrize("p", ORDERS)
def test_pgd_on_a_linear_model_reaches_the_closed_form_optimum(p, constraint):
    victim, weights = victims.linear()
    epsilon = victim.epsilon(p)
    g = loss_direction(victim, weights)
    direction = torch.tensor(g, dtype=torch.float32).reshape(victim.x.shape)
    optimum = fc.steepest_step(victim.x, direction, epsilon, p=p)
    start = victim.numpy(victim.x)

    def gain(points):
        return (g * (victim.numpy(points) - start).reshape(g.shape)).sum(1)

    # p = 1: its optimum is a corner that steps of few coordinates reach, 4 of 192 here; the
    # default's wider steps suit networks, and stay 18% below on a linear model; half of the steps
    # are those of the wide start
    victims.seed("torch")
    attack = attacks.ClipAwarePGD(p=p, constraint=constraint, sparsity=0.02, steps=80)
    raw, _, _ = attack(victim.model, victim.x, victim.labels, epsilons=epsilon)
    short = {1: 0.05, 3: 2e-3}.get(p, 1e-3)
    assert np.all(gain(raw) >= gain(optimum) * (1 - short))
    assert np.all(gain(raw) <= gain(optimum) * (1 + 1e-5))


@pytest.mark.parametrize("p", ORDERS)
@every_backend
def test_the_best_iterate_is_adversarial_first_and_then_of_highest_loss(victim, p):
    def run(keep):
        victims.seed(victim.kit.framework)
        return iterates_of(
            attacks.ClipAwarePGD(p=p, steps=6, keep=keep, schedule="constant"),
            victim,
            epsilons=victim.epsilon(p) / 10,
        )

    (best, _, _), seen = run("best")
    (last, _, _), _ = run("last")
    labels = np.asarray(victim.labels)
    found = np.stack([victim.logits(i.x).argmax(1) != labels for i in seen])
    losses = np.stack([victim.losses(i.x) for i in seen])
    ranked = np.where(found == found.any(0), losses, -math.inf).max(0)
    assert victim.losses(best) == pytest.approx(ranked, rel=1e-5)
    assert np.array_equal(victim.numpy(last), victim.numpy(seen[-1].x))
    assert np.all(victim.losses(best) >= losses[-1] * (1 - 1e-5))


@pytest.mark.parametrize(("width", "best_step"), [(0.15, 6), (0.05, 5)])
def test_an_adversarial_iterate_is_kept_over_one_of_higher_loss(width, best_step):
    def forward(t):
        s = t.reshape(len(t), -1)[:, 0]
        own = 0.6 - 0.4 * s  # the loss rises all the way
        other = (1 - own) * (0.05 + 0.9 * torch.exp(-(((s - 0.5) / width) ** 2)))
        rest = ((1 - own - other) / 8)[:, None].expand(-1, 8)
        return torch.log(torch.cat([own[:, None], other[:, None], rest], 1))

    victim = victims.build("torch", forward, np.zeros((1, 1, 1, 1), np.float32))
    attack = attacks.ClipAwareBIM(
        p=math.inf, steps=10, schedule="constant", rel_stepsize=0.1, momentum=0, constraint="ball"
    )
    (raw, _, success), seen = iterates_of(attack, victim, epsilons=1.0)
    path = [iterate.x.item() for iterate in seen]
    assert path == pytest.approx(np.arange(1, 11) / 10, abs=1e-5)
    end = seen[-1].x
    assert victim.logits(end).argmax() == 0
    assert success.all()
    assert victim.losses(raw) < victim.losses(end)
    assert raw.item() == path[best_step - 1]


@every_backend
def test_a_wide_start_takes_its_steps_from_the_same_budget_and_reports_no_larger_ball(victim):
    model = attacks.CountingModel(victim.model)
    seen = []
    attack = attacks.ClipAwarePGD(p=1, steps=8, wide_start=True)
    attack(model, victim.x, victim.labels, epsilons=victim.epsilon(1), on_step=seen.append)
    assert model.backwards == 8 * victims.SAMPLES
    # the start that two balls of two steps each lead to, and the four steps that are left
    assert [iterate.step for iterate in seen] == [0, 1, 2, 3, 4]
    assert [iterate.gradients for iterate in seen] == [5, 6, 7, 8, 8]
    for iterate in seen:
        assert_size(victim, iterate.x, 1, victim.epsilon(1))
    assert seen[1].stepsize == pytest.approx(victim.epsilon(1))


def test_a_wide_start_is_the_default_of_long_runs_for_p_1_only(digits):
    def first_step(p, steps, **arguments):
        seen = []
        attacks.ClipAwarePGD(p=p, steps=steps, **arguments).run(
            digits.model, digits.x[:1], digits.labels[:1], epsilon=1.0, on_step=seen.append
        )
        return len(seen) - 1

    assert first_step(1, 20) == 10
    assert first_step(1, 20, wide_start=False) == 20
    assert first_step(1, 19) == 19
    assert first_step(2, 20) == 20


@on_torch
def test_the_default_direction_is_momentum_for_steps_of_signs_and_the_gradient_else(victim):
    def outcome(p, **arguments):
        victims.seed("torch")
        attack = attacks.ClipAwarePGD(p=p, steps=5, **arguments)
        return victim.numpy(
            attack.run(victim.model, victim.x, victim.labels, epsilon=victim.epsilon(p))
        )

    for p in (1, math.inf):
        assert np.array_equal(outcome(p), outcome(p, direction="momentum"))
        assert not np.array_equal(outcome(p), outcome(p, direction="gradient"))
    assert np.array_equal(outcome(2), outcome(2, direction="gradient"))


def loss_direction(victim, weights):
    """Of two classes: the other one's weights minus the label's, (N, n) in float64."""
    difference = (weights[1] - weights[0]).astype(float)
    return np.where(np.asarray(victim.labels)[:, None] == 0, difference, -difference)


def best_gain(g, room, epsilon, p):
    """max <g, t> over 0 <= t <= room, ||t||_p <= epsilon, for g >= 0: SciPy on the dual."""
    from scipy import optimize

    if p == math.inf:
        return (g * np.minimum(room, epsilon)).sum()

    def dual(log_multiplier):
        m = math.exp(log_multiplier)
        if p == 1:
            t = np.where(g > m, room, 0.0)
        else:
            t = np.minimum(room, (g / (p * m)) ** (1 / (p - 1)))
        return m * epsilon**p + (g * t - m * t**p).sum()

    found = optimize.minimize_scalar(dual, bounds=(-20, 20), options={"xatol": 1e-10})
    return found.fun
