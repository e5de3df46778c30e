"""An executor is added by the guide alone: an entry point of a distribution on the path."""

import re
from pathlib import Path

import pytest

from foolbox_carescale.evaluate import ExecutorConfig, UserError, evaluate
from tests.evaluate.factories import rows, tiny

GUIDE = Path(__file__).parents[2] / "docs/contributing/executor.md"


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    guide = GUIDE.read_text(encoding="utf-8")
    (tmp_path / "backwards.py").write_text(re.search(r"```python\n(.*?)```", guide, re.S)[1])
    offered = re.search(r'```toml\n\[project.entry-points."(.*?)"]\n(\w+ = )"(.*?)"', guide)
    information = tmp_path / "backwards-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: backwards\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        f"[{offered[1]}]\n{offered[2]}{offered[3]}\nbroken = no_such_module:Executor\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("distribution")
def test_an_executor_of_another_package_gives_the_same_rows(tmp_path):
    evaluate(tiny(tmp_path / "local"))
    evaluate(tiny(tmp_path / "backwards", executor=ExecutorConfig("backwards")))
    assert rows(tmp_path / "backwards") == rows(tmp_path / "local")


@pytest.mark.usefixtures("distribution")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("backward", "executor.name: there is no 'backward'; did you mean 'backwards'?"),
        ("broken", "executor.name: 'broken' is offered by no_such_module:Executor"),
    ],
)
def test_an_executor_that_cannot_be_had_is_one_line(tmp_path, name, line):
    with pytest.raises(UserError, match=re.escape(line)):
        evaluate(tiny(tmp_path / "run", executor=ExecutorConfig(name)))
