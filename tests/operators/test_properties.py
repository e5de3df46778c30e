"""What holds for any input of the operators: shapes, dtypes, memory, bounds, orders, extremes.

The values of `test_rescale` and its neighbours are chosen; here hypothesis chooses them,
and with them how they lie in memory.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import foolbox_carescale as fc
from tests import backends, reference
from tests.exactness import NORMAL, assert_norm, tolerance

OPERATORS = {
    "clipping_aware_rescaling": fc.clipping_aware_rescaling,
    "perturb": fc.perturb,
    "reachable_norm": lambda x, v, eps, **kw: fc.reachable_norm(x, v, **kw),
    "project": lambda x, v, eps, **kw: fc.project(x + v, x, eps, **kw),
    "steepest_step": fc.steepest_step,
}
MOVES = {name: OPERATORS[name] for name in ("perturb", "project", "steepest_step")}
each_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
each_move = pytest.mark.parametrize("operator", MOVES.values(), ids=MOVES)

NATIVE = [f"{f}-{d}" for f in ("numpy", "torch") for d in backends.DTYPES[f]]
WHOLE = [n for n in NATIVE if not n.endswith("16")]
# they compile for each shape, and are served by the same engine where values can be read
COSTLY = [f"{f}-{d}" for f in ("tensorflow", "jax") for d in backends.DTYPES[f]]
BFLOAT16 = backends.Backend("torch", "bfloat16")  # NumPy itself has none
few = settings(max_examples=settings.default.max_examples // 15)
NIGHT = settings.default is settings.get_profile("nightly")

# numba compiles 1.5 and 3 for themselves: test_numba_cpu and test_short_rows have these by day
KINDS = (1.0, 1.3, 1.5, 2.0, 3.0, math.inf) if NIGHT else (1.0, 1.3, 2.0, math.inf)
ANY_ORDER = st.one_of(st.sampled_from(KINDS), st.floats(1, 4), st.floats(4, 1000))
# for bounds that are arrays each kind of order is compiled once more, in each precision
ARRAY_ORDERS = {"float64": st.sampled_from((2.0, math.inf))}
TASKS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
# of the directions: ratios up to what the dtype can scale back
LEAST = {"float16": 2e-3, "bfloat16": 1e-15, "float32": 1e-15, "float64": 1e-60}


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem, as its dtype holds it, in float64."""

    name: str
    x: np.ndarray
    v: np.ndarray
    lower: Any
    upper: Any
    eps: np.ndarray
    p: float

    @property
    def dtype(self) -> str:
        return self.name.partition("-")[2]

    def arguments(self, backend: backends.Backend) -> tuple[list[Any], dict[str, Any]]:
        """For an operator."""
        bounds = tuple(b if isinstance(b, float) else backend.tensor(b) for b in self.bounds)
        return [backend.tensor(self.x), backend.tensor(self.v), self.eps], {
            "p": self.p,
            "bounds": bounds,
        }

    @property
    def bounds(self) -> tuple[Any, Any]:
        return self.lower, self.upper

    @property
    def flat(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """x, v, lower and upper, one row per sample."""
        full = (np.broadcast_to(t, self.x.shape) for t in (self.x, self.v, *self.bounds))
        rows = len(self.x), math.prod(self.x.shape[1:])
        x, v, lower, upper = (t.reshape(rows) for t in full)
        return x, v, lower, upper

    def repeated(self) -> Case:
        """All samples as the first."""
        rows = {n: getattr(self, n) for n in ("x", "v", "lower", "upper")}
        whole = {n: np.broadcast_to(t, self.x.shape) for n, t in rows.items()}
        first = {n: np.broadcast_to(t[:1], t.shape) for n, t in whole.items()}
        return dataclasses.replace(self, **first) if len(self.x) else self

    def reach(self) -> np.ndarray:
        x, v, lower, upper = self.flat
        return reference.reachable_norm(x, v, self.p, lower, upper)


@st.composite
def cases(draw: Any, names: Any = NATIVE, *, empty: bool = True, arrays: bool = False) -> Case:
    """Any shape with up to 5 dimensions, any bounds that broadcast, eps up to out of reach.

    With `arrays`, orders are those for bounds that are arrays, into which the test turns all.
    """
    name = draw(st.sampled_from(names))
    dtype = name.partition("-")[2]
    shape = draw(hnp.array_shapes(max_dims=5, min_side=0 if empty else 1, max_side=4))

    def array(shape: Any, elements: Any) -> np.ndarray:
        return draw(hnp.arrays(np.float64, shape, elements=elements))

    magnitudes = st.one_of(st.just(0.0), st.floats(LEAST[dtype], 8.0), st.floats(0.1, 1.0))
    v = array(shape, magnitudes) * np.where(array(shape, st.sampled_from((0.0, 1.0))), 1, -1)
    share = array(shape, st.floats(0, 1))
    of_arrays = ANY_ORDER if NIGHT else ARRAY_ORDERS.get(dtype, st.just(math.inf))
    order = of_arrays if arrays else ANY_ORDER
    if draw(st.booleans()):
        lower, upper = draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-3.5, -2.25)]))
    else:
        order = of_arrays
        # of fewer dimensions, or of one element in some
        kept = draw(st.integers(0, len(shape)))
        of_bounds = tuple(draw(st.sampled_from((1, n))) for n in shape[len(shape) - kept :])
        lower = array(of_bounds, st.floats(-2, 2))
        upper = lower + array(of_bounds, st.floats(0.25, 4))
        lower, upper = (_rounded(dtype, b) for b in (lower, upper))
    x = np.clip(_rounded(dtype, lower + share * (upper - lower)), lower, upper)
    p = draw(order)
    case = Case(name, x, _rounded(dtype, v), lower, upper, np.zeros(len(x)), p)
    fractions = array(
        (len(x),), st.one_of(st.floats(0, 1.5), st.floats(1e-6, 1), st.just(0.999999))
    )
    single = "float64" if dtype == "float64" else "float32"  # what eps is computed with
    return dataclasses.replace(case, eps=_rounded(single, fractions * case.reach()))


