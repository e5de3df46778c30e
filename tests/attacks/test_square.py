"""Random search: what it costs, what its seed decides, and which inputs it takes."""

import eagerpy as ep
import foolbox as fb
import numpy as np
import pytest

from foolbox_carescale import attacks
from foolbox_carescale.attacks.counting import CountingModel
from foolbox_carescale.attacks.square import _Grid
from tests import backends
from tests.attacks import model_cases


def search(case, *, queries, p=2, part=0.1, seed=0):
    model, spent = CountingModel(case.model), []
    attack = attacks.ClipAwareSquare(p=p, queries=queries, seed=seed)
    raw = attack.run(
        model, case.x, case.labels, epsilon=part * case.epsilon(p), on_end=spent.append
    )
    return case.numpy(raw), spent[0], model


@pytest.mark.parametrize(
    "case",
    # JAX compiles every window's shape
    backends.by_day([c for c in model_cases.EVERY if c != "jax"], model_cases.EVERY),
    indirect=True,
)
def test_a_sample_stops_at_its_first_success_and_others_at_the_limit(case):
    points, spent, model = search(case, queries=40, part=0.4)
    assert model.forwards == spent.sum()
    assert model.backwards == 0
    broken = case.logits(case.backend.tensor(points)).argmax(1) != np.asarray(case.labels)
    assert np.all(spent[~broken] == 40)
    assert np.all(spent[broken] <= 40)


@pytest.mark.parametrize("case", ["numpy"], indirect=True)
def test_the_margin_only_falls_with_more_queries(case):
    def margin(queries):
        points, _, _ = search(case, queries=queries)
        logits, labels = case.logits(points), np.asarray(case.labels)
        own = logits[np.arange(len(labels)), labels]
        logits[np.arange(len(labels)), labels] = -np.inf
        return own - logits.max(1)

    assert np.all(margin(60) <= margin(2))
    assert margin(60).mean() < margin(2).mean()


@pytest.mark.parametrize("case", ["numpy"], indirect=True)
def test_a_start_whose_logits_are_nan_is_given_up(case):
    class Undefined(CountingModel):
        def __call__(self, inputs):
            logits = super().__call__(inputs)
            first = self.forwards == len(case.x)
            return logits * (np.nan if first else 1.0)

    def points(queries):
        attack = attacks.ClipAwareSquare(queries=queries, seed=0)
        return attack.run(Undefined(case.model), case.x, case.labels * 0, epsilon=1e-3)

    with pytest.warns(RuntimeWarning, match="not finite"):  # argmax of NaN is class 0
        start, after = points(1), points(2)
    assert (start != after).reshape(len(start), -1).any(1).all()


@pytest.mark.parametrize(
    "case",  # each operation of JAX would be compiled, for seconds
    backends.by_day([name for name in model_cases.EVERY if name != "jax"], model_cases.EVERY),
    indirect=True,
)
def test_its_seed_decides_and_without_one_the_framework_s(case):
    first = search(case, queries=5)[0]
    assert np.array_equal(first, search(case, queries=5)[0])
    assert not np.array_equal(first, search(case, queries=5, seed=1)[0])
    outcomes = []
    for seed in (1, 1, 2):
        model_cases.seed(case.backend.framework, seed)
        outcomes.append(search(case, queries=5, seed=None)[0])
    assert np.array_equal(outcomes[0], outcomes[1])
    assert not np.array_equal(outcomes[0], outcomes[2])


@pytest.mark.parametrize("shape", [(12,), (2, 9), (5, 6, 7), (2, 3, 4, 5)])
def test_inputs_of_any_shape_are_windowed(shape):
    x = np.full((3, *shape), 0.5, np.float32)
    model = fb.NumPyModel(lambda x: np.zeros((len(x), 2), np.float32), bounds=(0, 1))
    labels = np.zeros(3, np.int64)
    for p in (1, 2, np.inf):
        raw = attacks.ClipAwareSquare(p=p, queries=12).run(model, x, labels, epsilon=0.4)
        assert model_cases.reference.norm(raw - x, p) == pytest.approx(0.4, rel=1e-5)


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_a_stripe_has_one_sign_per_column_and_channel(data_format):
    last = data_format == "channels_last"
    shape = (2, 6, 5, 3) if last else (2, 3, 6, 5)
    x = np.full(shape, 0.5, np.float32)
    model = fb.NumPyModel(
        lambda x: np.zeros((len(x), 2), np.float32), bounds=(0, 1), data_format=data_format
    )
    raw = attacks.LinfClipAwareSquare(queries=1).run(model, x, np.zeros(2, np.int64), epsilon=0.1)
    signs = np.sign(raw - x)
    signs = np.moveaxis(signs, -1, 1) if last else signs
    assert np.all(signs == signs[:, :, :1])
    assert np.unique(signs[:, :, 0]).tolist() == [-1, 1]


def test_windows_cover_the_part_that_is_asked_for_and_lie_anywhere():
    x = ep.astensor(np.zeros((200, 3, 10, 20), np.float32))
    model = fb.NumPyModel(lambda x: x, bounds=(0, 1))
    grid = _Grid(x, model)
    centres = ep.astensor(grid.centres(0.25, 200, np.random.default_rng(0)))
    window, distance = grid.window(0.25, centres).raw, grid.distance(centres).raw
    assert np.all(window.sum(axis=-1) == 50)
    assert window.any(axis=0).all()
    assert np.all(distance[window] <= 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": 0}, "queries: .* >= 1, got 0"),
        ({"part": 0}, r"part: .* in \(0, 1\], got 0"),
        ({"seed": -1}, "seed: expected None or an integer .*, got -1"),
        ({"seed": 0.5}, "seed: .* got 0.5"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        attacks.ClipAwareSquare(**arguments)
