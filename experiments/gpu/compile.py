"""Compile every Triton kernel that operators and attacks launch, without a GPU, and record it.

    python -m experiments.gpu.compile --output experiments/results

The calls of `calls` run on tensors that say they are on a GPU (`pretend`). Triton compiles what
they launch, for sm_75 to sm_120, with its own ptxas; cuobjdump tells registers, stack and shared
memory of the machine code. Stack is where registers spill to. From registers, threads and shared
memory follows how many blocks fit a multiprocessor; two hide each other's latency.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

PACKAGES = ("torch", "triton", "foolbox-carescale")
ORDERS = (1.0, 1.3, 2.0, math.inf)
# one program per row, several per row, several rows per program
SHAPES = ((512, 3, 32, 32), (8, 3, 224, 224), (5000, 10))
DTYPES = {"float32": SHAPES, "float16": SHAPES[:1], "bfloat16": SHAPES[:1], "float64": SHAPES[:1]}
FEW_ORDERS = (1.3, math.inf)  # of dtypes other than float32
Case: TypeAlias = tuple[str, float, tuple[int, ...]]  # dtype, p, shape
ATTACKED = 16  # samples
ATTACKS: dict[str, dict[str, Any]] = {
    "PGD": {"steps": 3},
    "APGD": {"steps": 4},
    "Square": {"queries": 3, "seed": 0},
    "MinimumNorm": {"steps": 8},
    "SaltAndPepperNoise": {},
}
REGISTERS = 65536  # per multiprocessor, in all architectures


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes, compiled for one call; ``blocks`` of it fit a multiprocessor."""

    capability: int
    name: str
    dtype: str
    p: float
    call: str
    warps: int
    registers: int
    stack: int  # bytes per thread
    shared: int  # bytes per block
    blocks: int


def main(arguments: list[str] | None = None) -> None:
    """Compile and print the tables; with ``--output`` write them."""
    from experiments.gpu.pretend import ARCHITECTURES

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="folder for gpu_compile.md and gpu_compile.csv")
    parser.add_argument(
        "--capabilities", type=int, nargs="+", default=list(ARCHITECTURES), help="75 is sm_75"
    )
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--orders", type=float, nargs="+", default=list(ORDERS))
    parser.add_argument("--shapes", nargs="+", help="128x3x32x32 and so on, for every dtype")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--into", type=Path, help="compile in this process, into this CSV file")
    chosen = parser.parse_args(arguments)
    cases = _cases(chosen)
    if chosen.into is not None:
        write(chosen.into, *compiled(chosen.capabilities[0], cases))
        return
    kernels, failures = [], []
    arguments = sys.argv[1:] if arguments is None else arguments
    with ThreadPoolExecutor(chosen.processes) as pool:
        for found, failed in pool.map(
            lambda capability: _in_a_process(capability, arguments), chosen.capabilities
        ):
            kernels += found
            failures += failed
    text = render(kernels, failures)
    print(text)
    if chosen.output is not None:
        chosen.output.mkdir(parents=True, exist_ok=True)
        (chosen.output / "gpu_compile.md").write_text(text, encoding="utf-8")
        write(chosen.output / "gpu_compile.csv", kernels, [])


def _cases(chosen: argparse.Namespace) -> list[Case]:
    shapes = [tuple(map(int, shape.split("x"))) for shape in chosen.shapes or ()]
    return [
        (dtype, p, shape)
        for dtype in chosen.dtypes
        for p in chosen.orders
        if dtype == "float32" or p in FEW_ORDERS
        for shape in shapes or DTYPES[dtype]
    ]


def compiled(capability: int, cases: list[Case]) -> tuple[list[Kernel], list[str]]:
    """Return the kernels that the calls launch on an architecture, and what failed."""
    import warnings

    import torch

    from experiments.gpu.pretend import ARCHITECTURES, gpu

    kernels: list[Kernel] = []
    failures: list[str] = []
    with gpu(capability) as driver, warnings.catch_warnings():
        # an engine that does not start says so by a warning
        warnings.filterwarnings("error", message="engine ")
        for dtype, p, label, call in _calls(cases):
            driver.loaded.clear()
            try:
                with torch.no_grad() if "gradient" not in label else torch.enable_grad():
                    call()
            except Exception as error:  # each is a finding, and the next call is another
                said = (str(error).splitlines() or [""])[0][:160]
                where = f"sm_{capability}, {dtype}, p = {p:g}, {label}"
                failures.append(f"{where}: {type(error).__name__}: {said}")
            for loaded in driver.loaded:
                registers, stack = _resources(loaded.cubin)
                warps, shared = loaded.metadata.num_warps, loaded.metadata.shared
                blocks = blocks_of(ARCHITECTURES[capability], registers, warps, shared)
                name = loaded.metadata.name
                kernels.append(
                    Kernel(
                        capability, name, dtype, p, label, warps, registers, stack, shared, blocks
                    )
                )
    return kernels, failures


