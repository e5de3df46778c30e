"""The kernels' own powers, against those of the mathematics library in more digits."""

import numba
import numpy as np
import pytest

from foolbox_carescale.engines.numba_cpu.kernels.powers import (
    KINDS,
    general_order,
    lowered_power,
    power,
)


@numba.njit
def powers(c, order, out, lowered):
    for i in range(c.size):
        out[i] = power(c[i], order)
        lowered[i] = lowered_power(c[i], order)


def of(p, dtype):
    """As `engines.cpu` gives it."""
    if p in KINDS:
        return (dtype(p),) * KINDS[p]
    return tuple(map(dtype, general_order(p, np.dtype(dtype))))


@pytest.mark.parametrize("p", [0.3, 1.0, 1.3, 1.5, 2.0, 2.7, 3.0, 10.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_are_exact_to_the_last_digits_and_without_a_bias(p, dtype):
    rng = np.random.default_rng(0)
    reach = 100 / max(p, 1) * (1 if dtype == np.float32 else 8)
    c = np.exp2(rng.uniform(-reach, reach, 3000)).astype(dtype)
    found = np.empty((2, 3000), dtype)
    powers(c, of(p, dtype), *found)
    for result, less in zip(found, (0, 1), strict=True):
        error = (result / c.astype(np.longdouble) ** (np.longdouble(p) - less) - 1).astype(float)
        digit = float(np.finfo(dtype).eps)
        # the logarithm has one, which p multiplies
        assert np.abs(error).max() <= (2 + 0.4 * p) * digit
        assert abs(error.mean()) <= 0.1 * digit


@pytest.mark.parametrize("p", [0.3, 1.3, 10.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_stay_inside_the_numbers(p, dtype):
    order = of(p, dtype)
    least, most = order[2:4]
    c = np.array([0, least, np.nextafter(least, dtype(1)), most, np.finfo(dtype).max], dtype)
    found, lowered = np.empty((2, 5), dtype)
    powers(c, order, found, lowered)
    np.testing.assert_array_equal(found[:2], 0)
    assert found[2:4] == pytest.approx(
        c[2:4].astype(float) ** p, rel=10 * p * float(np.finfo(dtype).eps)
    )
    assert found[4] == found[3]
    assert found[3] < np.finfo(dtype).max
    assert lowered[0] == 0
