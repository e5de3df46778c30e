"""Noise at exactly epsilon: size, repeats, distributions."""

import inspect
import math

import eagerpy as ep
import foolbox as fb
import numpy as np
import pytest

import foolbox_carescale as fc
from foolbox_carescale import attacks
from foolbox_carescale.core import norms
from tests import backends
from tests.attacks import model_cases

NOISES = (
    attacks.ClipAwareGaussianNoise,
    attacks.ClipAwareUniformNoise,
    attacks.ClipAwareLaplaceNoise,
)
# mean of |z|, and kurtosis, of a variable with variance 1
MOMENTS = {
    attacks.ClipAwareGaussianNoise: (math.sqrt(2 / math.pi), 3.0),
    attacks.ClipAwareUniformNoise: (math.sqrt(3) / 2, 1.8),
    attacks.ClipAwareLaplaceNoise: (math.sqrt(0.5), 6.0),
}
# variance of z**4, of which the kurtosis is the mean: E z**8 - kurtosis**2
SPREAD = {
    attacks.ClipAwareGaussianNoise: 105 - 9,
    attacks.ClipAwareUniformNoise: 9 - 1.8**2,
    attacks.ClipAwareLaplaceNoise: 40320 / 16 - 36,
}
every_backend = pytest.mark.parametrize("case", model_cases.EVERY, indirect=True)


@backends.cover(
    "case",
    model_cases.EVERY,
    make=[*NOISES, attacks.ClipAwareSaltAndPepperNoise],
    p=[0.5, 1, 2, math.inf],
)
def test_noise_is_exactly_epsilon_when_most_pixels_sit_on_the_bounds(case, make, p):
    lower, upper = case.model.bounds
    x = model_cases.images((lower, upper), on_bounds=0.9)
    assert np.mean((x == lower) | (x == upper)) > 0.85
    x = case.backend.tensor(x)
    epsilon = case.epsilon(p)
    raw, clipped, _ = make(p=p)(case.model, x, case.labels, epsilons=epsilon)
    size = model_cases.reference.norm(case.numpy(raw) - case.numpy(x), p)
    # for p < 1 the rounding of x + noise counts most in the smallest coordinates
    assert size == pytest.approx(epsilon, rel=1e-4 if p < 1 else 1e-5)
    assert case.in_box(raw)
    assert np.array_equal(case.numpy(raw), case.numpy(clipped))


@pytest.mark.parametrize("case", ["numpy", "torch"], indirect=True)
def test_foolbox_falls_short_where_ours_is_exact(case):
    x = case.backend.tensor(model_cases.images(on_bounds=0.9))

    def size(attack):
        raw, _, _ = attack(case.model, x, case.labels, epsilons=2.0)
        return model_cases.reference.norm(case.numpy(raw) - case.numpy(x), 2)

    assert np.all(size(fb.attacks.L2AdditiveGaussianNoiseAttack()) < 0.95 * 2)
    assert size(attacks.L2ClipAwareGaussianNoise()) == pytest.approx(2, rel=1e-5)


class Scripted:
    """A NumPy model that is fooled from the k-th call on, k by sample as the script says."""

    def __init__(self, fooled_from):
        self.fooled_from, self.seen = np.asarray(fooled_from), []

    def __call__(self, x):
        self.seen.append(x.copy())
        fooled = self.fooled_from <= len(self.seen)
        return np.stack([~fooled, fooled], 1).astype(np.float32)


@pytest.mark.parametrize("make", NOISES)
def test_each_sample_keeps_the_first_noise_that_fools_the_model(make):
    script = Scripted([3, 1, 99, 2])
    x = model_cases.images()
    model_cases.seed("numpy")
    raw = make(repeats=4).run(
        fb.NumPyModel(script, bounds=(0, 1)), x, np.zeros(4, np.int64), epsilon=1.5
    )
    assert len(script.seen) == 4
    assert len({seen.tobytes() for seen in script.seen}) == 4, "the same noise again"
    # sample 2 is never fooled and keeps the first noise of all
    for sample, call in enumerate([3, 1, 1, 2]):
        assert np.array_equal(raw[sample], script.seen[call - 1][sample])
    assert model_cases.reference.norm(raw - x, 2) == pytest.approx(1.5, rel=1e-5)


def test_repeats_stop_when_every_sample_is_fooled():
    script = Scripted([2, 1, 1, 2])
    labels = np.zeros(4, np.int64)
    model = fb.NumPyModel(script, bounds=(0, 1))
    attacks.L2ClipAwareGaussianNoise(repeats=50).run(
        model, model_cases.images(), labels, epsilon=1.0
    )
    assert len(script.seen) == 2


def test_one_repeat_asks_the_model_nothing():
    script = Scripted([1])
    model = fb.NumPyModel(script, bounds=(0, 1))
    attacks.L2ClipAwareGaussianNoise().run(
        model, model_cases.images(), np.zeros(4, np.int64), epsilon=1.0
    )
    assert script.seen == []


