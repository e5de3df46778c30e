"""The Python code of README and docs runs as it is written, page by page, from top to bottom."""

import importlib
import re
from pathlib import Path

import foolbox
import numpy as np
import pytest

from experiments.attack_costs import cost
from foolbox_carescale import attacks
from tests import backends

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
# A file that a reader is told to write, by its first line.
FILE = re.compile(r"# (\w+\.(?:py|yaml))\n")

# Pages whose code other tests run, and why it cannot run here.
ELSEWHERE = {
    "docs/configuration.md": "shows fields only; downloads weights",
    "docs/migrating.md": "test_calls_to_migrate_to_run",
    "docs/training.md": "tests/training/test_experiments.py",
    "docs/report.md": "tests/evaluate/test_docs.py, on a run made for it",
    "docs/howto/pandas.md": "tests/docs/test_commands.py, on a run made for it",
    "docs/howto/paper.md": "tests/docs/test_commands.py, on a run made for it",
}


def pages():
    found = sorted((ROOT / "docs").rglob("*.md"))
    names = [path.relative_to(ROOT).as_posix() for path in found if BLOCK.search(path.read_text())]
    return [name for name in names if name not in ELSEWHERE]


@pytest.fixture
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(vars(foolbox.attacks))
    yield
    for name in vars(foolbox.attacks).keys() - before:  # what a page registered
        delattr(foolbox.attacks, name)


# Steps and queries that take seconds and change nothing about how the calls are written.
FEWER = {
    "docs/howto/minimal.md": [("steps=50", "steps=5"), ("max_runs=10", "max_runs=3")],
}


@pytest.mark.usefixtures("_own_folder")
@pytest.mark.parametrize("page", pages())
def test_code_of_a_page_runs(page):
    text = (ROOT / page).read_text()
    for many, few in FEWER.get(page, []):
        assert many in text
        text = text.replace(many, few)
    for library in ("jax", "tensorflow", "transformers"):
        if f"import {library}" in text or f"from {library} import" in text:
            pytest.importorskip(library)
    for name, content in files_of(text):
        Path(name).write_text(content)
    names = {"__name__": page}
    for code in BLOCK.findall(text):
        exec(compile(code, page, "exec"), names)


def test_drop_in_of_the_readme_runs():
    code = BLOCK.findall((ROOT / "README.md").read_text())[0]
    for long, short in (('"DEFAULT"', "None"), ("batchsize=16", "batchsize=1"), ("=40)", "=1)")):
        assert long in code
        code = code.replace(long, short)  # nothing to download, and seconds in place of minutes
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    for advs, epsilon in zip(names["advs"], [0.1, 0.5, 1.0], strict=True):
        norms = (advs - names["images"]).flatten(1).norm(dim=1)
        assert norms.tolist() == pytest.approx([epsilon], rel=1e-4)


README_PARTS = re.split(r"\n\n(?=# )", BLOCK.findall((ROOT / "README.md").read_text())[1])


@pytest.mark.parametrize("part", README_PARTS[1:], ids=lambda part: part.split()[1].rstrip(":"))
def test_operators_of_the_readme_run_in_every_framework(part):
    """The parts share their names: x and delta are tensors of the framework that each one names."""
    framework = re.split("[ :\n]", part)[1].lower()
    with backends.make(
        f"{framework if framework in backends.FRAMEWORKS else 'torch'}-float32"
    ) as backend:
        rng = np.random.default_rng(0)
        x, delta, grad = rng.uniform(size=(2, 3, 4, 4)), *rng.normal(size=(2, 2, 3, 4, 4))
        names = {
            key: backend.tensor(value) for key, value in (("x", x), ("z", x), ("delta", delta))
        }
        names |= {"grad": backend.tensor(grad), "lower": backend.tensor([0.0] * 3)}
        names |= {"upper": backend.tensor([1.0] * 3), "tf": None}
        for module in ("torch", "jax"):
            names[module] = importlib.import_module(module)
        if framework == "tensorflow":
            names["tf"] = backend.library
        exec(README_PARTS[0], names)
        exec(compile(part, "README.md", "exec"), names)


def test_every_page_that_is_excused_exists():
    assert all((ROOT / page).is_file() for page in ELSEWHERE)


def files_of(text):
    """Names and contents of the files that a page tells its reader to write."""
    for batch in re.findall(r"^```(?:python|yaml)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if found := FILE.match(batch):
            yield found[1], batch


@pytest.mark.usefixtures("_own_folder")
def test_calls_to_migrate_to_run():
    text = (ROOT / "docs" / "migrating.md").read_text()
    names = {"__name__": "migrating"}
    for code in BLOCK.findall(text):
        exec(code, names)
    calls = [
        call
        for row in re.findall(r"^\|.*\| (.+) \|$", text, re.MULTILINE)
        for call in re.findall(r"`([^`]+\))`", row)
    ]
    assert len(calls) > 25
    for call in calls:
        exec(call, names)


def test_catalogue_says_when_to_take_each_attack(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    catalogue = importlib.import_module("catalogue")
    text = (ROOT / "docs" / "attacks.md").read_text().split("## How")[0]
    missing = [a.__name__ for a in catalogue.families() if f"`{a.__name__}`" not in text]
    assert missing == []


def test_recorded_costs_are_those_of_the_attacks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    catalogue = importlib.import_module("catalogue")
    recorded = {attack.__name__: catalogue._cost(attack) for attack in catalogue.families()}
    for attack in (attacks.ClipAwareFGM, attacks.ClipAwarePGD, attacks.ClipAwareMinimumNorm):
        gradients, forwards = cost(attack)
        found = recorded[attack.__name__]
        assert found == {"gradients": gradients, "forward_passes": forwards}


def test_diagrams_of_the_architecture_show_the_layers_that_are_checked():
    tomllib = pytest.importorskip("tomllib")
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    checked = [one["layers"] for one in contracts["contracts"] if one["type"] == "layers"]
    text = (ROOT / "docs" / "contributing" / "index.md").read_text()
    diagrams = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    shown = [[re.split(r"\s{2,}", line)[0] for line in d.splitlines()] for d in diagrams]
    assert shown == checked
