"""Pure functions for training in JAX and TensorFlow: compiled, with fresh noise in each call."""

import importlib
import itertools
import math

import eagerpy as ep
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from foolbox_carescale import perturb
from foolbox_carescale.training import functional
from tests import backends

SHAPE = (4, 3, 3, 2)


class Jax:
    def __init__(self):
        self.jax = importlib.import_module("jax")

    def key(self, seed):
        return self.jax.random.key(seed)

    def tensor(self, values):
        return self.jax.numpy.asarray(values, "float32")

    def whole(self, values):
        return self.jax.numpy.asarray(values)

    def compiled(self, function):
        return self.jax.jit(function)

    graph = compiled

    def gradient(self, function, value):
        return self.jax.jit(self.jax.grad(function))(value)

    def tanh(self, value):
        return self.jax.numpy.tanh(value)

    def sum(self, value):
        return value.sum()


class TensorFlow:
    def __init__(self):
        self.tf = importlib.import_module("tensorflow")

    def key(self, seed):
        return self.tf.constant([seed, 1])

    def tensor(self, values):
        return self.tf.constant(np.asarray(values, "float32"))

    def whole(self, values):
        return self.tf.constant(values)

    def graph(self, function):
        return self.tf.function(function)

    def compiled(self, function):
        # the batch size is not known before the graph runs, as in Keras
        image = self.tf.TensorSpec((None, *SHAPE[1:]))
        return self.tf.function(
            function, input_signature=[image, self.tf.TensorSpec((2,), "int32")]
        )

    def gradient(self, function, value):
        with self.tf.GradientTape() as tape:
            tape.watch(value)
            result = function(value)
        return tape.gradient(result, value)

    def tanh(self, value):
        return self.tf.tanh(value)

    def sum(self, value):
        return self.tf.reduce_sum(value)


@pytest.fixture(params=[Jax, TensorFlow], ids=["jax", "tensorflow"])
def library(request):
    return request.param()


def images():
    x = np.random.default_rng(0).uniform(size=SHAPE)
    x[:, 0] = 0.0
    return x


def norms(change, p):
    flat = np.asarray(change, np.float64).reshape(len(change), -1)
    return np.linalg.norm(flat, ord=p, axis=1)


