"""One run that says whether the GPU path is right and how fast it is, made for four minutes.

    python -m experiments.gpu                                # on a GPU: writes results/gpu.md
    python -m experiments.gpu --device cpu --tiny            # a trial, in Triton's interpreter
    python -m experiments.gpu --only right,waits             # some sections

Lines read ``name: value (goal) ok|MISS|info``; what missed its goal is repeated at the end, and
the exit status is 1 then. pyautoattack is optional.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

SECTIONS = {
    "right": "right",
    "layouts": "layouts",
    "derivatives": "derivatives",
    "attacks": "attacked",
    "waits": "waits",
    "speed": "speed",
    "models": "models",
    "transforms": "transforms",  # the last: a capture that fails may leave the device unusable
}
RESULTS = Path(__file__).parents[1] / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run the sections and return 1 where a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the check itself")
    parser.add_argument("--only", default="", help=f"some of {','.join(SECTIONS)}")
    parser.add_argument(
        "--seconds", type=float, default=210.0, help="no section starts later than this"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for gpu.md")
    chosen = parser.parse_args(arguments)
    sections = [name for name in chosen.only.split(",") if name] or list(SECTIONS)
    if unknown := set(sections) - SECTIONS.keys():
        parser.error(
            f"--only: no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}"
        )
    if not chosen.device.startswith("cuda"):
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported
    os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp(prefix="triton_"))
    return _run(chosen, sections)


def _run(chosen: Any, sections: list[str]) -> int:
    import torch

    from .report import Report
    from .setting import Setting, describe, engines_of_a_gpu

    setting = Setting(torch.device(chosen.device), chosen.tiny)
    report = Report()
    with engines_of_a_gpu(setting), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for line in describe(setting):
            report.note(line)
        for name in sections:
            if report.seconds > chosen.seconds:
                late = f"skipped after {report.seconds:.0f} s"
                report.add(f"section {name}", late, "to be run", ok=False)
                continue
            report.section(name)
            with report.attempt(f"section {name}"):
                importlib.import_module(f".{SECTIONS[name]}", __package__).check(report, setting)
            if setting.cuda:
                with report.attempt("the device still answers"):
                    torch.cuda.synchronize()
                    torch.cuda.empty_cache()
    print(f"{report.seconds:.0f} s, {len(report.missed)} missed goals", flush=True)
    for line in report.missed:
        print(line, flush=True)
    if setting.cuda:
        chosen.output.mkdir(parents=True, exist_ok=True)
        (chosen.output / "gpu.md").write_text(report.markdown("The GPU path"), encoding="utf-8")
    return 1 if report.missed else 0
