"""The tests of Triton's kernels where there is no GPU: in Triton's interpreter."""

import pathlib

import pytest
import torch

from tests.engines.triton_interpreter import INTERPRETED, run_tests_of

pytest.importorskip("triton", reason="Triton is not installed: it has no wheel here")
NAMES = ("triton_cuda", "triton_cuda_in_operators", "triton_moves", "written_once")


@pytest.mark.skipif(
    INTERPRETED or torch.cuda.is_available(), reason="this is the interpreter, or a GPU"
)
@pytest.mark.parametrize(
    "cases", ["not nightly", pytest.param("nightly", marks=pytest.mark.nightly)]
)
def test_the_interpreter_agrees(cases):
    """One process for all, which takes seconds to import what they need."""
    here = pathlib.Path(__file__).parent
    run_tests_of(*(str(here / f"test_{name}.py") for name in NAMES), cases=cases)
