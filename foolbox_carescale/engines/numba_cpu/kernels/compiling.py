"""How kernels are compiled, and what all need: elements of bounds and rooms, and bits."""

# numba infers the types of what it compiles
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.extending import intrinsic, overload

# Sums in the array's precision run over blocks of this many elements and are added up in float64:
# no cost, and right for rows of 12 million elements, where one float32 sum is off by 1e-5. Equal
# elements round alike: with blocks of 4096 and AVX-512 the norm was off by 1e-6 just below the far
# corner of rows that are mostly on the bounds, with 1024 it is by 4.7e-7.
BLOCK = 1024

# Re-association and contraction only: the checks need NaN and infinity to keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp", "afn"}

# Most functions are called by compiled ones only: a quarter less to compile. They become a part of
# each of these, because the linker would take the copy that the process has compiled before, and
# otherwise, with what is loaded from disk, the caller's own, which was optimised apart and may
# differ in the last digit.
INTERNAL = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": True}
CALLED_FROM_PYTHON = {"no_cpython_wrapper": False, "forceinline": False}


# numba itself looks at the file of the outermost function only, and would go on with what an edited
# or upgraded file beside it was.
SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return `numba.njit`, cached on disk where there is a place to cache."""
    # Python's error model tests every division for zero, which also prevents vectorisation.
    options = {"nogil": True, "error_model": "numpy", **INTERNAL, **options}

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return _forgiving(njit(cache=True, **options)(function))
        except RuntimeError:  # no writable place
            return njit(**options)(function)

    return decorate


def _forgiving(dispatcher: Any) -> Any:
    """Return the dispatcher, which compiles where its cache is stale or cannot be read or written.

    numba raises what a truncated file, a full disk or a folder that became read-only raises.
    """
    cache = getattr(dispatcher, "_cache", None)
    if cache is None:  # NUMBA_DISABLE_JIT
        return dispatcher
    load, save = cache.load_overload, cache.save_overload

    def load_overload(*args):
        try:
            return load(*args)
        except Exception:  # a damaged pickle raises anything
            with suppress(OSError):
                cache.flush()  # saving reads the index, too
            return None

    def save_overload(*args):
        with suppress(OSError):
            save(*args)

    cache.load_overload, cache.save_overload = load_overload, save_overload
    cache._cache_file._source_stamp = SOURCES
    return dispatcher


# Bounds are numbers or arrays. These resolve by type when compiling, so that numbers cost nothing.


def value_at(bound, j):
    """Return element j of a bound."""
    raise NotImplementedError


def part_of(bound, start, stop):
    """Return elements start..stop of a bound."""
    raise NotImplementedError


def row_of(bound, i):
    """Return the bound of row i."""
    raise NotImplementedError


@overload(value_at)
def _value_at_overload(bound, j):
    if isinstance(bound, types.Array):
        return lambda bound, j: bound[j]
    return lambda bound, j: bound


@overload(part_of)
def _part_of_overload(bound, start, stop):
    if isinstance(bound, types.Array):
        return lambda bound, start, stop: bound[start:stop]
    return lambda bound, start, stop: bound


@overload(row_of)
def _row_of_overload(bound, i):
    if isinstance(bound, types.Array):
        return lambda bound, i: bound[i if bound.shape[0] > 1 else 0]
    return lambda bound, i: bound


@compiled(fastmath=FAST)
def room_at(x, v, lower, upper, j):
    """Return the distance from x to the bound that v points at, at element j."""
    return value_at(upper, j) - x[j] if v[j] > 0 else x[j] - value_at(lower, j)


@compiled(fastmath=FAST)
def clipped(a, lower, upper, j):
    """Return a number between the bounds of element j."""
    a = a if a > value_at(lower, j) else value_at(lower, j)
    return a if a < value_at(upper, j) else value_at(upper, j)


SAME_BITS: dict[Any, Any] = {
    types.float32: types.int32,
    types.float64: types.int64,
    types.int32: types.float32,
    types.int64: types.float64,
}


@intrinsic
def _reinterpret(typing, value):
    return SAME_BITS[value](value), _bitcast


# The bits of a float as an integer, and back.
bits_of: Any = _reinterpret


def _bitcast(context, builder, signature, args):
    return builder.bitcast(args[0], context.get_value_type(signature.return_type))
