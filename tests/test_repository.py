"""What a repository shows a stranger: workflows that parse, a short README, the field's words."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = ("foolbox_carescale", "docs")
FLAGS = re.IGNORECASE | re.MULTILINE

# words that the project no longer uses, and their replacements
REPLACED = {
    r"\bdoubt": "diagnostic",
    r"[\"'`](company|reach|rising|behind|weaker)[\"'`]": "a diagnostic's code from docs/report.md",
    # tables have cells
    r"^(?!.*\b(table|CSV|row\.map|byEpsilon|nameCell)\b).*\bcells?\b": "attack setting",
    r"\b(a|each|every|next|per|the|this) units?\b(?! (in the last|of)\b)|\bunits of work\b": "task",
    r"(?-i:(?<!display=)[\"'`]blocks?[\"'`])|\bblocks? of (samples|images|the data)\b": "batch",
    r"\bparts? of (a|the|this)( very)? run\b|\bon_part\b": "task",
    r"(?-i:[\"'`]source[\"'`])|[\"'`.]ours[\"'`.]|^\s*ours:|\band ours\b|\bours_": "library",
    r"\b(true )?sizes? of (a|an|each|every|its|the) perturbation|\bsize after the clip\b": "norm",
    r"\brealised\b": "measured norm",
    r"\bwanted (L\w+ )?norm\b": "target norm",
    r"\badversarials\b|\badversarial points?\b": "adversarial examples",
    r"\bkept after 8 bits\b|\b8 bits keep\b": "still adversarial after 8-bit quantisation",
    r"[\"'`>*]all attacks[\"'`<*]": "worst case over attacks",
    r"\bsamples that are right\b": "correctly classified samples",
    r"\battacks\b.*\bby label\b|\bside by side, by label\b": "attacks by name",
    r"\bordinary\b": "standard network, or plain",
    r"\bembedded\b": "bundled",
    r"\bmeasur(e|es|ing) (a|the|this|your) (model|network)\b": "evaluate a model's robustness",
    r"\| *(\d+ )?gradients *\|": "iterations",
    r"\banew\b": "again",
    r"\b(is|are) told\b|\bhas the last word\b": "is logged, overrides",
    r"\bleft to choose\b": "unresolved",
}


def test_readme_fits_two_screens_and_its_example_the_first():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert 0 < lines.index("```python") < 20


def test_no_module_of_the_package_is_longer_than_400_lines():
    paths = [p for kind in ("*.py", "*.js") for p in (ROOT / "foolbox_carescale").rglob(kind)]
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in paths}
    assert len(lines) > 150
    assert not {path.name: count for path, count in lines.items() if count > 400}


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


def test_modules_that_are_mutated_and_their_tests_are_there():
    tomllib = pytest.importorskip("tomllib")
    text = (ROOT / "experiments/mutation/modules.toml").read_text(encoding="utf-8")
    groups = tomllib.loads(text)["groups"].values()
    named = [name for group in groups for name in group["tests"]]
    assert not [name for name in named if not list(ROOT.glob(name))]
    for argument in {a for group in groups for tests in group["tests"].values() for a in tests}:
        path, _, test = argument.partition("::")
        if path.startswith("tests/"):
            assert f"def {test.partition('[')[0]}" in (ROOT / path).read_text(encoding="utf-8")


def test_package_and_docs_speak_the_language_of_the_field():
    files = [ROOT / "README.md", ROOT / "CHANGELOG.md"] + [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".js", ".yaml", ".template")
    ]
    found = [
        f"{path.relative_to(ROOT)}: {match[0]!r}, say {better!r}"
        for path in files
        for words, better in REPLACED.items()
        for match in re.finditer(words, path.read_text(encoding="utf-8"), FLAGS)
    ]
    assert not found, "\n".join(found)