def test_compiled_noise_is_exactly_epsilon_and_fresh_for_each_key(library):
    x = library.tensor(images())
    noisy = library.compiled(lambda x, key: functional.noisy(key, x, 0.9))
    first, again, other = (np.asarray(noisy(x, library.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    for points in (first, other):
        assert norms(points - x, 2) == pytest.approx(np.full(4, 0.9), rel=1e-5)
        assert points.min() >= 0
        assert points.max() <= 1


def test_samples_have_their_distributions_moments(library):
    for distribution, deviation, kurtosis in [
        ("gaussian", 1.0, 3.0),
        ("uniform", 3**-0.5, 1.8),
        ("laplace", 2**0.5, 6.0),
    ]:
        like = library.tensor(np.zeros((1, 400_000)))
        noise = np.asarray(functional.sample(library.key(3), like, distribution), np.float64)
        assert noise.mean() == pytest.approx(0, abs=0.03)
        assert noise.std() == pytest.approx(deviation, rel=0.02)
        assert (noise**4).mean() / noise.var() ** 2 == pytest.approx(kurtosis, rel=0.12)


@pytest.mark.parametrize(
    ("library", "p"),
    backends.by_day(
        [(Jax, 1.5)],  # TensorFlow's by day: for p = inf and p = 1 below
        list(itertools.product([Jax, TensorFlow], [1.0, 1.5, 2.0, math.inf])),
    ),
    indirect=["library"],
)
def test_adversarial_points_are_exactly_epsilon_away_and_near_the_best(library, p):
    weights = library.tensor(np.random.default_rng(1).normal(size=SHAPE[1:]))
    eps = {1.0: 2.0, 1.5: 0.8, 2.0: 0.5, math.inf: 0.1}[p]
    x = library.tensor(images())

    def loss(z):
        return library.tanh(z * weights)

    attack = library.compiled(lambda x, key: functional.adversarial(loss, x, eps, p=p, key=key))
    z = attack(x, library.key(0))
    assert norms(z - x, p) == pytest.approx(np.full(4, eps), rel=1e-5)
    rng = np.random.default_rng(2)
    random = [perturb(images(), rng.normal(size=SHAPE), eps, p=p) for _ in range(50)]
    best = max(float(np.sum(loss(library.tensor(points)))) for points in random)
    assert float(np.sum(loss(z))) > best


@pytest.fixture(scope="module")
def classifier():
    """Weights of a small network that was trained on digits, images and labels."""
    data, labels = load_digits(return_X_y=True)
    network = MLPClassifier((64,), alpha=1e-3, max_iter=60, tol=0.05, random_state=0)
    network.fit(data[:1200] / 16, labels[:1200])
    assert network.score(data[1200:] / 16, labels[1200:]) > 0.85
    layers = list(zip(network.coefs_, network.intercepts_, strict=True))
    return layers, data[1200:1300] / 16, labels[1200:1300]


@pytest.mark.parametrize(
    ("library", "p", "eps"),
    backends.by_day(
        [(TensorFlow, math.inf, 0.15)],  # JAX compiles each of three attacks for seconds
        [
            (library, *attack)
            for library in (Jax, TensorFlow)
            for attack in ((1.0, 3.0), (2.0, 1.0), (math.inf, 0.15))
        ],
    ),
    indirect=["library"],
)
def test_momentum_and_the_best_iterate_are_at_least_as_strong_as_without(
    library, classifier, p, eps
):
    layers, digits, labels = classifier
    x = library.tensor(digits.reshape(-1, 8, 8, 1))
    labels = ep.astensor(library.whole(labels))
    weights = [[ep.astensor(library.tensor(part)) for part in layer] for layer in layers]

    def losses(z):
        (w1, b1), (w2, b2) = weights
        hidden = ep.maximum(ep.astensor(z).reshape((100, 64)).matmul(w1) + b1, 0.0)
        return ep.crossentropy(hidden.matmul(w2) + b2, labels).raw

    def strength(**changes):
        attack = library.graph(
            lambda x: functional.adversarial(losses, x, eps, p=p, steps=20, **changes)
        )
        z = attack(x)
        assert norms(z - x, p) == pytest.approx(np.full(100, eps), rel=1e-5)
        return np.asarray(losses(z))

    plain = strength(momentum=0.0, keep="last")
    last = strength(keep="last")
    best = strength()
    assert (best >= last - 1e-5).all()
    assert best.mean() >= plain.mean()
    assert np.allclose(last, plain) == (p == np.inf)  # which has none by default


def test_the_best_iterate_is_returned_where_the_last_step_leads_away(library):
    x = library.tensor(np.full((2, 1), 0.5))

    def losses(z):  # rises at 0.5, falls again at 0.8, from where the second step leaves
        return ep.astensor(z)[:, 0].raw * (1.5 - ep.astensor(z)[:, 0].raw)

    for keep, expected in (("best", 0.8), ("last", 0.2)):
        attack = library.graph(
            lambda x, keep=keep: functional.adversarial(
                losses, x, 0.3, steps=2, momentum=0.0, keep=keep
            )
        )
        np.testing.assert_allclose(attack(x), expected, rtol=1e-6)


@pytest.mark.parametrize("library", backends.by_day([TensorFlow], [Jax]), indirect=True)
def test_l1_points_are_epsilon_away_also_where_the_largest_gradients_have_no_room(library):
    x = library.tensor(np.full((4, 3, 3, 2), 0.9))
    weights = library.tensor(np.random.default_rng(1).uniform(size=SHAPE[1:]))
    # the first step, 0.4 long, fills four coordinates, along which nothing grows any more
    attack = library.compiled(
        lambda x, key: functional.adversarial(
            lambda z: z * weights, x, 0.8, p=1, steps=1, rel_stepsize=0.5
        )
    )
    assert norms(attack(x, library.key(0)) - x, 1) == pytest.approx(np.full(4, 0.8), rel=1e-5)


def test_adversarial_points_are_constant_for_an_outer_gradient(library):
    x = library.tensor(images())

    def outer(w):
        z = functional.adversarial(lambda z: z * w, x, 0.5, steps=1)
        return library.sum(z + w)

    assert float(library.gradient(outer, library.tensor(1.0))) == pytest.approx(math.prod(SHAPE))


def test_universal_direction_learns_through_eta(library):
    x = library.tensor(images())
    delta = library.tensor(np.random.default_rng(1).normal(size=SHAPE[1:]))
    z = functional.universal(x, delta, 0.7)
    assert norms(z - x, 2) == pytest.approx(np.full(4, 0.7), rel=1e-5)

    def value(delta):
        return library.sum(functional.universal(x, delta, 0.7)[:, 1, 1, 1])

    def numpys_value(delta):
        spread = np.broadcast_to(delta, SHAPE).copy()
        return perturb(images(), spread, 0.7)[:, 1, 1, 1].sum()

    gradient = np.asarray(library.gradient(value, delta), np.float64)
    for index in [(1, 1, 1), (2, 0, 1)]:  # the second counts through eta alone
        step = np.zeros(SHAPE[1:])
        step[index] = 1e-4
        change = numpys_value(delta + step) - numpys_value(delta - step)
        assert gradient[index] == pytest.approx(change / 2e-4, rel=1e-3)
        assert abs(gradient[index]) > 1e-3


def test_a_new_generator_is_the_noise_itself_and_has_gradients(library):
    x = library.tensor(images())
    noise = functional.sample(library.key(0), x)
    layers = functional.generator(0, channels=2)
    np.testing.assert_array_equal(functional.generated(layers, noise), noise)

    def value(weight):
        direction = functional.generated([*layers[:-1], (weight, layers[-1][1])], noise)
        return library.sum(perturb(x, direction, 0.7))

    gradient = np.asarray(library.gradient(value, library.tensor(layers[-1][0])))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_wrong_use_is_one_clear_error(library):
    x = library.tensor(images())
    with pytest.raises(ValueError, match=r"distribution: expected one .* got 'cauchy'"):
        functional.sample(library.key(0), x, "cauchy")
    for key in (None, 3, "a", np.zeros(2, np.float32), np.zeros((2, 2), np.uint32)):
        with pytest.raises(ValueError, match=r"key: expected .* got (None|3|'a'|.* of shape)"):
            functional.sample(key, x)
    with pytest.raises(ValueError, match="key: expected"):
        functional.adversarial(library.sum, x, 0.5, key=0)
    with pytest.raises(ValueError, match=r"delta: expected the shape of one sample, \(3, 3, 2\)"):
        functional.universal(x, x, 0.5)
    with pytest.raises(ValueError, match=r"delta: expected a tensor of .* got one of torch"):
        functional.universal(x, torch.zeros(3, 3, 2), 0.5)
    with pytest.raises(ValueError, match="channels: expected an integer >= 1, got 0"):
        functional.generator(0, channels=0)
    with pytest.raises(ValueError, match=r"noise: expected 3 channels .* got shape \(4, 3, 3, 2\)"):
        functional.generated(functional.generator(0, channels=3), x)
    with pytest.raises(ValueError, match="steps: expected an integer >= 1, got 0"):
        functional.adversarial(lambda z: z, x, 0.5, steps=0)
    with pytest.raises(ValueError, match=r"momentum: expected a number in \[0, 1\), got 1"):
        functional.adversarial(lambda z: z, x, 0.5, momentum=1)
    with pytest.raises(ValueError, match="rel_stepsize: expected a finite number > 0, got 0"):
        functional.adversarial(lambda z: z, x, 0.5, rel_stepsize=0)
    with pytest.raises(ValueError, match="keep: expected one of best, last, got 'all'"):
        functional.adversarial(lambda z: z, x, 0.5, keep="all")
    with pytest.raises(ValueError, match=r"loss: expected a loss for each of 4 inputs, got shape"):
        functional.adversarial(library.sum, x, 0.5)
    with pytest.raises(ValueError, match=r"x: .* outside the bounds"):
        functional.adversarial(lambda z: z, x + 1, 0.5)
    with pytest.raises(ValueError, match=r"p: expected a number in \[1, inf\], got 0.5"):
        functional.adversarial(lambda z: z, x, 0.5, p=0.5)
    with pytest.raises(ValueError, match="eps: expected a finite number >= 0, got -1"):
        functional.noisy(library.key(0), x, -1)
    with pytest.raises(ValueError, match="x: expected a tensor of JAX or TensorFlow, got numpy"):
        functional.adversarial(lambda z: z, images(), 0.5)


def test_jax_vmaps_over_keys():
    jax = importlib.import_module("jax")
    x = jax.numpy.asarray(images(), "float32")
    keys = jax.random.split(jax.random.key(0), 3)
    noisy = jax.jit(lambda key: functional.noisy(key, x, 0.9))
    for key, points in zip(keys, jax.vmap(noisy)(keys), strict=True):
        np.testing.assert_allclose(points, noisy(key), atol=1e-6)
