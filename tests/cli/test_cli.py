import io
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from rich.console import Console

from foolbox_carescale.cli import main
from foolbox_carescale.evaluate import Evaluation, Progress
from foolbox_carescale.evaluate.console import progress_bars
from foolbox_carescale.evaluate.runner import worker
from foolbox_carescale.evaluate.runner.tasks import make_settings

pytestmark = pytest.mark.usefixtures("without_figures")

ONLY_PGD = textwrap.dedent(
    """
    attacks:
      foolbox: {name: LinfPGD, steps: 2}
      ours: {name: LinfClipAwarePGD, steps: 2}
    epsilons: {Linf: [0.02, 0.05]}
    samples: 4
    """
)


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(ONLY_PGD, encoding="utf-8")
    return "run.yaml"


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "foolbox_carescale", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(cwd), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


AUDITED = """
import atexit, sys
connected = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        connected.append(event)
sys.addaudithook(hook)
atexit.register(lambda: open("connected", "w").write(str(connected)))
"""


def test_a_process_makes_a_run_folder_and_a_line_for_each_setting_and_connects_to_nothing(
    config, tmp_path
):
    (tmp_path / "sitecustomize.py").write_text(AUDITED, encoding="utf-8")
    done = run("evaluate", config, "attacks.ours.steps=3", "output=out", "samples=12", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "clean accuracy" in done.stdout
    lines = [line for line in done.stdout.splitlines() if " tasks" in line]
    assert len(lines) == 4
    assert lines[-1].startswith("ours, epsilon 0.05: robust accuracy 0.")
    assert lines[-1].endswith("; 4 of 4 tasks")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {
        "run.json",
        "config.yaml",
        "curves.png",
        "examples",
        "grid.png",
        "norms.png",
        "results",
        "summary.csv",
    }
    assert (tmp_path / "out" / "curves.png").stat().st_size > 5000
    assert "steps: 3" in (tmp_path / "out" / "config.yaml").read_text(encoding="utf-8")
    assert (tmp_path / "connected").read_text(encoding="utf-8") == "[]"


def test_wrong_input_is_one_line_and_exit_code_2_in_a_process_of_its_own(config, tmp_path):
    done = run("evaluate", config, "modle.name=resnet18", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == ("carescale: error: modle: there is no such key; did you mean 'model'?\n")
    assert done.stdout == ""


def test_a_default_folder_is_named_for_the_time(config, tmp_path, capsys):
    assert main(["evaluate", config]) == 0
    assert main(["evaluate", config]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert "100%" not in capsys.readouterr().out  # no progress bar without a terminal


def test_a_report_is_drawn_again_from_the_folder(config, tmp_path, capsys):
    assert main(["evaluate", config, "output=out"]) == 0
    progress, first = capsys.readouterr().out.split("; 4 of 4 tasks\n")
    assert len(progress.splitlines()) == 4
    (tmp_path / "out" / "curves.png").unlink()
    assert main(["report", "out"]) == 0
    assert capsys.readouterr().out.splitlines()[:5] == first.splitlines()[:5]
    assert (tmp_path / "out" / "curves.png").exists()


def test_an_untrained_network_is_warned_about_in_one_line(config, capsys):
    assert main(["evaluate", config, "model.name=resnet18"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("carescale: warning: resnet18 has no weights for digits")
    assert all(line.startswith("carescale: warning: ") for line in error.splitlines())


def test_pairs_of_a_sweep_need_no_option(config, capsys):
    pairs = ["sweep.seed=[0,1]", "sweep.samples=[3,4]", "output=out", "--print-config"]
    assert main(["evaluate", config, *pairs]) == 0
    runs = [yaml.safe_load(text) for text in capsys.readouterr().out.split("---\n")]
    assert [(run["seed"], run["samples"]) for run in runs] == [(0, 3), (1, 4)]


def test_a_sweep_ends_with_one_report_of_all_runs(config, tmp_path, capsys):
    sweep = ["evaluate", "--multirun", config, "seed=0,1", "epsilons.Linf=[0.02]", "output=out"]
    assert main(sweep) == 0
    runs = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert runs == {"seed=0", "seed=1"}
    assert (tmp_path / "out" / "report.html").exists()
    assert "2 runs\nseed: 0 | 1" in capsys.readouterr().out


def test_a_schema_is_printed_as_json(capsys):
    assert main(["schema"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main(["schema", "model"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"].keys() >= {"weights", "dtype"}
    assert "attacks" in whole["properties"]


def test_print_config_is_a_file_to_start_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--print-config", "seed=5"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "own.yaml").write_text(printed, encoding="utf-8")
    assert main(["evaluate", "own.yaml", "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert "seed: 5" in printed


def test_overrides_may_follow_an_option(config, capsys):
    assert main(["evaluate", config, "--print-config", "samples=3", "--quiet", "seed=7"]) == 0
    printed = capsys.readouterr().out
    assert "samples: 3\n" in printed
    assert "seed: 7\n" in printed


def test_an_unknown_option_is_named_without_what_follows_it(config, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", config, "--quite", "samples=3"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --quite;" in capsys.readouterr().err


def test_an_unknown_attack_is_an_error_with_the_nearest_names(capsys):
    assert main(["attacks", "L2ClipAwarePDG"]) == 2
    assert "no name contains 'L2ClipAwarePDG'; did you mean 'L2Cl" in capsys.readouterr().err


def test_without_a_command_the_help_is_shown(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: carescale")


def test_attacks_are_listed_with_their_arguments_and_where_they_come_from(capsys):
    assert main(["attacks", "clipawarepgd"]) == 0
    listed = capsys.readouterr().out
    assert "L2ClipAwarePGD(" in listed
    ours = "    foolbox_carescale.attacks.named; Madry et al. 2018, arXiv 1706.06083"
    assert ours in listed
    assert main(["attacks", "ddn"]) == 0
    assert "    foolbox.attacks.ddn; Jérôme Rony" in capsys.readouterr().out


def test_several_runs_are_compared_on_the_console_and_on_one_page(config, tmp_path, capsys):
    for name, steps in (("a", 1), ("b", 4)):
        assert main(["evaluate", config, f"attacks.ours.steps={steps}", f"output={name}"]) == 0
    capsys.readouterr()
    assert main(["compare", "a", "b"]) == 0
    compared = capsys.readouterr().out
    assert "attacks.ours.steps: 1 | 4" in compared
    assert "robust accuracy minus that of a" in compared
    head = next(line for line in compared.splitlines() if "epsilon" in line)
    assert head.split()[1::2] == ["attack", "norm", "epsilon", "a", "b", "difference", "95%"]
    assert main(["report", "a", "b"]) == 0
    assert "report: report.html, summary.md" in capsys.readouterr().out
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert '"name":"a"' in page
    assert '"name":"b"' in page
    assert main(["report", "a", "b", "--output", "elsewhere"]) == 0
    assert (tmp_path / "elsewhere" / "differences.csv").exists()


def test_a_warning_is_printed_once_and_is_in_the_report(config, tmp_path, capsys):
    change = ["model._target_=tests.cli.test_cli.probabilities", "output=out"]
    assert main(["evaluate", config, *change]) == 0
    told = capsys.readouterr().err
    assert told.startswith("carescale: warning: the model's outputs look like probabilities")
    assert told.count("look like probabilities") == 1
    for name in ("warnings.json", "report.html", "summary.md"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert text.count("look like probabilities") == 1


def probabilities():
    import torch

    from foolbox_carescale.evaluate import ModelConfig
    from foolbox_carescale.evaluate.models.loading import load_model

    bundled, _ = load_model(ModelConfig(weights="bundled"))

    class Softmax(torch.nn.Module):
        def forward(self, x):
            return bundled(x).softmax(1)

    return Softmax().eval()


def test_the_doctor_answers(capsys):
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "numpy engine" in told
    assert "extra evaluate" in told


def test_wrong_input_is_one_line_and_exit_code_2(config, capsys):
    for arguments, line in [
        (["evaluate", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["evaluate", "run.yaml", "stray"], "'stray' is neither an override"),
        (["schema", "modle"], "there is no group 'modle'; did you mean 'model'"),
        (["evaluate", "--multirun", "seed=0,x"], "seed: 'x' is not a valid integer"),
        (["evaluate", "run.yaml", "seed=0,1"], "add --multirun"),
        (["evaluate", "run.yaml", "data=foldr"], "did you mean 'folder'"),
        (["evaluate", "run.yaml", "seed=x"], "seed: 'x' is not a valid integer"),
        (["evaluate", "run.yaml", "epsilons.Linf=[-1]"], "epsilons.Linf.0: -1 is not greater"),
        (["evaluate", "run.yaml", "attacks.ours.name=L2PDG"], "L2PGD"),
        (["evaluate", "run.yaml", "attacks.ours.stps=3"], "did you mean 'steps'"),
        (["evaluate", "run.yaml", "model.name=resnet81"], "did you mean 'resnet18'"),
        (["evaluate", "run.yaml", "data._target_=tests.cli.test_cli.dark"], "outside the bounds"),
        (["evaluate", "run.yaml", "output=out", "--shard", "2/2"], "shard: 2/2 is not one of 2"),
        (["evaluate", "run.yaml", "--shard", "0/2"], "output: is missing"),
        (["evaluate", "run.yaml", "device=gpu"], "device: 'gpu' cannot be used"),
        (["report", "nowhere"], "holds no results of a run"),
        (["report", ""], "RUN: is empty; give a path"),
        (["report", "nowhere", "--output", ""], "--output: is empty; give a path, or leave it out"),
        (["evaluate", ""], "FILE.yaml: is empty; give a path"),
        (["report", "nowhere", "--headline", "L2=-1"], "--headline: '-1' is no positive number"),
        (["compare", "", "nowhere"], "RUN: is empty; give a path"),
        (["compare", "nowhere", ""], "RUN: is empty; give a path"),
    ]:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("carescale: error: ")
        assert line in captured.err
        assert captured.err.count("\n") == 1


def dark():
    import numpy as np

    return np.full((2, 3, 32, 32), -2.1), np.array([0, 1])


def test_a_wrong_command_is_one_line_and_exit_code_2(capsys):
    for arguments in [["evaluat"], ["evaluate", "--quite"]]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def failing():
    raise RuntimeError("mine")


def test_an_error_in_a_users_own_code_has_its_traceback_with_debug(config, capsys):
    given = ["evaluate", str(config), f"model._target_={__name__}.failing"]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert "failing raises RuntimeError: mine (test_cli.py, line " in error
    assert error.count("\n") == 1
    assert main([*given, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_programming_error_keeps_its_traceback(config, monkeypatch):
    def broken(*_, **__):
        raise TypeError("a bug")

    monkeypatch.setattr("foolbox_carescale.evaluate.runner.run.make_settings", broken)
    with pytest.raises(TypeError, match="a bug"):
        main(["evaluate", config])


def test_results_that_cannot_be_stored_are_one_line_and_exit_code_3(config, capsys):
    assert main(["evaluate", config, "output=run.yaml"]) == 3
    error = capsys.readouterr().err
    assert error.startswith("carescale: error: output: run.yaml cannot be written")
    assert error.count("\n") == 1


def test_ctrl_c_prints_the_command_that_resumes(config, monkeypatch, capsys):
    once = iter([True])
    original = worker.Worker.run

    def interrupted(self, task):
        if task.number == 2 and next(once, False):
            raise KeyboardInterrupt
        return original(self, task)

    monkeypatch.setattr(worker.Worker, "run", interrupted)
    assert main(["evaluate", config, "attacks.ours.steps=3"]) == 130
    error = capsys.readouterr().err
    assert "interrupted; 2 of 4 tasks are in runs/" in error
    command = shlex.split(error.partition("resume with: carescale ")[2])
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["complete"]
    assert f"output={summary['folder']}" in command


def test_sigterm_stops_a_run_with_exit_code_143(config, monkeypatch, capsys):
    original = worker.Worker.run

    def terminated(self, task):
        if task.number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, task)

    monkeypatch.setattr(worker.Worker, "run", terminated)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["evaluate", config, "output=out"]) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    error = capsys.readouterr().err
    assert "interrupted; 2 of 4 tasks are in out" in error
    assert "resume with: carescale evaluate run.yaml output=out" in error


def test_json_is_all_that_stdout_gets(config, capsys):
    assert main(["evaluate", config, "output=out", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert summary["complete"]
    assert {one["p"] for one in summary["settings"]} == {"inf"}
    assert summary["tasks"] == {"total": 4, "done": 4, "computed": 4}
    assert 0 < summary["clean_accuracy"] <= 1
    assert [(c["attack"], c["epsilon"]) for c in summary["settings"]] == [
        ("foolbox", 0.02),
        ("foolbox", 0.05),
        ("ours", 0.02),
        ("ours", 0.05),
    ]
    assert "out/summary.csv" in summary["report"]
    assert main(["evaluate", config, "output=out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["computed"] == 0


def test_quiet_prints_nothing(config, capsys):
    assert main(["evaluate", config, "output=out", "samples=12", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_last_shard_reports_the_run(config, tmp_path, capsys):
    command = ["evaluate", config, "output=out", "batch_size=2", "--shard"]
    assert main([*command, "1/2"]) == 0
    assert "out: shard 1/2 is done, others are not" in capsys.readouterr().out
    assert not (tmp_path / "out" / "summary.csv").exists()
    assert main([*command, "0/2"]) == 0
    assert "clean accuracy" in capsys.readouterr().out
    assert (tmp_path / "out" / "summary.csv").exists()


def test_a_shard_without_a_task_says_so_and_is_no_error(config, capsys):
    assert main(["evaluate", config, "output=out", "--shard", "0/6"]) == 0
    assert "shard 0/6 is done (it has no task), others are not" in capsys.readouterr().out
    assert main(["evaluate", config, "output=out", "--shard", "1/6", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["complete"], summary["tasks"]["total"], summary["settings"]) == (False, 0, [])
    assert main(["evaluate", config, "output=out"]) == 0
    assert main(["evaluate", config, "output=out", "--shard", "0/6"]) == 0
    assert "clean accuracy" in capsys.readouterr().out.split("tasks\n")[-1]


def test_a_terminal_shows_how_far_how_fast_and_how_robust():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    setting = make_settings(Evaluation())[0]
    with progress_bars(console) as show:
        show(Progress(None, 10, 20, resumed=10))
        for done in range(11, 20):
            show(Progress(setting, done, 20, done, 20, robust_accuracy=0.625))
    shown = screen.getvalue()
    for part in ("19/20", "/s, 0:00:0", "left", f"{setting.label}, epsilon", "robust 0.625"):
        assert part in shown


def test_a_terminal_shows_that_the_run_waits():
    screen = io.StringIO()
    with progress_bars(Console(file=screen, force_terminal=True, width=120)) as show:
        show(Progress(None, 10, 20))
        show(Progress(None, 19, 20, waiting_for="0000-a-0.5-00003"))
    assert "waiting for another process" in screen.getvalue()


def test_missing_extras_are_named_with_the_command_that_brings_them(monkeypatch, capsys):
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "hydra" else find(name)
    )
    assert main(["evaluate"]) == 2
    error = capsys.readouterr().err
    assert "needs hydra-core" in error
    assert "pip install 'foolbox-carescale[evaluate]'" in error


def test_ctrl_c_before_the_first_task_has_nothing_to_resume(config, monkeypatch, capsys):
    def interrupted(self, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker.Worker, "probe_model", interrupted)
    assert main(["evaluate", config]) == 130
    assert capsys.readouterr().err == "carescale: interrupted before anything was computed\n"


def test_the_runs_of_a_sweep_warn_of_the_same_once(config, capsys):
    runs = ["seed=0,1", "samples=1", "~attacks.ours", "epsilons.Linf=[0.02]"]
    assert main(["evaluate", "--multirun", config, "model.name=resnet18", *runs]) == 0
    assert capsys.readouterr().err.count("resnet18 has no weights for digits") == 1


def test_a_run_may_be_started_from_any_thread(config, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        command = ["evaluate", "--quiet", config, "samples=1", f"output={tmp_path / 'run'}"]
        assert pool.submit(main, command).result() == 0
    assert (tmp_path / "run" / "report.html").exists()


def test_ctrl_c_is_one_line_in_any_command(monkeypatch, capsys):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt("the same command resumes")

    monkeypatch.setattr("foolbox_carescale.cli.commands.require_extra", interrupted)
    assert main(["report", "run"]) == 130
    assert capsys.readouterr().err == "carescale: interrupted; the same command resumes\n"
