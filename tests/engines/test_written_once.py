"""Engines and checks draw the same line around the bounds, and no row is moved twice."""

import eagerpy as ep
import numpy as np
import pytest
import torch

import foolbox_carescale as fc
from foolbox_carescale import engines
from foolbox_carescale.attacks import steps
from foolbox_carescale.core import checks
from foolbox_carescale.engines import numba_cpu
from foolbox_carescale.engines.numba_cpu import arrays
from foolbox_carescale.operators.validation import prepare
from tests.engines.triton_interpreter import INTERPRETED, nightly, speed_up

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU and not INTERPRETED else "cpu"
if INTERPRETED:
    speed_up()
    # NumPy, by which it computes, warns of numbers that a mask discards
    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

needs_kernels = pytest.mark.skipif(
    not (INTERPRETED or HAS_GPU), reason="the interpreter runs this in a subprocess"
)
# whose upper end, with the tolerance, rounds up in float32 where both are added in float64
BOUNDS = (-0.2, 2.6)
EDGE = 2.6000025
WIDTH = 5


@pytest.fixture
def triton(monkeypatch):
    """The engine, asked first, and tensors on the device that checks take for an accelerator."""
    engine = engines.TritonCUDA()
    monkeypatch.setattr(engine, "supports", lambda t, traced: "traced" if traced else None)
    monkeypatch.setattr(engines, "ENGINES", (engine, engines.Eager()))
    monkeypatch.setattr("foolbox_carescale.core.backends.on_cpu", lambda t: False)
    return engine


def points(bounds, dtype):
    """Return rows of one point inside, but for the last element, which is about at an edge."""
    number = dtype.type
    low, high = map(number, bounds)
    slack = 8 * np.finfo(dtype).eps * max(map(abs, bounds))
    near = []
    for edge, inside in ((low - number(slack), high), (high + number(slack), low)):
        at = [edge]
        for _ in range(3):
            at = [np.nextafter(at[0], -inside - 9, dtype=dtype), *at, np.nextafter(at[-1], inside)]
        near += at
    x = np.full((len(near), WIDTH), (low + high) / 2, dtype)
    x[:, -1] = near
    return x


def rejected(problem):
    try:
        problem.reject_bad_values()
    except ValueError:
        return True
    return False


