"""Broken configs and broken run folders: one clear line, or a right number; nothing else."""

from __future__ import annotations

import shutil
import warnings
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from foolbox_carescale.evaluate import (
    Evaluation,
    EvaluationWarning,
    Results,
    UserError,
    evaluate,
    load_evaluation,
)
from foolbox_carescale.evaluate.config.types import AttackConfig, DataConfig, ModelConfig
from foolbox_carescale.evaluate.report.aggregate import aggregate
from foolbox_carescale.evaluate.report.page import page
from foolbox_carescale.evaluate.store.folder import RunFolder
from foolbox_carescale.evaluate.store.rows import RowStore
from foolbox_carescale.training.config import OptimizerConfig, Training, load_training
from tests.evaluate.factories import ATTACKS, rows, tiny

# What takes a second or a third of one: fewer examples than of others, more of them every night
EXAMPLES = settings.default.max_examples
few, fewer = settings(max_examples=EXAMPLES // 4), settings(max_examples=EXAMPLES // 8)

# Configs

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.sampled_from([0, -1, 1.0, 1e308, -0.0, float("nan"), float("inf"), -float("inf")]),
    st.text(max_size=8),
    st.sampled_from(
        ["", "1", "null", "${seed}", "${", "???", "a.b", "L2", "é", "\u202e", "=", "~x"]
    ),
    st.dates(),
)
NONSENSE = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=6,
)


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values of nested mappings and lists."""
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    return [at, *(p for key, value in items for p in places(value, (*at, key)))]


@st.composite
def mutated(draw: Any, original: str) -> str:
    """YAML in which a few values are replaced, removed or joined by others."""
    tree = yaml.safe_load(original)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(tree)))
        if not path:
            tree[draw(st.text(max_size=6))] = draw(NONSENSE)
            continue
        *outer, last = path
        node = tree
        for key in outer:
            node = node[key]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "rename"]))
        if kind == "replace":
            node[last] = draw(NONSENSE)
        elif kind == "remove":
            del node[last]
        elif isinstance(node, dict):
            node[draw(SCALARS)] = node.pop(last)
    text: str = yaml.dump(tree, allow_unicode=True)
    return text


def assert_used_or_refused(load: Any, path: Any, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(path)
        said = "used"
    except UserError as error:
        said = str(error)
    assert all(said.split("\n"))


@few
@given(mutated(Evaluation().to_yaml()))
def test_any_mutation_of_an_evaluation_is_used_or_refused_in_one_line(tmp_path_factory, text):
    assert_used_or_refused(load_evaluation, tmp_path_factory.getbasetemp() / "fuzz.yaml", text)


@few
@given(mutated(Training().to_yaml()))
def test_any_mutation_of_a_training_is_used_or_refused_in_one_line(tmp_path_factory, text):
    assert_used_or_refused(load_training, tmp_path_factory.getbasetemp() / "fuzz.yaml", text)


@few
@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda b: b.decode("latin-1"))))
def test_any_text_is_used_or_refused_in_one_line(tmp_path_factory, text):
    assert_used_or_refused(load_evaluation, tmp_path_factory.getbasetemp() / "fuzz.yaml", text)


@few
@given(
    st.sampled_from(["seed", "model.name", "epsilons.L2", "attacks.a", "data", "x", ""]), NONSENSE
)
def test_any_override_is_used_or_refused_in_one_line(key, value):
    try:
        load_evaluation(None, [f"{key}={value}"])
        said = "used"
    except UserError as error:
        said = str(error)
    assert all(said.split("\n"))


TEXTS = st.one_of(
    st.text(max_size=8).filter(lambda text: text != "???"),  # what OmegaConf calls missing
    st.sampled_from(["1e5", "1.5e5", "-.5e3", "${seed}", r"\${seed}", r"\\${", "null", "1:30"]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=3,
)


@fewer
@given(TEXTS, st.dictionaries(TEXTS, VALUES, max_size=2))
@example("SGD", {})  # the default's weight decay came back
@example("1e5", {"1e5": "1e5"})  # a number, to OmegaConf
@example("${seed}", {"a": ["${"]})
def test_what_is_written_is_read_back(tmp_path_factory, text, params):
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    file = text.replace("\0", "") or "file"
    training = Training(
        model=ModelConfig(text, weights=None),
        data=DataConfig(root=file, classes=[text, 1]),
        optimizer=OptimizerConfig(text, 1.0, params),
    )
    evaluation = Evaluation(
        model=ModelConfig(weights=file, _target_=text, params=params),
        attacks={"a": AttackConfig("L2PGD", params=params)},
    )
    for run, load in ((training, load_training), (evaluation, load_evaluation)):
        path.write_bytes(run.to_yaml().encode("utf-8", "surrogatepass"))
        assert repr(load(path)) == repr(run)  # NaN is like itself


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("attacks: {a: {name: L2PGD, null: 3}}", "attacks.a: Incompatible key type 'NoneType'"),
        (
            "attacks: {a: {name: L2PGD, epsilons: [{a: 1}]}}",
            "epsilons.0: {'a': 1} is not a valid number",
        ),
    ],
)
def test_what_the_search_has_found_is_one_line(tmp_path, text, line):
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_evaluation(tmp_path / "run.yaml")
    assert line in str(caught.value)


# Run folders


FEW_TASKS = {"attacks": {name: ATTACKS[name] for name in ("noise", "pgd")}, "samples": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in the seed alone, and the rows of the first."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowStore, "compact", lambda self: None)
        evaluate(tiny(root / "run", **FEW_TASKS))
        evaluate(tiny(root / "other", seed=1, **FEW_TASKS))
    for name in ("run", "other"):
        shutil.copytree(root / name, root / "compacted" / name)
        evaluate(tiny(root / "compacted" / name, seed=int(name == "other"), **FEW_TASKS))
    return root, rows(root / "run")


FILES = ("run.json", "config.yaml", "warnings.json", "examples", "results", "tasks")
FOREIGN = (b"", b"not what you think\n", b'[1, {"a": null}]', b"PAR1", b"\x93NUMPY")


@settings(max_examples=EXAMPLES // 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(FILES),
    st.integers(0, 10**6),
    st.one_of(
        st.floats(0, 1).map(lambda at: ("truncate", at)),
        st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(0, 7)),
        st.sampled_from(FOREIGN).map(lambda content: ("replace", content)),
        st.just(("of another run",)),
        st.just(("of another task",)),
        st.just(("remove",)),
    ),
)
def test_a_damaged_folder_gives_right_rows_or_one_line(runs, tmp_path, name, number, damage):
    root, expected = runs
    root = root if name == "tasks" else root / "compacted"
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "run", folder)
    victim = folder / name
    if victim.is_dir():
        files = sorted(victim.iterdir())
        victim = files[number % len(files)]
    apply(victim, root / "other" / victim.relative_to(folder), *damage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EvaluationWarning)
        for use in (read, drawn, resumed):
            try:
                found = use(folder)
            except UserError:  # one line, always
                continue
            if use is resumed:
                assert found == expected
            else:
                assert all(row in expected for row in found)


def apply(victim: Any, other: Any, kind: str, *how: Any) -> None:
    content = bytearray(victim.read_bytes())
    if kind == "truncate":
        content = content[: int(how[0] * len(content))]
    elif kind == "flip":
        content[int(how[0] * len(content))] ^= 1 << how[1]
    elif kind == "replace":
        content = bytearray(how[0])
    elif kind == "of another run" and other.exists():
        content = bytearray(other.read_bytes())
    elif kind == "of another task":
        content = bytearray(max(victim.parent.glob(f"*{victim.suffix}")).read_bytes())
    elif kind == "remove":
        victim.unlink()
        return
    victim.write_bytes(content)


def read(folder: Any) -> Any:
    Results.load(folder).summary()
    return rows(folder)


def drawn(folder: Any) -> Any:
    page(aggregate([Results.load(folder)]))
    return []


def resumed(folder: Any) -> Any:
    evaluate(tiny(folder, **FEW_TASKS))
    return rows(folder)


def test_rows_of_another_run_are_not_counted_as_this_runs(runs, tmp_path):
    root, expected = runs
    shutil.copytree(root / "run", tmp_path / "run")
    victim = tmp_path / "run" / "tasks" / "0000-noise-0.2-00002.parquet"
    victim.write_bytes((root / "other" / "tasks" / victim.name).read_bytes())
    with pytest.warns(EvaluationWarning, match="1 of 12 files"):
        stored = rows(tmp_path / "run")
    assert len(stored) == len(expected) - 1
    assert all(row in expected for row in stored)


@pytest.mark.parametrize("name", ["config.yaml", "warnings.json"])
def test_a_damaged_text_is_one_line_that_names_it(runs, tmp_path, name):
    root, _ = runs
    shutil.copytree(root / "run", tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(b"[\xff")
    with pytest.raises(UserError, match=rf"{name}: is damaged; remove it"):
        drawn(tmp_path / "run")


def test_damaged_pictures_are_left_out(runs, tmp_path):
    root, _ = runs
    shutil.copytree(root / "run", tmp_path / "run")
    victims = sorted((tmp_path / "run" / "examples").iterdir())
    victims[0].write_bytes(victims[1].read_bytes())
    with pytest.warns(EvaluationWarning, match=r"1 files in .* their pictures left out"):
        kept = RunFolder(tmp_path / "run").read_examples()
    assert len(kept) == len(victims) - 1
