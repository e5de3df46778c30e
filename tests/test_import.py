"""What importing the package costs and brings."""

import subprocess
import sys

LOADED = """
heavy = {"torch", "torchvision", "jax", "jaxlib", "tensorflow", "keras", "pydantic", "hydra"}
print("loaded:", *sorted({name.split(".")[0] for name in sys.modules} & {*heavy, "matplotlib"}))
"""

OF_NUMPY = """
import sys, time
start = time.perf_counter()
import foolbox
between = time.perf_counter()
import foolbox_carescale as fc
end = time.perf_counter()
print(f"foolbox {between - start:.2f} s, foolbox_carescale {end - between:.2f} s more")
assert foolbox.attacks.L2ClipAwarePGD
import foolbox_carescale.cli, foolbox_carescale.training.functional, numpy as np
rng = np.random.default_rng(0)
x, delta = rng.uniform(size=(2, 8)), rng.normal(size=(2, 8))
for operator in (fc.clipping_aware_rescaling, fc.perturb, fc.project, fc.steepest_step):
    for p in (1.0, 1.5, 2.0, float("inf")):
        operator(x, x if operator is fc.project else delta, 0.5, p=p)
"""

OF_TORCH = """
import sys, torch
import foolbox_carescale as fc
ones = torch.ones((2, 8))
moved = fc.perturb(ones * 0.5, ones, 0.5)
assert abs(float((moved - 0.5)[0, 0]) - 0.5 / 8**0.5) < 1e-6
"""

OF_JAX = """
import sys, jax.numpy
import foolbox_carescale as fc
ones = jax.numpy.ones((2, 8))
moved = fc.perturb(ones * 0.5, ones, 0.5)
assert abs(float((moved - 0.5)[0, 0]) - 0.5 / 8**0.5) < 1e-6
"""

OF_A_WORKER = """
import foolbox_carescale.evaluate.runner.executors.devices
assert "scipy.stats" not in sys.modules
"""


def loaded_by(program):
    done = subprocess.run(
        [sys.executable, "-c", program + LOADED], capture_output=True, text=True, check=True
    )
    print(done.stdout)
    return done.stdout.partition("loaded:")[2].split()


def test_the_package_its_commands_and_numpy_arrays_need_no_deep_learning_framework():
    assert loaded_by(OF_NUMPY) == []


def test_tensors_of_jax_bring_no_other_framework():
    assert loaded_by(OF_JAX) == ["jax", "jaxlib"]


def test_tensors_of_torch_bring_no_other_framework_and_a_worker_not_even_torchvision():
    assert loaded_by(OF_TORCH + OF_A_WORKER) == ["pydantic", "torch"]