def _rounded(dtype: str, values: Any) -> np.ndarray:
    # one library for all: the first use of another would import it within a strategy
    return (BFLOAT16 if dtype == "bfloat16" else backends.Backend("numpy", dtype)).rounded(values)


def applied(operator: Any, case: Case) -> np.ndarray:
    with backends.make(case.name) as backend:
        tensors, keywords = case.arguments(backend)
        result = operator(*tensors, **keywords)
        assert backend.dtype_of(result) == backend.dtype
        return backend.numpy(result)


# Size


@given(cases())
def test_norm_is_eps_or_all_that_is_reachable(case):
    check_size(case)


@few
@given(cases(COSTLY))
def test_norm_is_eps_or_all_that_is_reachable_in_other_frameworks(case):
    check_size(case)


def check_size(case):
    eta = applied(fc.clipping_aware_rescaling, case)
    assert eta.shape == (len(case.x), *(1,) * (case.x.ndim - 1))
    x, v, lower, upper = case.flat
    with backends.make(case.name) as backend:
        assert_norm(backend, eta, x, v, case.eps, case.p, lower, upper)


@given(cases())
def test_reachable_norm_is_that_of_the_far_corner(case):
    check_reach(case)


@few
@given(cases(COSTLY))
def test_reachable_norm_is_that_of_the_far_corner_in_other_frameworks(case):
    check_reach(case)


def check_reach(case):
    # in float16 and below its normal numbers the norm itself is rounded
    np.testing.assert_allclose(
        applied(OPERATORS["reachable_norm"], case),
        case.reach(),
        rtol=2 * tolerance(case.dtype, case.p),
        atol=1e-7 if case.dtype == "float16" else 1e-37,
    )


# Where the points end


@each_move
@given(cases())
def test_points_end_in_the_box_to_the_last_digit(operator, case):
    check_box(operator, case)


@each_move
@few
@given(cases(COSTLY))
def test_points_end_in_the_box_to_the_last_digit_in_other_frameworks(operator, case):
    check_box(operator, case)


def check_box(operator, case):
    moved = applied(operator, case)
    assert moved.shape == case.x.shape
    assert np.all((case.lower <= moved) & (moved <= case.upper))
    # along the direction, and not at all where it is zero or shows out of the box
    assert np.all((moved - case.x) * case.v >= 0)
    assert np.all((moved == case.x) | (case.v != 0))


@each_move
@given(cases())
def test_perturbation_is_no_longer_than_eps(operator, case):
    x, _, lower, upper = case.flat
    moved = applied(operator, case).reshape(x.shape)
    size = reference.norm(moved - x, case.p)
    # of the sum x + s: half a unit in the last place of the larger of the bounds
    largest = np.maximum(np.abs(lower), np.abs(upper)).max(axis=1, initial=0.0)
    rounding = TASKS[case.dtype] * largest * max(x.shape[1], 1) ** (1 / case.p)
    assert np.all(size <= case.eps * (1 + tolerance(case.dtype, case.p)) + 2 * rounding)
    if operator is not MOVES["project"]:
        wanted = np.minimum(case.eps, case.reach())
        assert np.all(
            np.abs(size - wanted) <= tolerance(case.dtype, case.p) * wanted + 2 * rounding
        )