def test_labels_are_needed_where_noise_is_repeated_and_only_there():
    model = fb.NumPyModel(Scripted([1]), bounds=(0, 1))
    x = model_cases.images()
    raw = attacks.L2ClipAwareGaussianNoise().run(model, x, epsilon=1.0)
    assert model_cases.reference.norm(raw - x, 2) == pytest.approx(1.0, rel=1e-5)
    with pytest.raises(ValueError, match=r"criterion: is missing, and repeats=3 .* the labels"):
        attacks.L2ClipAwareGaussianNoise(repeats=3).run(model, x, epsilon=1.0)


@pytest.mark.parametrize("case", ["torch"], indirect=True)
def test_more_repeats_fool_the_model_more_often(case):
    def rate(repeats):
        model_cases.seed("torch")
        attack = attacks.L2ClipAwareGaussianNoise(repeats=repeats)
        _, _, success = attack(case.model, case.x, case.labels, epsilons=1.0)
        return success.float().mean()

    assert rate(50) > rate(1)


@backends.cover("case", model_cases.EVERY, make=NOISES)
def test_the_noise_has_the_moments_of_its_distribution(case, make):
    # far from the bounds nothing is clipped, and rescaling changes no ratio of moments
    n = 200_000
    x = case.backend.tensor(np.full((1, n), 0.5))
    model = case.model
    raw = make(p=2).run(model, ep.astensor(x), case.labels[:1], epsilon=1.0)
    z = (case.numpy(raw) - 0.5).ravel()
    z /= np.sqrt(np.mean(z**2))
    magnitude, kurtosis = MOMENTS[make]
    # five standard errors: one false alarm in two million seeds
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(np.abs(z).mean() - magnitude) < 5 * math.sqrt((1 - magnitude**2) / n)
    assert abs((z**4).mean() - kurtosis) < 5 * math.sqrt(SPREAD[make] / n)


@backends.cover("case", model_cases.EVERY, distribution=["gaussian", "uniform", "laplace"])
def test_samples_are_finite_fresh_and_of_the_dtype_of_the_input(case, distribution):
    for dtype in ("float16", "float32"):
        backend = model_cases.backends.Backend(case.backend.framework, dtype)
        like = ep.astensor(backend.tensor(np.zeros((4, 5000))))
        first, second = norms.sample(like, distribution), norms.sample(like, distribution)
        assert backend.dtype_of(first.raw) == dtype
        assert np.isfinite(backend.numpy(first.raw)).all()
        assert not np.array_equal(backend.numpy(first.raw), backend.numpy(second.raw))
        rows = backend.numpy(first.raw)
        assert not np.array_equal(rows[0], rows[1])


def test_uniform_noise_in_linf_is_the_flat_noise_that_users_know():
    """p = inf: eta is epsilon over the largest element that can move by epsilon."""
    model_cases.seed("numpy")
    x = np.full((1, 3, 8, 8), 0.5, np.float32)
    model = fb.NumPyModel(lambda x: x.reshape(len(x), -1)[:, :2], bounds=(0, 1))
    raw = attacks.LinfClipAwareUniformNoise().run(model, x, np.zeros(1, np.int64), epsilon=0.1)
    moved = np.abs(raw - x)
    assert moved.max() == pytest.approx(0.1, rel=1e-6)
    assert 0.04 < moved.mean() < 0.06


def test_noise_subclasses_share_one_run():
    for make in (*NOISES, attacks.ClipAwareSaltAndPepperNoise):
        assert issubclass(make, attacks.ClipAwareNoise)
        assert "run" not in vars(make)
        assert list(inspect.signature(make).parameters) == ["p", "repeats", "inside"]
    laplace = attacks.ClipAwareNoise(p=1, distribution="laplace")
    x = model_cases.images()
    model = fb.NumPyModel(lambda x: x.reshape(len(x), -1)[:, :2], bounds=(0, 1))

    def run(attack):
        model_cases.seed("numpy")
        return attack.run(model, x, np.zeros(4, np.int64), epsilon=3.0)

    same = run(attacks.L1ClipAwareLaplaceNoise())
    assert np.array_equal(run(laplace), same)
    model_cases.seed("numpy")
    noise = norms.sample(ep.astensor(x), "laplace").raw
    assert np.array_equal(fc.perturb(x, noise, 3.0, p=1), same)


@backends.cover(
    "case",
    model_cases.EVERY,
    distribution=["signs", "salt_and_pepper", "generalized"],
    p=[0.5, 1, 1.5, 2, 3, math.inf],
)
def test_the_other_distributions_are_exactly_epsilon_long_too(case, distribution, p):
    epsilon = case.epsilon(p)
    noise = attacks.ClipAwareNoise(p=p, distribution=distribution)
    raw, _, _ = noise(case.model, case.x, case.labels, epsilons=epsilon)
    assert case.norm(raw, p) == pytest.approx(epsilon, rel=1e-4 if p < 1 else 1e-5)
    assert case.in_box(raw)


