"""What importing the package costs and brings."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
start = time.perf_counter()
import foolbox
between = time.perf_counter()
import foolbox_carescale
end = time.perf_counter()
print(f"foolbox {between - start:.2f} s, foolbox_carescale {end - between:.2f} s more")
loaded = {name.split(".")[0] for name in sys.modules}
heavy = {"torch", "torchvision", "jax", "jaxlib", "tensorflow", "keras", "pydantic", "hydra"}
print("loaded:", *sorted(loaded & heavy))
"""


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    print(done.stdout)
    return done.stdout


def test_import_brings_neither_a_deep_learning_framework_nor_pydantic():
    assert "loaded:\n" in run(PROGRAM)


def test_numpy_arrays_are_served_without_a_deep_learning_framework():
    program = """
import sys, numpy as np
import foolbox_carescale as fc
rng = np.random.default_rng(0)
x, delta = rng.uniform(size=(2, 8)), rng.normal(size=(2, 8))
for operator in (fc.clipping_aware_rescaling, fc.perturb, fc.project, fc.steepest_step):
    for p in (1.0, 1.5, 2.0, float("inf")):
        operator(x, x if operator is fc.project else delta, 0.5, p=p)
assert not {"torch", "jax", "tensorflow"} & set(sys.modules)
print("served")
"""
    assert "served" in run(program)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_tensors_of_one_framework_bring_no_other(framework):
    program = f"""
import sys, numpy as np
import foolbox_carescale as fc
import {framework}
ones = {framework}{".numpy" if framework == "jax" else ""}.ones((2, 8))
moved = fc.perturb(ones * 0.5, ones, 0.5)
assert abs(float((moved - 0.5)[0, 0]) - 0.5 / 8**0.5) < 1e-6
print("loaded:", *sorted({{"torch", "jax", "tensorflow"}} & set(sys.modules)))
"""
    assert f"loaded: {framework}\n" in run(program)