@each_move
@given(cases(), st.floats(0, 1))
def test_no_element_goes_back_as_eps_grows(operator, case, share):
    far = np.abs(applied(operator, case) - case.x)
    near = np.abs(applied(operator, dataclasses.replace(case, eps=share * case.eps)) - case.x)
    assert np.all(near <= far * (1 + 2 * tolerance(case.dtype, case.p)))


@given(cases())
def test_projection_lies_between_centre_and_target_and_stays_there(case):
    once = applied(MOVES["project"], case)
    target = _rounded(case.dtype, case.x + case.v)
    unit = TASKS[case.dtype]
    ulps = 4 * unit * np.maximum(np.abs(case.x), np.abs(target))
    assert np.all(np.abs(once - case.x) <= np.abs(target - case.x) * (1 + 4 * unit) + ulps)
    assert np.all((target - once) * case.v >= -ulps * np.abs(case.v))
    again = dataclasses.replace(case, v=once - case.x)
    np.testing.assert_allclose(applied(MOVES["project"], again), once, atol=ulps.max(initial=0))


# What must not matter


@each_operator
@given(cases(arrays=True), st.sampled_from(("turned", "every other", "backwards", "one row")))
def test_how_values_lie_in_memory_does_not_matter(operator, case, layout):
    if layout == "one row":
        case = case.repeated()
    with backends.make(case.name) as backend:
        bounds = [np.broadcast_to(b, case.x.shape) for b in case.bounds]
        values = (case.x, case.v, case.eps, *bounds)
        compact = [backend.tensor(v) for v in values]
        spread = [laid_out(backend, v, layout) for v in values]
        results = [
            backend.numpy(operator(x, v, eps, p=case.p, bounds=both))
            for x, v, eps, *both in (compact, spread)
        ]
    np.testing.assert_array_equal(*results)


def laid_out(backend: backends.Backend, values: np.ndarray, layout: str) -> Any:
    """The same values in memory that is not contiguous."""
    if layout == "one row" and values.ndim > 1:
        row = backend.tensor(values[:1])
        return (
            row.expand(values.shape)
            if backend.framework == "torch"
            else np.broadcast_to(row, values.shape)
        )
    if layout == "turned":
        turned = backend.tensor(values.T)
        return (
            turned.permute(*range(values.ndim)[::-1]) if backend.framework == "torch" else turned.T
        )
    if layout == "backwards" and backend.framework == "numpy":  # PyTorch has no negative strides
        back = (slice(None, None, -1),) * values.ndim
        return backend.tensor(values[back])[back]
    wide = np.full([2 * n + 1 for n in values.shape], 0.5)
    every_other = tuple(slice(1, 2 * n, 2) for n in values.shape)
    wide[every_other] = values
    return backend.tensor(wide)[every_other]


@each_operator
@given(cases(arrays=True))
def test_bounds_mean_the_same_in_every_shape(operator, case):
    full = [np.ascontiguousarray(np.broadcast_to(b, case.x.shape)) for b in case.bounds]
    spread = dataclasses.replace(case, lower=full[0], upper=full[1])
    found, expected = applied(operator, case), applied(operator, spread)
    if operator is fc.steepest_step and case.p == 1:
        # what the last coordinates get is a difference of sums, which for numbers and for arrays
        # are compiled apart and added up in another order
        largest = max(np.abs(t).max(initial=0.0) for t in (*full, case.eps))
        digit = {"float64": 2.0**-52, "float32": 2.0**-23}.get(case.dtype, 2.0**-7)
        np.testing.assert_allclose(found, expected, rtol=0, atol=8 * digit * largest)
    else:
        np.testing.assert_array_equal(found, expected)


@each_operator
@given(cases(arrays=True), st.randoms(use_true_random=False))
def test_order_of_the_samples_does_not_matter(operator, case, random):
    order = list(range(len(case.x)))
    random.shuffle(order)
    bounds = [np.broadcast_to(b, case.x.shape)[order] for b in case.bounds]
    mixed = dataclasses.replace(
        case,
        x=case.x[order],
        v=case.v[order],
        eps=case.eps[order],
        lower=bounds[0],
        upper=bounds[1],
    )
    np.testing.assert_array_equal(applied(operator, mixed), applied(operator, case)[order])