def _calls(cases: list[Case]) -> Iterator[tuple[str, float, str, Any]]:
    import torch

    from experiments.gpu import calls

    for dtype, p, shape in cases:
        x, delta = (f(shape).to(getattr(torch, dtype)) for f in (torch.rand, torch.randn))
        made = calls.operators(x, delta, p, 1.0)
        made["gradient of perturb"] = calls.gradient(x, delta, p, 1.0)
        lower = torch.zeros((1, *shape[1:]), dtype=x.dtype)
        made["bounds that are tensors"] = calls.bounded(x, delta, p, 1.0, lower, lower + 1)
        if dtype in ("float32", "float64"):
            made["perturb in place"] = calls.in_place(x, delta, p, 1.0)
        if shape == SHAPES[0] and p >= 1 and dtype == "float32":
            few = x[:ATTACKED]
            for name, settings in ATTACKS.items():
                made[name] = calls.attack(name, p, few, 1.0, **settings)
        size = "x".join(map(str, shape))
        for label, call in made.items():
            yield dtype, p, f"{label} {size}", call


def _resources(cubin: bytes) -> tuple[int, int]:
    """Return registers and bytes of stack, per thread."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = dict(re.findall(r"\b(REG|STACK):(\d+)", told))
    return int(usage["REG"]), int(usage["STACK"])


def blocks_of(architecture: Any, registers: int, warps: int, shared: int) -> int:
    """Return how many blocks of a kernel fit a multiprocessor at once."""
    # registers go to warps by 256, from four files of a quarter each
    per_warp = math.ceil(registers * 32 / 256) * 256
    by_registers = REGISTERS // 4 // per_warp * 4 // warps
    by_threads = architecture.threads // (32 * warps)
    reserved = 1024 if architecture.capability >= 80 else 0
    by_shared = architecture.shared // max(1, shared + reserved)
    return min(by_registers, by_threads, by_shared)


def render(kernels: list[Kernel], failures: list[str]) -> str:
    """Return the tables: the worst of each kernel, what does not fit twice, what spills."""
    from experiments.benchmarks.environment import describe

    capabilities = sorted({k.capability for k in kernels})
    lines = [
        "# Triton's kernels, compiled without a GPU",
        "",
        f"Compiled {describe(PACKAGES)}. Nothing here was run: not yet measured on a GPU.",
        "",
        f"{len(kernels)} compiled kernels, {len(failures)} failures. The table gives the most"
        " registers, in brackets the most bytes of stack per thread where there are any, and the"
        " fewest blocks that fit a multiprocessor.",
        "",
        "| kernel | warps | " + " | ".join(f"sm_{c}" for c in capabilities) + " |",
        "|" + "---|" * (2 + len(capabilities)),
    ]
    groups: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        groups[kernel.name].append(kernel)
    for name, group in sorted(groups.items()):
        warps = "-".join(
            map(str, sorted({min(k.warps for k in group), max(k.warps for k in group)}))
        )
        shown = [_worst([k for k in group if k.capability == c]) for c in capabilities]
        lines.append(f"| {name} | {warps} | " + " | ".join(shown) + " |")
    lines += ["", "## Fewer than two blocks per multiprocessor, or stack", ""]
    lines += _exceptions(kernels) or ["None."]
    lines += ["", "## Failures", ""]
    lines += [f"- {failure}" for failure in failures] or ["None."]
    return "\n".join(lines) + "\n"


def _worst(group: list[Kernel]) -> str:
    if not group:
        return "-"
    stack = max(k.stack for k in group)
    spilled = f" ({stack} B)" if stack else ""
    return f"{max(k.registers for k in group)}{spilled}, {min(k.blocks for k in group)}"


def _exceptions(kernels: list[Kernel]) -> list[str]:
    groups: dict[tuple[Any, ...], list[Kernel]] = defaultdict(list)
    for k in kernels:
        if k.blocks < 2 or k.stack:
            groups[k.capability, k.name, k.dtype, k.p].append(k)
    if not groups:
        return []
    lines = [
        "| architecture | kernel | dtype | p | registers | stack, B | shared, B | blocks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (capability, name, dtype, p), group in sorted(groups.items()):
        figures = [max(getattr(k, n) for k in group) for n in ("registers", "stack", "shared")]
        blocks = min(k.blocks for k in group)
        shown = " | ".join(map(str, [*figures, blocks]))
        lines.append(f"| sm_{capability} | {name} | {dtype} | {p:g} | {shown} |")
    return lines


def _in_a_process(capability: int, arguments: list[str]) -> tuple[list[Kernel], list[str]]:
    """Compile in a process of its own: Triton keeps what it compiled per process."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "kernels.csv"
        command = [sys.executable, "-m", "experiments.gpu.compile", *arguments]
        command += ["--capabilities", str(capability), "--into", str(into)]
        environment = {**os.environ, "TRITON_CACHE_DIR": folder}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return read(into)


def write(path: Path, kernels: list[Kernel], failures: list[str]) -> None:
    """Write kernels as CSV, and failures as lines of one column."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f.name for f in fields(Kernel)])
        writer.writerows(astuple(kernel) for kernel in kernels)
        writer.writerows([failure] for failure in failures)


def read(path: Path) -> tuple[list[Kernel], list[str]]:
    """Return what `write` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    kinds = [{"int": int, "float": float, "str": str}[f.type] for f in fields(Kernel)]
    kernels = [
        Kernel(*(kind(value) for kind, value in zip(kinds, row, strict=True)))
        for row in rows
        if len(row) > 1
    ]
    return kernels, [row[0] for row in rows if len(row) == 1]


if __name__ == "__main__":
    main()
