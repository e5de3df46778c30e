"""Standard output that nobody reads, that is full or closed, and names that no terminal shows."""

import io
import os
import shlex
import subprocess
import sys

import pytest

from foolbox_carescale.cli import main
from foolbox_carescale.cli.output import Output
from foolbox_carescale.evaluate import Results
from foolbox_carescale.evaluate.console import resume_command
from tests.evaluate import synthetic

RUN = [
    *("evaluate", "samples=4", "threads=1", "~attacks", "attacks.a.name=LinfPGD"),
    *("attacks.a.steps=1", "epsilons.Linf=[0.02,0.05]"),
]

NAMES = ["[/i]", ":warning: a", "$x$y$z$", "\x1b[2J", os.fsdecode(b"\xff\xfe")]
TOGETHER = ["[/i] :warning: a $x$y$z$", "\x1b[2J" + os.fsdecode(b"\xff\xfe")]


def shell(redirection, *arguments, cwd=None):
    """Run a command with its streams redirected as a shell writes it."""
    command = shlex.join([sys.executable, "-m", "foolbox_carescale", *arguments])
    return subprocess.run(
        ["sh", "-c", f"{command} {redirection}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def closed_pipe(*arguments, cwd=None):
    """Run a command whose reader, such as head, has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "foolbox_carescale", *arguments]
        return subprocess.run(
            command, cwd=cwd, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)


def test_a_reader_that_has_seen_enough_is_no_error():
    done = closed_pipe("attacks")
    assert (done.returncode, done.stderr) == (0, "")


def unread():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def full():
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no full device")
    return open("/dev/full", "w", encoding="utf-8")


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(
    ("stream", "error", "code", "line"),
    [
        (unread, io.StringIO, 0, ""),
        (full, io.StringIO, 3, "carescale: error: standard output: No space left on device\n"),
        (lambda: None, lambda: None, 0, ""),
    ],
    ids=["unread", "full", "closed"],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # /dev/null stays
def test_a_run_is_completed_whatever_its_output_is(
    tmp_path, monkeypatch, stream, error, code, line
):
    with monkeypatch.context() as patched:
        out, err = stream(), error()
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", err)
        assert main([*RUN, f"output={tmp_path / 'run'}"]) == code
    if out is not None:
        out.close()
        assert err.getvalue().endswith(line)
        assert "Traceback" not in err.getvalue()
    assert Results.load(tmp_path / "run").complete
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
def test_a_full_output_is_one_line_and_exit_code_3(tmp_path):
    done = shell("> /dev/full", "attacks", "ddn")
    assert done.returncode == 3
    assert done.stderr == "carescale: error: standard output: No space left on device\n"
    assert shell("> /dev/full 2> /dev/full", "attacks", "ddn").returncode == 3
    assert shell("2> /dev/full", "evaluate", "nowhere.yaml").returncode == 2


def test_closed_streams_are_no_error():
    for redirection in (">&-", "<&- >&- 2>&-"):
        done = shell(redirection, "attacks", "ddn")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.nightly
def test_a_run_without_streams_is_completed(tmp_path):
    done = shell("<&- >&- 2>&-", *RUN, "output=run", cwd=tmp_path)
    assert done.returncode == 0
    assert Results.load(tmp_path / "run").complete


def test_characters_that_the_output_cannot_encode_are_escaped():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "foolbox_carescale", "attacks", "ddn"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert r"J\xe9r\xf4me Rony" in done.stdout


def test_what_is_written_after_a_failure_is_dropped():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        output = Output(stream)
        for _ in range(3):
            print("lost", file=output, flush=True)
        assert isinstance(output.failure, BrokenPipeError)
        assert not output.full


@pytest.mark.parametrize("name", TOGETHER)
def test_a_run_folder_of_any_name_is_evaluated_reported_and_compared(
    tmp_path, monkeypatch, capsys, name
):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("foolbox_carescale.evaluate.report._draw", lambda *_: [])
        assert main([*RUN, f"output={name}"]) == 0
        assert main(["report", name]) == 0
    synthetic.run(tmp_path / "other")
    assert main(["report", name, "other"]) == 0
    assert main(["compare", name, name]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert not name.isprintable() or name in shown.out
    for file in ("summary.md", "summary.csv", "differences.csv"):
        assert "\x1b" not in (tmp_path / "report" / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_an_error_about_a_folder_of_any_name_is_one_line(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main(["report", name]) == 2
    assert main(["evaluate", f"{name}.yaml"]) == 2
    assert main(["evaluate", "data=folder", f"data.root={name}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 3
    assert "\x1b" not in error


def test_a_config_in_a_folder_that_is_not_utf_8_is_read(tmp_path, monkeypatch, capsys):
    folder = tmp_path / os.fsdecode(b"\xe9 ${x}")
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "mine.yaml").write_text("name: digits\nseed: 7\n", encoding="utf-8")
    (folder / "run.yaml").write_text("defaults: [{data: mine}]\n", encoding="utf-8")
    assert main(["evaluate", str(folder / "run.yaml"), "--print-config"]) == 0
    assert "seed: 7" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*NAMES, "it's"])
def test_the_command_that_resumes_a_run_is_read_by_a_shell_as_it_was_given(tmp_path, name):
    command = resume_command(["evaluate", f"output={name}"], tmp_path)
    assert command.isprintable()
    command = command.replace("carescale", "printf '%s\\0'", 1)
    said = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    assert said == b"evaluate\0output=" + os.fsencode(name) + b"\0"
