"""``carescale init`` writes a config that ``carescale evaluate`` runs."""

import re
import sys

import pytest
import yaml

from foolbox_carescale.cli import main

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def answers(monkeypatch):
    """Answers on a terminal, in their order, and the questions that were asked."""
    given, asked = [], []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or given.pop(0))
    return given, asked


def test_a_written_file_runs(capsys):
    own = ["--model", "tests.evaluate.test_runner.brightness", "--epsilons", "8/255"]
    assert main(["init", "mine.yaml", *own, "--data", "tests.evaluate.factories.data"]) == 0
    command = re.fullmatch(
        r"mine.yaml: .*carescale (evaluate mine.yaml)\n", capsys.readouterr().out
    )
    short = ["attacks.linf_pgd.steps=1", "attacks.linf_minimum_norm.steps=2", "samples=4"]
    assert main([*command[1].split(), *short]) == 0
    assert "linf_pgd, epsilon 8/255: robust accuracy" in capsys.readouterr().out


def test_three_questions_are_asked_on_a_terminal(answers, tmp_path):
    given, asked = answers
    (tmp_path / "photos").mkdir()
    given += ["timm/resnet50", "photos", ""]
    assert main(["init"]) == 0
    assert [text.split()[0] for text in asked] == ["Model,", "Data,", "Epsilons"]
    written = yaml.safe_load((tmp_path / "evaluation.yaml").read_text())
    assert written["model"] == {"name": "timm/resnet50"}
    assert written["data"] == {"name": "folder", "root": "photos"}
    assert written["epsilons"] == {"Linf": ["8/255"], "L2": [0.5]}
    assert len(written["attacks"]) == 4


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("digits", {"defaults": [{"data": "digits"}]}),
        ("cifar10", {"defaults": [{"data": "cifar10"}], "data": {"root": "data"}}),
        ("hf/mnist", {"data": {"name": "hf/mnist"}}),
        ("a/{0..9}.tar", {"data": {"name": "webdataset", "root": "a/{0..9}.tar"}}),
        ("./x: #${y}", {"data": {"name": "folder", "root": r"./x: #\${y}"}}),
    ],
)
def test_data_are_told_by_what_was_answered(data, expected, tmp_path):
    assert main(["init", "a.yaml", "--model", "resnet18", "--data", data]) == 0
    written = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert {key: written[key] for key in ("defaults", "data") if key in written} == expected


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model", "x"], "--data: is missing; give --model and --data, or answer on a terminal"),
        ([], "--model: is missing"),
        (["there.yaml"], "there.yaml exists; give another name"),
        (["a=b.yaml"], "a=b.yaml would be read as an override"),
        (["no/a.yaml", "--model", "x", "--data", "digits"], "a.yaml cannot be written"),
        (["--model", "x", "--data", "digit"], "no folder 'digit', nor data of this name; did you"),
        (["--model", "x", "--data", "digits", "--epsilons", "L3=1"], "--epsilons: 'L3' is not a"),
        (["--model", "x", "--data", "digits", "--epsilons", "1/0"], "'1/0' is no positive number"),
        (["--model", "x", "--data", "digits", "--epsilons", "1,1"], "holds an epsilon twice"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_no_file(arguments, line, tmp_path, capsys):
    (tmp_path / "there.yaml").write_text("mine")
    assert main(["init", *arguments]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.glob("*.yaml")] == ["there.yaml"]
    assert (tmp_path / "there.yaml").read_text() == "mine"
