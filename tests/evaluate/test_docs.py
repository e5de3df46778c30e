"""The examples in docs/report.md and its notebook run as they are written."""

import json
import re
from pathlib import Path

import pytest

from foolbox_carescale.evaluate import diagnostics
from tests.evaluate import synthetic

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "report.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: code.split()[1])
def test_results_open_in_three_lines(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    results = synthetic.run(Path("runs/mine"), samples=20)
    lines = [line for line in code.splitlines() if line]
    assert len(lines) == 3
    pytest.importorskip(lines[0].split()[1])
    exec(code, {})
    printed = capsys.readouterr().out
    for setting in results.summary():
        assert setting.attack in printed
        assert f"{setting.robust_accuracy:g}" in printed


@pytest.mark.usefixtures("without_figures")
def test_the_notebook_runs_and_shows_what_it_printed(tmp_path, monkeypatch, capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pytest.importorskip("pandas")
    text = (DOCS / "notebooks" / "results.ipynb").read_text(encoding="utf-8")
    parts = [part for part in json.loads(text)["cells"] if part["cell_type"] == "code"]
    assert [part["execution_count"] for part in parts] == list(range(1, len(parts) + 1))
    assert all(output["output_type"] != "error" for part in parts for output in part["outputs"])
    assert len(text) < 200_000
    monkeypatch.chdir(tmp_path)
    names = {}
    for part in parts:
        code = re.sub(r"(steps\": |samples=)\d+", r"\g<1>4", "".join(part["source"]))
        exec(code, names)
    assert "within" in capsys.readouterr().out
    assert names["axes"].get_legend() is not None
    assert set(names["summary"]["attack"]) == set(names["attacks"])
    pyplot.close("all")


def test_every_warning_is_in_the_table():
    files = Path(diagnostics.__file__).parent.glob("*.py")
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    codes = set(re.findall(r'(?:Diagnostic\(\s*|yield Diagnostic\()"(\w+)"', source))
    assert len(codes) >= 12
    assert codes == set(
        re.findall(
            r"`(\w+)`",
            " ".join(re.findall(r"^\| (`.+?) \|", PAGE.split("## Warnings")[1], re.MULTILINE)),
        )
    )
