"""Triton's kernels of the moves, one launch each: on a GPU, or under Triton's interpreter."""

import itertools
import math

import eagerpy as ep
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.gpu import counting
from foolbox_carescale import engines, perturb, project, reachable_norm, steepest_step
from foolbox_carescale.attacks import steps
from foolbox_carescale.core import checks
from foolbox_carescale.engines.numba_cpu import arrays as cpu
from tests import reference
from tests.engines import hard
from tests.engines.triton_interpreter import INTERPRETED, nightly, speed_up

pytest.importorskip("triton", reason="Triton is not installed: it has no wheel here")
HAS_GPU = torch.cuda.is_available()
RUNS = INTERPRETED or HAS_GPU
DEVICE = "cpu" if INTERPRETED else "cuda"
if INTERPRETED:
    speed_up()
    # NumPy, by which it computes, warns of numbers that a mask discards
    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

needs_kernels = pytest.mark.skipif(not RUNS, reason="the interpreter runs this in a subprocess")
SIZES = {1: 4.0, 1.5: 1.5, 2: 1.0, 2.5: 0.8, math.inf: 0.1}
ROWS, LENGTH = 4, 150
CLOSE = {np.float32: 1e-6, np.float64: 1e-12}
# pairwise
CASES = [
    *((p, np.float32, p != 2) for p in (1, 2, math.inf)),
    *((p, np.float64, p == 2) for p in (1, 2, math.inf)),
    (2.5, np.float32, True),
    (1.5, np.float64, False),
]
EVERY = itertools.product((1, 2, math.inf), CLOSE, (False, True))
OTHERS = [nightly(*case) for case in EVERY if case not in CASES]
# the interpreter takes its time for every row
few_rows = slice(1, 3) if INTERPRETED else slice(None)


@pytest.fixture
def moves(monkeypatch):
    """The launches, several blocks a row."""
    from foolbox_carescale.engines.triton_cuda import move_launch

    monkeypatch.setattr(move_launch, "BLOCK", 128)
    return move_launch


@pytest.fixture
def engine(moves, monkeypatch):
    """Asked before all other engines, whatever the device."""
    ask_first(monkeypatch)


def ask_first(monkeypatch):
    _, triton, *others = engines.ENGINES
    monkeypatch.setattr(triton, "supports", lambda t, traced: "traced" if traced else None)
    monkeypatch.setattr(engines, "ENGINES", (triton, *others))


def problem(dtype, seed=0):
    """Points, some on their bounds, directions, and lengths: 0, usual, little, beyond the box."""
    rng = np.random.default_rng(seed)
    x = rng.random((ROWS, LENGTH)).astype(dtype)
    x[rng.random(x.shape) < 0.2] = 0
    return x, rng.standard_normal(x.shape).astype(dtype), np.array([0, 1, 0.1, 1e3])


def numbers(dtype):
    return np.zeros((1, 1), dtype), np.ones((1, 1), dtype)


def on_device(*arrays):
    return [torch.from_numpy(np.array(a)).to(DEVICE) for a in arrays]


def close(found, expected, dtype):
    np.testing.assert_allclose(found.cpu(), expected, rtol=0, atol=CLOSE[dtype])


@needs_kernels
@pytest.mark.parametrize(("p", "dtype", "sphere"), CASES + OTHERS)
def test_constraint_is_that_of_the_cpu_engine(moves, p, dtype, sphere):
    x0, v, eps = problem(dtype)
    eps = SIZES[p] * eps
    for far in (0.01, 1.0):
        z, now, before = (np.clip(x0 + dtype(far * s) * v, -0.1, 1.1) for s in (1, 0.5, -0.3))
        mix = (0.3, now, before) if sphere else None
        options = {"tolerance": 0.0, "sphere": sphere}
        points, threshold, missing, _ = cpu.project(
            x0, z.copy(), eps, p, *numbers(dtype), **options, momentum=mix
        )
        x0_, z_, now_, before_, eps_ = on_device(x0, z, now, before, eps)
        options["momentum"] = (0.3, now_, before_) if sphere else None
        found, *others, flags = moves.project(x0_, z_, eps_, p, 0.0, 1.0, **options)
        close(found, points, dtype)
        assert not flags.any()
        if p != 1:
            assert others == [None, None]
        else:
            for number, expected in zip(others, (threshold, missing), strict=True):
                np.testing.assert_allclose(
                    number.cpu(), expected, rtol=10 * CLOSE[dtype], atol=100 * CLOSE[dtype]
                )


