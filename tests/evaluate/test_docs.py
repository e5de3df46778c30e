"""The examples in docs/report.md run as they are written."""

import re
from pathlib import Path

import pytest

from foolbox_carescale.evaluate import diagnostics
from tests.evaluate import synthetic

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
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