@backends.cover("case", model_cases.EVERY, p=[0.5, 1, 1.5, 2])
def test_salt_and_pepper_moves_no_element_more_than_it_needs(case, p):
    noise = attacks.ClipAwareSaltAndPepperNoise(p=p)
    part = 0.5
    raw = noise.run(case.model, case.x, case.labels, epsilon=part * case.epsilon(p))
    lower, upper = case.model.bounds
    x, y = case.numpy(case.x), case.numpy(raw)
    moved = y != x
    rooms = np.where(moved, np.where(y > x, upper - x, x - lower), 0).reshape(len(x), -1) ** p
    # with the bounds of one element less, epsilon is out of reach
    assert np.all(rooms.sum(1) - rooms.max(1) < (part * case.epsilon(p)) ** p)
    dense = attacks.ClipAwareNoise(p=p, distribution="signs")
    raw = dense.run(case.model, case.x, case.labels, epsilon=part * case.epsilon(p))
    assert (case.numpy(raw) != x).sum() > 2 * moved.sum()


def noise_in_the_middle(n, samples, **arguments):
    """Perturbations that no bound cuts off, (samples, n), at epsilon 0.4."""
    model_cases.seed("numpy")
    x = np.full((samples, n), 0.5)
    model = fb.NumPyModel(lambda x: x[:, :2], bounds=(0, 1))
    attack = attacks.ClipAwareNoise(**arguments)
    return attack.run(model, x, np.zeros(samples, np.int64), epsilon=0.4) - x


@pytest.mark.parametrize("p", [0.7, 1, 2, 3])
def test_inside_the_plain_ball_generalized_noise_is_uniform(p):
    """n = 2: the share of points in a smaller ball, and in the diamond that the ball contains."""
    n, samples = 2, 40_000
    moved = noise_in_the_middle(n, samples, p=p, distribution="generalized", inside=True) / 0.4
    norms_ = model_cases.reference.norm(moved, p)
    assert norms_.max() <= 1 + 1e-9
    for radius in (0.3, 0.7):
        expected = radius**n
        error = 5 * math.sqrt(expected * (1 - expected) / samples)
        assert np.mean(norms_ < radius) == pytest.approx(expected, abs=error)
    # of a symmetric convex or star body: |x_1| below a, by quadrature over the uniform law
    a = 0.25
    grid = np.linspace(0, 1, 100_001)
    height = (1 - grid**p) ** (1 / p)
    expected = height[grid <= a].sum() / height.sum()
    error = 5 * math.sqrt(expected * (1 - expected) / samples)
    assert np.mean(np.abs(moved[:, 0]) < a) == pytest.approx(expected, abs=error + 1e-4)


@pytest.mark.parametrize(("p", "distribution"), [(1, "laplace"), (2, "gaussian"), (2, "signs")])
def test_inside_the_radius_has_the_law_of_a_uniform_point_with_bounds_too(p, distribution):
    model_cases.seed("numpy")
    n, samples = 3, 20_000
    x = np.tile([0.02, 0.5, 0.97], (samples, 1))  # bounds near
    model = fb.NumPyModel(lambda x: x[:, :2], bounds=(0, 1))
    noise = attacks.ClipAwareNoise(p=p, distribution=distribution, inside=True)
    raw = noise.run(model, x, np.zeros(samples, np.int64), epsilon=0.4)
    norms_ = model_cases.reference.norm(raw - x, p) / 0.4
    for radius in (0.5, 0.8):
        expected = radius**n
        error = 5 * math.sqrt(expected * (1 - expected) / samples)
        assert np.mean(norms_ < radius) == pytest.approx(expected, abs=error)
    assert raw.min() >= 0
    assert raw.max() <= 1


def test_uniform_noise_inside_linf_is_uniform_in_the_intersection():
    model_cases.seed("numpy")
    samples = 20_000
    x = np.tile([0.1, 0.5, 1.0], (samples, 1))
    model = fb.NumPyModel(lambda x: x[:, :2], bounds=(0, 1))
    noise = attacks.LinfClipAwareUniformNoise(inside=True)
    raw = noise.run(model, x, np.zeros(samples, np.int64), epsilon=0.4)
    for values, low, high in zip(raw.T, (0.0, 0.1, 0.6), (0.5, 0.9, 1.0), strict=True):
        unit = (values - low) / (high - low)
        assert unit.min() >= 0
        assert unit.max() <= 1
        for quantile in (0.25, 0.5, 0.75):
            error = 5 * math.sqrt(quantile * (1 - quantile) / samples)
            assert np.mean(unit < quantile) == pytest.approx(quantile, abs=error)


@every_backend
def test_inside_takes_an_epsilon_per_sample_and_never_exceeds_it(case):
    for p, distribution in ((2, "gaussian"), (math.inf, "uniform"), (1, "salt_and_pepper")):
        epsilon = case.epsilon(p) * np.linspace(0.1, 1, model_cases.SAMPLES).astype(np.float32)
        noise = attacks.ClipAwareNoise(p=p, distribution=distribution, inside=True)
        raw = noise.run(case.model, case.x, case.labels, epsilon=case.backend.tensor(epsilon))
        size = case.norm(raw, p) / epsilon
        assert np.all(size <= 1 + 1e-5)
        assert np.all(size > 0)
        assert case.in_box(raw)