@needs_kernels
@pytest.mark.parametrize(
    ("p", "dtype"),
    [
        *((1, np.float32), nightly(1, np.float64), nightly(2, np.float32), (2, np.float64)),
        *((2.5, np.float32), (math.inf, np.float32), (math.inf, np.float64)),
    ],
)
def test_steepest_step_is_that_of_the_cpu_engine(moves, monkeypatch, p, dtype):
    monkeypatch.setattr(moves, "SHORTEST_SAMPLED", LENGTH)
    x, g, eps = problem(dtype)
    g[:, :50] = np.round(g[:, :50])  # ties
    expected, _ = cpu.steepest(x, g, SIZES[p] * eps, p, *numbers(dtype), tolerance=0.0)
    x_, g_, eps_ = on_device(x, g, SIZES[p] * eps)
    found, flags = moves.steepest_step(x_, g_, eps_, p, 0.0, 1.0, 0.0)
    close(found, expected, dtype)
    assert not flags.any()


@needs_kernels
def test_several_programs_for_a_row_take_the_same_steepest_step(moves, monkeypatch):
    x, g, eps = on_device(*problem(np.float32))
    x[1, 3], g[2, LENGTH - 1] = 1.5, math.nan
    expected, whole = moves.steepest_step(x, g, 0.1 * eps, math.inf, 0.0, 1.0, 0.0)
    monkeypatch.setattr(moves, "BLOCK", 32)  # two for each part of a row
    monkeypatch.setattr(moves, "parts_of", lambda *_: 3)
    found, flags = moves.steepest_step(x, g, 0.1 * eps, math.inf, 0.0, 1.0, 0.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert flags == whole == checks.NOT_FINITE | checks.OUT_OF_BOUNDS


@needs_kernels
def test_long_rows_that_begin_with_a_sample_end_at_eps(moves, monkeypatch):
    shape = (2, 9000)
    if INTERPRETED:
        shape = (1, 500)
        monkeypatch.setattr(moves, "SHORTEST_SAMPLED", 500)
    rng = np.random.default_rng(0)
    x, v = (f(shape).astype(np.float32) for f in (rng.random, rng.standard_normal))
    x_, v_ = on_device(x, v)
    for p, eps in ((1, 5.0), (2, 1.0)):
        both = (
            moves.steepest_step(x_, v_, eps, p, 0.0, 1.0, 0.0)[0],
            moves.project(x_, x_ + 1e-3 * v_, eps, p, 0.0, 1.0, 0.0, sphere=True)[0],
        )
        for found in both:
            size = reference.norm(found.cpu().numpy().astype(float) - x, p)
            np.testing.assert_allclose(size, eps, rtol=2e-6)


@needs_kernels
@pytest.mark.parametrize("dtype", CLOSE)
def test_sparse_step_moves_the_largest_gradients_that_can_move(moves, dtype):
    x, g, _ = problem(dtype)
    g[:, 1] = g[:, 0]  # a tie
    g[3], g[3, 2] = -1, 1
    x[3] = 0  # but one coordinate cannot move
    counts = np.array([1, 3, LENGTH // 3, 4])
    expected, _ = cpu.steepest(x, g, 0.01 * counts, 1, *numbers(dtype), tolerance=0, counts=counts)
    x_, g_, eps_ = on_device(x, g, 0.01 * counts)
    given = counts if dtype == np.float32 else torch.from_numpy(counts).to(DEVICE)
    found, _ = moves.steepest_step(x_, g_, eps_, 1, 0.0, 1.0, 0.0, counts=given)
    close(found, expected, dtype)
    np.testing.assert_array_equal(found.cpu() != x_.cpu(), expected != x)


@needs_kernels
@pytest.mark.parametrize("p", [1, nightly(2)])
def test_moves_are_exact_on_hard_rows(moves, p):
    for name in ("geometric", "quantised", "on the bounds", "cauchy", "mostly zero"):
        rows = hard.Problem(p, "float32", 80, cases=(name,))
        at = [2, 4] if INTERPRETED else [1, 2, 3, 4]  # of the fractions
        x, v, eps = rows.x[at], rows.delta[at], rows.eps[at, 0]
        x_, v_, eps_ = on_device(x, v, eps)
        wide = (a.astype(np.float64) for a in (x, v, eps))
        moved, _ = cpu.steepest(*wide, p, *numbers(np.float64), tolerance=0.0)
        found, _ = moves.steepest_step(x_, v_, eps_, p, 0.0, 1.0, 0.0)
        error = reference.norm(found.cpu().numpy() - moved, p)
        assert (error <= 1e-6 * np.maximum(eps, 1)).all(), name
        found, *_ = moves.project(x_, x_ + v_, eps_, p, 0.0, 1.0, 0.0, sphere=True)
        size = reference.norm(found.cpu().numpy().astype(float) - x, p)
        reach = reference.reachable_norm(x, (x + v) - x, p)  # what is left of v
        assert size == pytest.approx(np.minimum(eps, reach), rel=1e-6, abs=1e-6), name


@needs_kernels
@pytest.mark.parametrize("p", [1, 1.3, 2, math.inf])
def test_products_are_those_of_the_cpu_engine(moves, p):
    dtype = np.float64 if p == 1.3 else np.float32
    x, v, eps = problem(dtype)
    eps = 0.5 * SIZES.get(p, 1.0) * eps
    eta, _ = cpu.solve(x, v, eps, p, *numbers(dtype), tolerance=0.0)
    rng = np.random.default_rng(1)
    x_, v_, eps_, eta_ = on_device(x, v, eps, eta)
    for vector in (rng.random((ROWS, 1)).astype(dtype), rng.random(x.shape).astype(dtype)):
        of_points = vector.shape[1] > 1
        given = vector if of_points else vector[:, 0].astype(float)
        expected = cpu.gradients(x, v, eps, eta, p, *numbers(dtype), given)
        found = moves.products(
            x_, v_, eps_, p, 0.0, 1.0, eta_, *on_device(vector), of_points=of_points
        )
        for ours, theirs in zip(found, expected, strict=True):
            scale = max(np.abs(theirs).max(), 1.0)
            ours = ours.cpu().reshape(theirs.shape)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=20 * CLOSE[dtype] * scale)


@needs_kernels
def test_products_are_there_where_sums_vanish_in_float32(moves):
    x, v = np.full((1, 4), 0.5, np.float32), np.full((1, 4), 1e-3, np.float32)
    v[0, 0] = 1.0
    eps = np.array([0.5 + 1e-7])
    eta, _ = cpu.solve(x, v, eps, 10.0, *numbers(np.float32), tolerance=0.0)
    one = np.ones((1, 1), np.float32)
    expected = cpu.gradients(x, v, eps, eta, 10.0, *numbers(np.float32), np.ones(1))
    found = moves.products(
        *on_device(x, v, eps), 10.0, 0.0, 1.0, *on_device(eta, one), of_points=False
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.cpu().reshape(theirs.shape), theirs, rtol=1e-4)


@needs_kernels
def test_sum_of_gradients_is_that_of_the_cpu_engine(moves):
    for dtype in CLOSE:
        total, g, _ = problem(dtype)
        g[0, :2], g[1, 1], g[2] = (math.inf, -math.inf), math.nan, 0
        g[3] = np.finfo(dtype).max / 4
        expected, first = total.copy(), np.zeros_like(total)
        cpu.accumulate(expected, 0.9, g, 1e-12)
        cpu.accumulate(first, 0.9, g, 1e-12)
        total_, g_ = on_device(total, g)
        usual = slice(0, 3) if dtype == np.float64 else slice(None)  # whose norm is a number
        close(moves.accumulate(None, 0.9, g_, 1e-12)[usual], first[usual], dtype)
        found = moves.accumulate(total_, 0.9, g_, 1e-12)
        assert found.data_ptr() == total_.data_ptr()
        close(found[usual], expected[usual], dtype)
    half = torch.ones(2, 10, dtype=torch.float16, device=DEVICE)
    found = moves.accumulate(half.clone(), 0.5, half, 1e-12)
    torch.testing.assert_close(found, torch.full_like(half, 0.6))


@needs_kernels
def test_half_precision_is_read_as_it_is(moves):
    x, v, _ = (on_device(a)[0].half()[few_rows] for a in problem(np.float32))
    for p in (1, 2):
        z = x + 0.01 * v
        rest = 0.5, p, 0.0, 1.0, 0.0
        half = moves.project(x, z, *rest, sphere=True, momentum=(0.25, x, z))[0]
        single = moves.project(
            x.float(), z.float(), *rest, sphere=True, momentum=(0.25, x.float(), z.float())
        )[0]
        torch.testing.assert_close(half, single, rtol=0, atol=0)
        half, _ = moves.steepest_step(x, v, *rest)
        torch.testing.assert_close(half, moves.steepest_step(x.float(), v.float(), *rest)[0])


@needs_kernels
@pytest.mark.parametrize("p", [1, nightly(1.5), 2, nightly(2.5), math.inf])
def test_rows_with_bad_values_are_flagged_and_stay(moves, p):
    x, g, _ = (on_device(a)[0] for a in problem(np.float32))
    x, g, eps = x[[0, 1, 2, 3, 3]], g[[0, 1, 2, 3, 3]], torch.full((5,), 0.1, device=DEVICE)
    g[0, 3], g[1, 140], x[2, 0], eps[3] = math.nan, math.inf, 1.5, -1
    expected = [checks.NOT_FINITE] * 2 + [checks.OUT_OF_BOUNDS, checks.BAD_EPS, 0]
    rest = p, 0.0, 1.0, 0.0

    for i, flag in enumerate(expected):
        row = slice(i, i + 1)
        *_, flags = moves.project(x[row], x[row] + g[row], eps[row], *rest, sphere=True)
        assert flags == flag
        if flag:
            assert moves.steepest_step(x[row], g[row], eps[row], *rest)[1] == flag
    assert moves.project(x, x + g, eps, *rest, sphere=True)[-1] == 7
    cleaned = torch.where(g.abs() < math.inf, g, 0.0)
    lenient, flags = moves.steepest_step(x, g, eps, *rest, lenient=True)
    assert flags == 6
    torch.testing.assert_close(lenient[3], x[3], rtol=0, atol=0)
    points, flags = moves.steepest_step(x[:2], cleaned[:2], eps[:2], *rest, report=False)
    assert flags is None
    torch.testing.assert_close(lenient[:2], points, rtol=0, atol=0)


@needs_kernels
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_what_is_wrong_before_momentum_is_told_after_it(engine, p):
    x, v = on_device(*problem(np.float32)[:2])
    z = x + 0.1 * v
    z[2, 7] = math.nan
    mix = 0.25, *map(ep.astensor, (x, x))
    constraint = {"p": p, "bounds": (0.0, 1.0), "sphere": False, "direction": ep.astensor(v)}
    for when in ("end", "each_call"):  # in the latter, points have been written already
        with pytest.raises(ValueError, match=r"x: .*NaN or infinite"), checks.value_checks(when):
            steps.enforce_constraint(
                *map(ep.astensor, (z.clone(), x)), 0.5, **constraint, momentum=mix, twice=True
            )


@needs_kernels
@pytest.mark.parametrize("p", [2, math.inf])
def test_points_after_momentum_take_the_memory_of_those_before(engine, p):
    x, v = on_device(*problem(np.float32)[:2])
    mix = 0.25, *map(ep.astensor, (x + 0.02 * v, x))
    constraint = {"p": p, "bounds": (0.0, 1.0), "sphere": True, "direction": ep.astensor(v)}
    for kind in (torch.float32, torch.float16):
        z, x0 = (x + 0.1 * v).to(kind), ep.astensor(x.to(kind))
        once = steps.enforce_constraint(ep.astensor(z.clone()), x0, 0.5, **constraint)
        expected = steps.enforce_constraint(once, x0, 0.5, **constraint, momentum=mix).raw
        found = steps.enforce_constraint(
            ep.astensor(z), x0, 0.5, **constraint, momentum=mix, twice=True
        ).raw
        close = {"rtol": 0, "atol": 0 if kind == torch.float32 else 1e-3}
        torch.testing.assert_close(found, expected, **close)
        assert (found.data_ptr() == z.data_ptr()) == (kind == torch.float32)


@pytest.mark.skipif(not INTERPRETED, reason="it counts in Triton's interpreter")
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_an_operator_that_is_differentiated_waits_once_at_most_and_sorts_nothing(moves, p):
    x, v = on_device(*(a[:2, :30] for a in problem(np.float32)[:2]))
    with counting.on_gpu_road():
        for operator in (perturb, project, steepest_step):
            first, second = (x + v, x) if operator is project else (x, v)
            second.requires_grad_()
            with counting.counted() as count:
                operator(first, second, 0.5, p=p).sum().backward()
            second.requires_grad_(False)
            assert (count.waits.total() <= 1, count.launches["sort"]) == (True, 0), operator
    with pytest.raises(ValueError, match="values are NaN"):
        project((v * math.nan).requires_grad_(), x, 0.5, p=p)


@needs_kernels
def test_what_comes_to_a_bound_lies_on_it(moves):
    x, g, _ = problem(np.float32)
    x_, g_ = (a[few_rows] for a in on_device(x, g))
    corner = torch.where(g_ > 0, 1.0, torch.where(g_ < 0, 0.0, x_))
    for p in SIZES:
        found, _ = moves.steepest_step(x_, g_, 1e4, p, 0.0, 1.0, 0.0)
        torch.testing.assert_close(found, corner, rtol=0, atol=0)
        near = x_ + 1e-3 * g_
        found, *_ = moves.project(x_, near, 1e4, p, 0.0, 1.0, 0.0, sphere=True)
        torch.testing.assert_close(found, torch.where(near == x_, x_, corner), rtol=0, atol=0)


class Operations(TorchDispatchMode):
    """Names of what PyTorch would launch."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view and "empty" not in function.__name__:
            LAUNCHED.append(function.__name__)
        return result


LAUNCHED: list[str] = []


@pytest.fixture
def launched(moves, monkeypatch):
    run = moves._run

    def counted(kernel, *args):
        LAUNCHED.append(kernel.__name__)
        with torch.utils._python_dispatch._disable_current_modes():
            run(kernel, *args)

    LAUNCHED.clear()
    monkeypatch.setattr(moves, "_run", counted)
    return LAUNCHED


@needs_kernels
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_each_move_is_one_launch(engine, launched, p):
    x, v, _ = (on_device(a.astype(np.float32))[0] for a in problem(np.float32))
    x, v = x[:1, :48].reshape(1, 3, 16), v[:1, :48].reshape(1, 3, 16)
    eps = torch.full((1,), 0.5, device=DEVICE)
    wrapped = (ep.astensor(x + 0.1 * v), ep.astensor(x), eps)
    constraint = {"p": p, "bounds": (0, 1), "sphere": True, "direction": ep.astensor(v)}
    momentum = (0.25, ep.astensor(x), ep.astensor(x))
    counts = torch.ones(1, dtype=torch.int64, device=DEVICE)
    target = x + v
    made = {
        "project": lambda: project(target, x, 0.5, p=p),
        "reach": lambda: reachable_norm(x, v, p=p),
        "constraint": lambda: steps.enforce_constraint(*wrapped, **constraint, momentum=momentum),
        "step": lambda: steps.step(wrapped[1], ep.astensor(v), eps, p=p, bounds=(0, 1)),
        "sparse": lambda: steps.sparse_step(wrapped[1], ep.astensor(v), 0.5, counts, bounds=(0, 1)),
        "accumulate": lambda: steps.accumulate(None, 0.5, ep.astensor(v)),
    }
    with checks.skipped():
        for name, call in made.items():
            LAUNCHED.clear()
            with Operations():
                call()
            kernels = [launch for launch in LAUNCHED if launch.endswith("_kernel")]
            assert len(kernels) == 1, (name, LAUNCHED)
            assert [launch for launch in LAUNCHED if launch not in kernels] == [], name


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_sparse_perturbation_without_room_takes_the_next_gradients(engine, dtype):
    x0 = torch.full((2, 4), 0.5, dtype=dtype, device=DEVICE)
    z, direction = x0.clone(), torch.tensor([[4.0, 3.0, 2.0, math.nan]] * 2).to(x0)
    z[:, 0] = 0.9
    eps = torch.tensor([1.2, 0.3]).to(x0)
    found = steps.enforce_constraint(
        *map(ep.astensor, (z, x0)), eps, p=1, bounds=(0, 1), sphere=True,
        direction=ep.astensor(direction),
    ).raw  # fmt: skip
    expected = torch.tensor([[1.0, 1.0, 0.7, 0.5], [0.8, 0.5, 0.5, 0.5]]).to(x0)
    torch.testing.assert_close(
        found, expected, rtol=1e-3, atol=1e-3 if dtype.itemsize < 8 else 1e-9
    )


@needs_kernels
def test_operators_differentiate_and_complain_as_on_the_cpu(moves, monkeypatch):
    x, v, _ = (torch.from_numpy(a)[1:3] for a in problem(np.float64))

    def derivatives(x, v):
        x, v = x.clone().requires_grad_(), v.clone().requires_grad_()
        found = project(x + v, x, 5.0, p=1) * v.detach() + perturb(x, v, 1.0) * x.detach()
        return torch.autograd.grad(found.sum(), (x, v))

    expected = derivatives(x, v)
    ask_first(monkeypatch)
    x, v = x.to(DEVICE), v.to(DEVICE)
    for ours, theirs in zip(derivatives(x, v), expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs)
    x[1, 2] = math.nan
    for call in (project, steepest_step, reachable_norm):
        arguments = (v, x) if call is project else (x, v)
        with pytest.raises(ValueError, match="1 of 300 values are NaN"):
            call(*arguments, *(() if call is reachable_norm else (1.0,)))


@needs_kernels
@pytest.mark.parametrize("p", [0.5, 1, 2, math.inf])
def test_reach_is_that_of_the_reference_in_rows_of_a_larger_array(moves, p):
    x, v, _ = problem(np.float64)
    expected = reference.reachable_norm(x[::2, 10:140], v[::2, 10:140], p)
    x_, v_ = on_device(x, v)
    found, _ = moves.reachable_norm(x_[::2, 10:140], v_[::2, 10:140], p, 0.0, 1.0, 0.0)
    np.testing.assert_allclose(found[:, 0].cpu(), expected, rtol=1e-12)