@each_operator
@given(cases(WHOLE), st.integers(-15, 15))
def test_another_unit_of_length_changes_no_digit(operator, case, exponent):
    """Nothing in the problem has a meaning of its own; a power of four, because of square roots."""
    unit = 4.0**exponent
    scaled = dataclasses.replace(
        case,
        lower=_times(case.lower, unit),
        upper=_times(case.upper, unit),
        **{name: getattr(case, name) * unit for name in ("x", "v", "eps")},
    )
    expected = applied(operator, case)
    if operator is not OPERATORS["clipping_aware_rescaling"]:
        expected = expected * unit
    atol = 2 * NORMAL[case.dtype][0] * max(unit, 1.0)  # below the normal numbers digits are lost
    np.testing.assert_allclose(applied(operator, scaled), expected, rtol=0, atol=atol)


def _times(bound: Any, unit: float) -> Any:
    # of the same type, for which the same program runs
    return (
        bound * unit
        if isinstance(bound, float)
        else np.multiply(bound, unit, out=np.empty_like(bound))
    )


# Extremes

EXTREME = st.sampled_from((0.0, -0.0, 5e-324, 1e-310, 1e-300, 1e-150, 1.0, 1e150, 1e300))
EXTREME32 = st.sampled_from((0.0, -0.0, 1e-45, 1e-40, 1e-37, 1e-18, 1.0, 1e18, 1e37))


@st.composite
def extremes(draw: Any) -> Case:
    """Numbers from the smallest that a dtype holds to nearly the largest, side by side."""
    name = draw(st.sampled_from(WHOLE))
    dtype = name.partition("-")[2]
    elements = EXTREME if dtype == "float64" else EXTREME32
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=4))

    def array(shape: Any) -> np.ndarray:
        signs = draw(hnp.arrays(np.float64, shape, elements=st.sampled_from((1.0, -1.0))))
        return _rounded(dtype, signs * draw(hnp.arrays(np.float64, shape, elements=elements)))

    span = draw(st.sampled_from((1e-30, 1.0, 1e30)))
    lower, upper = -span, span
    x = np.clip(array(shape), _rounded(dtype, lower), _rounded(dtype, upper))
    p = draw(st.sampled_from((1.05, 50.0, *KINDS)))
    return Case(name, x, array(shape), lower, upper, np.abs(array((len(x),))), p)


@each_operator
@given(extremes())
def test_numbers_of_any_size_give_finite_results_in_the_box(operator, case):
    result = applied(operator, case)
    assert np.all(np.isfinite(result))
    if operator in MOVES.values():
        lower, upper = (_rounded(case.dtype, b) for b in case.bounds)
        assert np.all((lower <= result) & (result <= upper))
    elif operator is OPERATORS["clipping_aware_rescaling"]:
        assert np.all(result >= 0)
        assert np.all(result.ravel()[case.eps == 0] == 0)


@given(extremes())
def test_norm_is_right_wherever_the_dtype_holds_eta(case):
    # an eps below the normal numbers counts as 0
    case = dataclasses.replace(case, eps=np.where(case.eps < NORMAL[case.dtype][0], 0, case.eps))
    eta = applied(fc.clipping_aware_rescaling, case)
    x, v, lower, upper = case.flat
    lower, upper = (_rounded(case.dtype, b) for b in (lower, upper))
    # the search is for eta / eps: where this has no room in float64, eta is only finite
    least = np.where(v == 0, np.inf, np.abs(v)).min(axis=1, initial=np.inf)
    with np.errstate(over="ignore", divide="ignore"):
        kept = (2 * case.upper / least / np.where(case.eps > 0, case.eps, 1.0)) < 1e307
        # nor where eta itself is below all numbers
        kept &= (case.eps == 0) | (case.eps / np.abs(v).max(axis=1, initial=1e-300) > 1e-300)
    x, v, lower, upper, eta = x[kept], v[kept], lower[kept], upper[kept], eta[kept]
    with np.errstate(all="ignore"), backends.make(case.name) as backend:
        assert_norm(backend, eta, x, v, case.eps[kept], case.p, lower, upper)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@given(extremes())
def test_gradient_is_never_nan(case):
    import torch

    dtype = getattr(torch, case.dtype)
    x, v, eps = (
        torch.tensor(t, dtype=dtype, requires_grad=True) for t in (case.x, case.v, case.eps)
    )
    eta = fc.clipping_aware_rescaling(x, v, eps, p=case.p, bounds=case.bounds)
    moved = fc.perturb(x, v, eps, p=case.p, bounds=case.bounds)
    for output in (eta, moved):
        for gradient in torch.autograd.grad(output.sum(), (x, v, eps), allow_unused=True):
            assert gradient is None or not gradient.isnan().any()
