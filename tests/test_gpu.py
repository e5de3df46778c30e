"""The check of the GPU path, and what can be known of it without a GPU."""

import math
import subprocess
import sys
import types

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: it has no wheel here")
from experiments.gpu import check, compile, models, overhead, report, setting
from foolbox_carescale import engines


def test_a_check_says_whether_goals_are_met_and_goes_on_after_an_exception(capsys):
    lines = report.Report()
    lines.section("speed")
    lines.at_most("waits", 1, 0)
    lines.at_least("ratio", 30.0, 20)
    with lines.attempt("a kernel"):
        raise RuntimeError("no kernel image\nmore")
    assert lines.missed[0] == "waits: 1 (<= 0) MISS"
    assert lines.sections["speed"][1] == "ratio: 30 (>= 20) ok"
    assert "a kernel: RuntimeError: no kernel image" in capsys.readouterr().out
    assert "## Missed goals: 2" in lines.markdown("The GPU path")


def test_without_a_gpu_the_check_is_tried_on_eager_code_and_writes_nothing(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(setting, "HAS_TRITON", False)
    sections = "layouts,waits"
    arguments = ["--device", "cpu", "--tiny", "--only", sections, "--output", str(tmp_path)]
    assert check.main(arguments) == 0, capsys.readouterr().out
    assert "channels last: difference: 0" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


SECTION = """
import os, sys, time
name = sys.argv[sys.argv.index("--only") + 1]
print("a device")
print(f"## {name} (0 s)")
print("waits: 1 (<= 0) MISS" if name == "waits" else "a figure: 3 (-) info", flush=True)
{"layouts": lambda: time.sleep(60), "right": os.abort}.get(name, lambda: None)()
"""


def test_a_section_that_hangs_or_crashes_leaves_the_figures_of_the_others(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(check, "COMMAND", (sys.executable, "-c", SECTION))
    monkeypatch.setattr(check, "LONGEST", 5.0)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    chosen = ["--only", "right,layouts,derivatives,waits", "--output", str(tmp_path)]
    assert check.main(chosen) == 1
    told = capsys.readouterr().out
    assert "3 missed goals" in told
    assert "section layouts: ended after 5 s" in told
    assert "section right: exit status -6" in told
    written = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert written.count("a figure: 3") == 3
    assert "- waits: 1 (<= 0) MISS" in written
    assert check.main([*chosen, "--seconds", "-1"]) == 1
    assert "section derivatives: skipped after 0 s (to be run) MISS" in capsys.readouterr().out


@pytest.mark.nightly
def test_the_interpreter_passes_the_check():
    command = [sys.executable, "-m", "experiments.gpu", "--device", "cpu", "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def test_what_the_check_does_on_a_gpu_alone_runs_on_a_pretended_one(monkeypatch):
    from experiments.gpu import attacked, measure, pretend, speed, transforms, waits

    def called(value):
        def stand_in(call, **_):
            call()
            return value

        return stand_in

    graph = types.SimpleNamespace(replay=lambda: None)
    stand_ins = {"waits_of": 0, "launches_of": (0, 0.0), "peak_of": 1, "microseconds": 1.0}
    for name, value in {**stand_ins, "graph_of": graph}.items():
        monkeypatch.setattr(measure, name, called(value))
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda network, _: network)
    monkeypatch.setattr(engines, "ENGINES", engines.ENGINES[-1:])  # no kernels
    few = {
        speed: {"SHAPES": ((4, 30),)},
        waits: {"SHAPES": ((4, 3, 4, 4),) * 2, "ORDERS": (math.inf,), "ATTACKS": ("PGD",)},
        transforms: {"MODES": (), "ORDERS": (math.inf,)},
        models: {"PREFIXES": {"Linf": math.inf}},
    }
    for module, constants in few.items():
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)
    found = report.Report()
    with pretend.gpu(90):
        device = torch.device("cuda", 0)
        for section in (waits, speed, transforms):
            section.check(found, setting.Setting(device, tiny=False))
        for section in (models, attacked):
            section.check(found, setting.Setting(device, tiny=True))
    graphs = [line for line in found.sections[""] if "in CUDA graphs" in line]
    assert len(graphs) == sum(line.endswith("ok") for line in graphs) == 4
    assert not [line for line in found.missed if "no exception" in line]
    assert len(found.sections[""]) > 80


@pytest.mark.nightly
def test_launched_kernels_compile_and_their_registers_are_recorded(tmp_path):
    few = ["--capabilities", "80", "--dtypes", "float32", "--orders", "inf", "--shapes", "64x9"]
    compile.main([*few, "--output", str(tmp_path)])
    text = (tmp_path / "gpu_compile.md").read_text(encoding="utf-8")
    assert "not yet measured on a GPU" in text
    assert text.endswith("## Failures\n\nNone.\n")
    kernels, _ = compile.read(tmp_path / "gpu_compile.csv")
    assert kernels
    assert all(16 <= kernel.registers <= 255 for kernel in kernels)


def test_blocks_per_multiprocessor_follow_from_registers_threads_and_shared_memory():
    from experiments.gpu.pretend import ARCHITECTURES

    ampere, turing = ARCHITECTURES[80], ARCHITECTURES[75]
    assert compile.blocks_of(ampere, 128, 8, 0) == 2
    assert compile.blocks_of(ampere, 129, 8, 0) == 1
    assert compile.blocks_of(ampere, 32, 8, 80_000) == 2
    assert compile.blocks_of(turing, 32, 16, 0) == 2


def test_the_host_time_of_a_call_is_recorded(monkeypatch):
    monkeypatch.setattr(overhead, "SHAPES", ((4, 30),))
    rows = [
        overhead.Row("perturb, p = 2, 4x30", 1, 50.0, 60.0, 3.0, 20.0),
        overhead.Row("project, p = 2, 4x30", 2, 90.0, 100.0, 6.0, 40.0),
    ]
    text = overhead.render(rows)
    assert "Worst: 50 us, met." in text
    assert "| project, p = 2, 4x30 | 2 | 90 | 100 | 6.0 | 40 |" in text
    assert math.isclose(overhead.least(lambda: None, 1), 0, abs_tol=100)


def test_a_cuda_graph_finds_the_kernels_that_a_call_with_checks_compiled():
    from experiments.gpu import calls, pretend

    x, delta = torch.rand(4, 9), torch.randn(4, 9)
    with pretend.gpu(90) as driver, torch.no_grad():
        # the two kernels that compile fastest
        made = calls.operators(x, delta, math.inf, 0.1)
        for name in ("perturb", "steepest_step"):
            made[name]()
        driver.loaded.clear()
        with calls.unchecked():
            for name in ("perturb", "steepest_step"):
                made[name]()
    assert len(driver.launched) == 4
    assert not driver.loaded


def test_tensors_of_a_pretended_gpu_come_back_to_main_memory():
    from experiments.gpu import pretend

    with pretend.gpu(90) as driver:
        made = torch.empty(3, device="cuda")
        assert made.device.type == "cuda"
        assert made.sum() == 0
    assert made.device.type == "cpu"
    assert not driver.launched
