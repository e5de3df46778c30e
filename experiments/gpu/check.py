"""One run that says whether the GPU path is right and how fast it is, made for four minutes.

    python -m experiments.gpu                                # on a GPU: writes results/gpu.md
    python -m experiments.gpu --device cpu --tiny            # a trial, in Triton's interpreter
    python -m experiments.gpu --only right,waits             # some sections

Lines read ``name: value (goal) ok|MISS|info``; what missed its goal is repeated at the end, and
the exit status is 1 then. On a GPU each section is a process of its own, which may crash, hang or
leave the device unusable; gpu.md is written after each. Sections that time nothing run at once, as
they mostly compile. pyautoattack is optional.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .report import Report

SECTIONS = {
    "norms": "norms",
    "lower_norms": "lower_norms",
    "right": "right",
    "layouts": "layouts",
    "derivatives": "derivatives",
    "attacks": "attacked",
    "waits": "waits",
    "speed": "speed",
    "models": "models",
    "transforms": "transforms",
}
# what they count and time is disturbed by others
ALONE = ("waits", "speed", "models")
RESULTS = Path(__file__).parents[1] / "results"
COMMAND = (sys.executable, "-m", "experiments.gpu", "--here")
# seconds after which a section is ended, of which there are a few more than `--seconds`
LONGEST, MORE = 120.0, 30.0


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
    parser.add_argument("--here", action="store_true", help="in this process, writing nothing")
    chosen = parser.parse_args(arguments)
    sections = [name for name in chosen.only.split(",") if name] or list(SECTIONS)
    if unknown := set(sections) - SECTIONS.keys():
        parser.error(
            f"--only: no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}"
        )
    on_gpu = chosen.device.startswith("cuda")
    if not on_gpu:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported
    os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp(prefix="triton_"))
    from .report import Report

    report = Report()
    if on_gpu and not chosen.here:
        _in_processes(chosen, sections, report)
    else:
        _here(chosen, sections, report)
    if not chosen.here:
        print(f"{report.seconds:.0f} s, {len(report.missed)} missed goals", flush=True)
        for line in report.missed:
            print(line, flush=True)
    return 1 if report.missed else 0


def _here(chosen: Any, sections: list[str], report: Report) -> None:
    import torch

    from .setting import Setting, describe, engines_of_a_gpu

    setting = Setting(torch.device(chosen.device), chosen.tiny)
    with engines_of_a_gpu(setting), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for line in describe(setting):
            report.note(line)
        for name in sections:
            report.section(name)
            with report.attempt(f"section {name}"):
                importlib.import_module(f".{SECTIONS[name]}", __package__).check(report, setting)
            if setting.cuda:
                with report.attempt("the device still answers"):
                    torch.cuda.synchronize()


def _in_processes(chosen: Any, sections: list[str], report: Report) -> None:
    """Run sections, first those that may run at once, and write gpu.md after each."""

    def run(name: str) -> tuple[str, list[str]]:
        if report.seconds > chosen.seconds:
            late = f"section {name}: skipped after {report.seconds:.0f} s (to be run) MISS"
            return name, [f"## {name}", late]
        limit = min(LONGEST, chosen.seconds + MORE - report.seconds)
        return name, _lines_of(name, chosen, limit)

    at_once = [name for name in sections if name not in ALONE]
    with ThreadPoolExecutor(max(1, len(at_once))) as pool:
        for done in as_completed([pool.submit(run, name) for name in at_once]):
            _keep(*done.result(), report, chosen.output)
    for name in sections:
        if name in ALONE:
            _keep(*run(name), report, chosen.output)


def _keep(name: str, lines: list[str], report: Report, folder: Path) -> None:
    begins = lines.index(f"## {name}")
    if not report.sections[""]:  # what the first one says of the device
        for line in lines[:begins]:
            report.note(line)
    report.copy(name, lines[begins + 1 :])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.md").write_text(report.markdown("The GPU path"), encoding="utf-8")


def _lines_of(name: str, chosen: Any, limit: float) -> list[str]:
    """Return the lines of a section, run by a process of its own, and how it ended if badly."""
    command = [*COMMAND, "--device", chosen.device, "--only", name]
    command += ["--tiny"] if chosen.tiny else []
    error = ended = ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        text, error = done.stdout, done.stderr
        if done.returncode not in (0, 1) or f"\n## {name}" not in f"\n{text}":
            ended = f"exit status {done.returncode}"
    except subprocess.TimeoutExpired as late:
        text, ended = (late.stdout or b"").decode(errors="replace"), f"ended after {limit:.0f} s"
    lines = [
        line.partition(" (")[0] if line.startswith("## ") else line for line in text.splitlines()
    ]
    if f"## {name}" not in lines:
        lines.append(f"## {name}")
    if ended:
        said = (error.strip().splitlines() or [""])[-1][:160]
        lines.append(f"section {name}: {ended} {said} (to be run) MISS")
    return lines
