"""What a repository shows a stranger: workflows that parse, a short README, the field's words."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = ("foolbox_carescale", "docs")

# what is said in another way, and how
REPLACED = {
    r"\bdoubts?\b": "diagnostic",
    r"\brealised norms?\b": "measured norm",
    r"\bwanted norm\b": "target norm",
    r"\bordinary network": "standard network",
    r"\bembedded\b": "bundled model",
    r"\bkept after 8 bits\b": "still adversarial after 8-bit quantisation",
    r"\bsamples that are right\b": "correctly classified samples",
    r"\battacks by label\b": "attacks by name",
    r"\bmeasure a model\b": "evaluate a model's robustness",
    r"\bours_l[12i]": "clip_aware_",
    r"\ba unit's\b|\bunits of work\b": "task",
}


def test_readme_fits_two_screens_and_its_example_the_first():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert 0 < lines.index("```python") < 20


@pytest.mark.parametrize(
    "path",
    sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / ".github").rglob("*.yml")),
)
def test_workflows_and_forms_parse(path):
    content = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    if path.startswith(".github/workflows"):
        assert content["jobs"]
        assert content["permissions"] == {"contents": "read"}
    for field in content.get("body", ()):  # an unquoted comma in braces starts another key
        assert field["attributes"].keys() <= {"label", "description", "render"}


def test_modules_that_are_mutated_are_there():
    tomllib = pytest.importorskip("tomllib")
    text = (ROOT / "experiments/mutation/modules.toml").read_text(encoding="utf-8")
    missing = [name for name in tomllib.loads(text)["modules"] if not list(ROOT.glob(name))]
    assert not missing


def test_package_and_docs_speak_the_language_of_the_field():
    files = [ROOT / "README.md"] + [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".js", ".yaml", ".template")
    ]
    found = [
        f"{path.relative_to(ROOT)}: {match[0]!r}, say {better!r}"
        for path in files
        for words, better in REPLACED.items()
        for match in [re.search(words, path.read_text(encoding="utf-8"), re.IGNORECASE)]
        if match
    ]
    assert not found, "\n".join(found)