def edge_cases():
    rng = np.random.default_rng(0)
    lows = rng.uniform(-3, 0.5, 12).round(1)
    yield BOUNDS
    for low, width in zip(lows, rng.uniform(0.2, 3, 12), strict=True):
        yield float(low), float(round(low + width, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("road", "some"),
    [
        pytest.param(
            "numba",
            slice(None),
            marks=pytest.mark.skipif(INTERPRETED, reason="nothing of Triton's"),
        ),
        pytest.param("triton", slice(3), marks=needs_kernels),
        pytest.param("triton", slice(3, None), marks=[needs_kernels, *nightly().marks]),
    ],
)
def test_a_kernel_flags_what_the_checks_reject_and_nothing_else(request, road, some, dtype):
    dtype = np.dtype(dtype)
    seen = set()
    for bounds in list(edge_cases())[some]:
        x = points(bounds, dtype)
        delta, eps = np.ones_like(x), np.full(1, 0.01)
        if road == "numba":
            limits = (np.full((1, 1), b, dtype) for b in bounds)
            slack = prepare(x, delta, 0.01, 2, bounds).tolerance
            _, flags = arrays.solve(x, delta, eps.repeat(len(x)), 2.0, *limits, tolerance=slack)
            flagged = flags != 0
        else:
            request.getfixturevalue("triton")
            x, delta = (torch.from_numpy(a).to(DEVICE) for a in (x, delta))
            problem = prepare(x, delta, 0.01, 2, bounds)
            from foolbox_carescale.engines.triton_cuda import launch, move_launch

            eta, _ = launch.solve(x, delta, 0.01, 2.0, *bounds, problem.tolerance)
            flagged = eta[:, 0].cpu().numpy() == 0
            moved = [
                move_launch.reachable_norm(row[None], delta[:1], 2.0, *bounds, problem.tolerance)
                for row in x
            ]
            np.testing.assert_array_equal([bool(flags) for _, flags in moved], flagged)
        rows = [rejected(prepare(x[i : i + 1], delta[:1], 0.01, 2, bounds)) for i in range(len(x))]
        np.testing.assert_array_equal(flagged, rows, err_msg=str(bounds))
        seen |= set(rows)
    assert seen == {True, False}


@needs_kernels
def test_a_point_at_the_edge_does_not_move_others_twice(triton):
    x = torch.full((2, WIDTH), 0.5, device=DEVICE)
    x[1, -1] = EDGE
    before, delta = x.clone(), torch.linspace(-1, 1, WIDTH, device=DEVICE).repeat(2, 1)
    expected = fc.perturb(x[:1].clone(), delta[:1], 0.3, bounds=BOUNDS)
    try:
        fc.perturb(x, delta, 0.3, bounds=BOUNDS, in_place=True)
    except ValueError:
        torch.testing.assert_close(x[1], before[1], rtol=0, atol=0)
    torch.testing.assert_close(x[:1], expected, rtol=0, atol=0)


@needs_kernels
def test_flags_that_nobody_else_confirms_are_an_error_that_moves_nothing_again(triton, monkeypatch):
    from foolbox_carescale.engines.triton_cuda import launch

    perturb = launch.perturb

    def doubtful(*args, **kwargs):
        moved, eta, flags = perturb(*args, **kwargs)
        return moved, eta, flags | checks.OUT_OF_BOUNDS

    x = torch.full((2, WIDTH), 0.5, device=DEVICE)
    delta = torch.ones_like(x)
    expected = fc.perturb(x, delta, 0.3)
    monkeypatch.setattr(launch, "perturb", doubtful)
    with pytest.raises(ValueError, match=r"^x: values lie outside the bounds$"):
        fc.perturb(x, delta, 0.3, in_place=True)
    torch.testing.assert_close(x, expected, rtol=0, atol=0)


@needs_kernels
def test_samples_beside_a_bad_one_are_moved_once_and_the_error_says_where(triton):
    x = torch.full((3, WIDTH), 0.5, device=DEVICE)
    delta = torch.ones_like(x)
    expected = fc.perturb(x, delta, 0.3)
    delta[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"delta: 1 of 15 values are NaN .* sample 1"):
        fc.perturb(x, delta, 0.3, in_place=True)
    torch.testing.assert_close(x[[0, 2]], expected[[0, 2]], rtol=0, atol=0)
    assert torch.all(x[1] == 0.5)


@pytest.mark.skipif(INTERPRETED, reason="nothing of Triton's")
@pytest.mark.parametrize("call", ["perturb", "project", "steepest", "sparse"])
def test_flags_of_rows_that_were_written_on_the_cpu_are_an_error(monkeypatch, call):
    name = "steepest" if call == "sparse" else call
    compiled = getattr(arrays, name)

    def doubtful(*args, **kwargs):
        *found, flags = compiled(*args, **kwargs)
        return *found, flags | arrays.Flags.OUT_OF_BOUNDS

    x = np.full((2, WIDTH), 0.5, np.float32)
    z = x + np.float32(0.1)
    monkeypatch.setattr(numba_cpu.NumbaCPU, "_arrays", arrays)
    monkeypatch.setattr(arrays, name, doubtful)
    if call == "perturb":
        with pytest.raises(ValueError, match=r"^x: values lie outside the bounds$"):
            fc.perturb(x, z, 0.01, in_place=True)
        return
    if call == "steepest":
        with pytest.raises(ValueError, match=r"^x: values lie outside the bounds$"):
            steps.step(ep.astensor(x), ep.astensor(z), 0.01, p=2, bounds=(0, 1), overwrite=True)
        return
    if call == "sparse":
        points, gradient = (ep.astensor(torch.from_numpy(a)) for a in (x, z))
        with pytest.raises(ValueError, match=r"^x: values lie outside the bounds$"):
            steps.sparse_step(points, gradient, 0.01, np.ones(2), bounds=(0, 1), overwrite=True)
        return
    wrapped = {name: ep.astensor(a) for name, a in (("z", z), ("x0", x), ("direction", z))}
    momentum = 0.25, ep.astensor(x), ep.astensor(x)
    with pytest.raises(ValueError, match=r"^x0: values lie outside the bounds$"):
        steps.enforce_constraint(
            **wrapped, eps=0.01, p=2, bounds=(0, 1), sphere=True, momentum=momentum
        )
