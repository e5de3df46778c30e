import errno
import io
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import warnings

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from foolbox_carescale.evaluate import (
    AttackConfig,
    EvaluationWarning,
    Results,
    UserError,
    evaluate,
    print_report,
    write_report,
)
from foolbox_carescale.evaluate.errors import StorageError
from foolbox_carescale.evaluate.report.aggregate import aggregate
from foolbox_carescale.evaluate.report.page import page
from foolbox_carescale.evaluate.report.tables import summary_csv, summary_markdown
from foolbox_carescale.evaluate.runner.writer import AHEAD
from foolbox_carescale.evaluate.store.checksums import (
    IntegrityError,
    create_atomically,
    digest,
    from_json,
    to_json,
)
from foolbox_carescale.evaluate.store.folder import RunFolder
from foolbox_carescale.evaluate.store.parquet import MOST_ROWS, from_parquet, to_parquet
from foolbox_carescale.evaluate.store.rows import RowStore
from foolbox_carescale.evaluate.store.schema import SCHEMA, check_rows
from tests.evaluate import synthetic
from tests.evaluate.factories import SAMPLES, data, rows, tiny

KINDS = ("run.json", "config.yaml", "warnings.json", "*.parquet", "examples/*", "adversarial_e*/*")
LAYOUTS = ("results", "tasks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "run"
    evaluate(tiny(root, save="adversarial_examples"))
    return root


@pytest.fixture(scope="module")
def checksummed(tmp_path_factory):
    """The file of a task."""
    root = tmp_path_factory.mktemp("runs") / "waiting"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowStore, "compact", lambda self: None)
        evaluate(tiny(root))
    return next((root / "tasks").glob("0004-pgd*")).read_bytes()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_flipped_bit_is_found(checksummed, folder, kind):
    if kind == "results":
        checksummed = (folder / "results" / "00000.parquet").read_bytes()
    generator = np.random.default_rng(0)
    for place in range(0, len(checksummed), 1 + len(checksummed) // 10000):
        flipped = bytearray(checksummed)
        flipped[place] ^= 1 << generator.integers(8)
        with pytest.raises(IntegrityError):
            from_parquet(bytes(flipped), SCHEMA)


def test_every_truncation_is_found(checksummed):
    for length in range(0, len(checksummed), 5):
        with pytest.raises(IntegrityError):
            from_parquet(checksummed[:length], SCHEMA)


def test_a_checksummed_file_is_read_back(checksummed):
    table, notes = from_parquet(checksummed, SCHEMA)
    again, more = from_parquet(to_parquet(table, {"key": "value"}), SCHEMA)
    assert again.equals(table)
    assert table.schema.equals(SCHEMA)
    assert notes["carescale.task"].startswith("0004-pgd")
    assert more["key"] == "value"


def test_results_open_in_pandas_polars_and_duckdb_as_they_are(folder):
    files = f"{folder}/results/*.parquet"
    count = len(rows(folder))
    assert count == SAMPLES * 5
    frame = pd.read_parquet(folder / "results")
    assert frame.robust.notna().sum() == count
    assert not frame.attacked.all()  # columns about the attack are null there, and keep their types
    kinds = {"success": "boolean", "in_bounds": "boolean", "adversarial_prediction": "Int64"}
    for read in (frame, Results.load(folder).table.to_pandas()):
        assert {name: str(read.dtypes[name]) for name in kinds} == kinds
    assert pl.read_parquet(files)["robust"].len() == count
    # the footers' statistics, which queries skip files by, are right too
    query = f"select count(*) from '{files}' where attack = 'pgd' and sample >= 2"
    assert duckdb.sql(query).fetchall() == [(SAMPLES - 2,)]


def test_saved_adversarial_examples_are_those_of_the_rows(folder):
    images, _ = data()
    table = [r for r in rows(folder) if r["attacked"]]
    for row in table:
        (name,) = [
            path
            for path in (folder / "adversarial_examples").glob(
                f"*-{row['attack']}-*-{row['batch']:05d}.*"
            )
            if f"-{row['epsilon']!r}-" in path.name or "-all-" in path.name
        ]
        kept = load_file(name)
        (adversarial,) = kept[f"epsilon={row['epsilon']!r}"]
        assert adversarial.dtype == np.float32
        assert kept["sample"].tolist() == [row["sample"]]
        moved = adversarial.astype(float) - images[row["sample"]].astype(float)
        assert np.abs(moved).max() == row["norm_linf"]
    assert len(table) > 16


def test_adversarial_examples_are_only_saved_when_asked_for(tmp_path):
    evaluate(tiny(tmp_path / "run"))
    assert not (tmp_path / "run" / "adversarial_examples").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for a few tasks."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=150k", "none", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs rights: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_one_error_and_what_was_done_is_intact(small_disk, tmp_path_factory):
    with pytest.raises(StorageError, match=r"No space left on device.*is intact.*run again"):
        evaluate(tiny(small_disk / "run"))
    stored = rows(small_disk / "run")
    assert 0 < len(stored) < SAMPLES * 5
    reference = tmp_path_factory.mktemp("reference")
    evaluate(tiny(reference / "run"))
    expected = rows(reference / "run")
    assert all(row in expected for row in stored)

    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    evaluate(tiny(small_disk / "run"))
    assert rows(small_disk / "run") == rows(reference / "run")


def test_a_quota_is_one_error_and_what_was_done_is_intact(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(progress):
        if progress.done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    try:
        with pytest.raises(StorageError, match="File too large"):
            evaluate(tiny(tmp_path / "run"), on_progress=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    stored = list((tmp_path / "run" / "tasks").iterdir())
    assert 3 - AHEAD <= len(stored) <= 3  # some waited to be stored when there was the quota
    assert not list((tmp_path / "run" / ".unfinished").iterdir())
    evaluate(tiny(tmp_path / "run"))
    evaluate(tiny(tmp_path / "reference"))
    assert rows(tmp_path / "run") == rows(tmp_path / "reference")


def test_a_read_only_disk_is_one_error_and_what_was_done_can_be_read(small_disk):
    def stop(progress):
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny(small_disk / "run"), on_progress=stop)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match="Read-only file system"):
        evaluate(tiny(small_disk / "run"))
    assert len(Results.load(small_disk / "run").summary()) == 4


@pytest.mark.parametrize("place", ["file/run", "/proc/run", "/dev/null"])
def test_a_folder_that_cannot_be_made_is_one_error(tmp_path, place):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match=r"output: .* cannot be written") as caught:
        evaluate(tiny(tmp_path / place))
    assert "\n" not in str(caught.value)


def test_a_folder_without_rights_is_one_error(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        evaluate(tiny(tmp_path / "run"))


def test_a_report_leaves_damaged_files_out_and_says_so(tmp_path, uncompacted):
    evaluate(tiny(tmp_path / "run"))
    victim = next((tmp_path / "run" / "tasks").glob("0004-*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.warns(EvaluationWarning, match="1 of 24 files with results .* damaged and left"):
        stored = rows(tmp_path / "run")
    assert len(stored) == SAMPLES * 5 - 1


def test_folders_that_nobody_named_are_different_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {RunFolder.new().path for _ in range(3)}  # within a second
    assert set((tmp_path / "runs").iterdir()) == {path.resolve() for path in paths}
    assert len(paths) == 3


def test_a_file_system_without_links_holds_a_run_like_any_other(tmp_path, folder, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    evaluate(tiny(tmp_path / "run"))
    assert rows(tmp_path / "run") == rows(folder)
    path, unfinished = tmp_path / "made", tmp_path / "run" / ".unfinished"
    assert create_atomically(path, b"first", temporary=unfinished)
    assert not create_atomically(path, b"second", temporary=unfinished)
    assert path.read_bytes() == b"first"


def test_what_belongs_to_rows_and_is_gone_is_computed_again(tmp_path):
    evaluate(tiny(tmp_path / "run", save="adversarial_examples"))
    victim = next((tmp_path / "run" / "adversarial_examples").glob("0004-*"))
    content = victim.read_bytes()
    victim.unlink()
    with pytest.warns(EvaluationWarning, match=f"{victim.name} is missing.*is computed again"):
        evaluate(tiny(tmp_path / "run", save="adversarial_examples"))
    assert victim.read_bytes() == content


ONE = {"attacks": {"noise": AttackConfig("L2AdditiveUniformNoiseAttack", [0.2])}, "samples": 2}
TASK = "0000-noise-0.2-00000"


@pytest.fixture
def strange(tmp_path, uncompacted):
    """A folder from a stranger, with right checksums, beside what must stay as it is."""
    evaluate(tiny(tmp_path / "run", **ONE))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("precious", encoding="utf-8")
    yield tmp_path / "run"
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["file"]
    assert (tmp_path / "outside" / "file").read_text(encoding="utf-8") == "precious"


def rewrite(folder, notes=(), compression="none", **columns):
    """Store a task with other columns, notes or compression, and the checksum that fits them."""
    path = folder / "tasks" / f"{TASK}.parquet"
    table, known = from_parquet(path.read_bytes(), SCHEMA)
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        if column is None:
            table = table.remove_column(place)
        else:
            table = table.set_column(place, name, column)
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, table.schema, compression=compression) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**known, **dict(notes)})
    content = buffer.getvalue().to_pybytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:footer] + digest(content).encode() + content[footer:])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"robust": None}, "columns differ in 'robust'"),
        ({"epsilon": pa.array([np.nan])}, "'epsilon' is not positive and finite"),
        ({"p": pa.array([np.nan])}, "'p' is not positive"),
        ({"label": pa.array([-1])}, "'label' is not within 0 and"),
        ({"label": pa.array([2**40])}, "'label' is not within 0 and"),
        ({"loss": pa.array(["high"])}, "it is not the Parquet of a run"),
        ({"loss": pa.array([-1.0])}, "'loss' is negative or too large"),
        ({"robust": pa.array([None], pa.bool_())}, "it is not the Parquet of a run"),
        ({"compression": "zstd"}, "it is compressed or too large"),
        ({"notes": {"carescale.files": '{"/etc/passwd": ""}'}}, "files that are not its own"),
        ({"notes": {"carescale.files": '{"../outside/file": ""}'}}, "files that are not its own"),
        ({"notes": {"carescale.files": "[[["}}, "does not say which files belong to it"),
        ({"notes": {"carescale.task": "another"}}, "it belongs to another run or task"),
        ({"setting": pa.array([7], pa.int32())}, "its rows are not those of its task"),
    ],
)
def test_rows_that_no_run_has_are_left_out_and_computed_again(strange, changes, reason):
    expected = rows(strange)
    rewrite(strange, **changes)
    if "setting" not in changes:
        with pytest.warns(EvaluationWarning, match=f"1 of 2 files with .*{reason}"):
            assert len(rows(strange)) == 1
    with pytest.warns(EvaluationWarning, match=f"cannot be trusted .*{reason}"):
        evaluate(tiny(strange, **ONE))
    assert rows(strange) == expected


TEXTS = ("model", "data", "attack", "attack_name", "attack_params", "library")
NUMBERS, COSTS = ("attack_repeat", "p", "epsilon"), ("seconds", "forward_passes", "backward_passes")
LIMITED = ("model", "data", "attack", "attack_name", "library", "input_hash")

FORGED = [
    ("attacked", lambda r: ~r["attacked"], "does not fit the clean predictions"),
    ("success", lambda r: [None] * len(r), "has no value of an attacked sample"),
    ("success", lambda r: r["success"].fillna(True), "values of samples that were not attacked"),
    (
        "success",
        lambda r: ~r["success"].astype("boolean"),
        "does not fit the adversarial predictions",
    ),
    ("adversarial_prediction", lambda r: [None] * len(r), "has no value of an attacked sample"),
    ("adversarial_prediction", lambda r: r["label"] - 1, "not within 0 and 1048575"),
    ("clean_prediction", lambda r: r["label"] + 2**20, "not within 0 and 1048575"),
    ("robust", lambda r: ~r["robust"], "does not fit 'attacked' and 'success'"),
    *((name, lambda r: r.index.astype(str), "differs within a setting") for name in TEXTS),
    *((name, lambda r: [1] + [2] * (len(r) - 1), "differs within a setting") for name in NUMBERS),
    ("attack_repeat", lambda r: 0, "not within 1 and 2147483647"),
    ("norm", lambda r: r["norm"].fillna(1.0), "values of samples that were not attacked"),
    ("norm_over_epsilon", lambda r: 1.01 * r["norm_over_epsilon"], "is not the norm divided by"),
    ("minimum_norm", lambda r: r["norm"].mask(r["norm"] > 0.47), "lacks values of some attacked"),
    *((name, lambda r: r["norm"] * np.inf, "is not finite") for name in COSTS),
    *((name, lambda r: "x" * 1001, "is above 1000 characters") for name in LIMITED),
    ("broken_by", lambda r: np.where(r["attacked"], "x" * 1001, None), "is above 1000 characters"),
]


@pytest.mark.parametrize(("name", "forge", "reason"), FORGED)
def test_rows_that_contradict_each_other_are_refused(tmp_path, name, forge, reason):
    synthetic.run(tmp_path / "run", attacks=1, epsilons=(0.5,))
    path = next((tmp_path / "run" / "results").glob("*.parquet"))
    table, _ = from_parquet(path.read_bytes(), SCHEMA)
    check_rows(table)
    frame = table.to_pandas()
    frame[name] = forge(frame)
    with pytest.raises(IntegrityError) as caught:
        check_rows(pa.Table.from_pandas(frame, SCHEMA, preserve_index=False))
    assert re.fullmatch(f"its column '{name}' .*{reason}.*", str(caught.value))


def test_few_bytes_that_stand_for_many_are_not_unpacked():
    p = pa.schema([SCHEMA.field("p")])
    bomb = to_parquet(pa.table({"p": np.ones(MOST_ROWS + 1)}, schema=p), {})
    assert len(bomb) < 10**6
    with pytest.raises(IntegrityError, match="compressed or too large"):
        from_parquet(bomb, p)
    model = pa.schema([SCHEMA.field("model")])
    names = pa.DictionaryArray.from_arrays(np.zeros(2**12, np.int32), ["x" * 2**19])
    bomb = to_parquet(pa.table({"model": names}), {})
    assert len(bomb) < 2**21
    with pytest.raises(IntegrityError, match="'model' is too large"):
        from_parquet(bomb, model)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "nothing"])
def test_what_is_no_file_is_one_line_or_computed_again(strange, kind):
    expected = rows(strange)
    names = ("run.json", "config.yaml", "warnings.json", "results", "tasks", "examples", ".claims")
    (strange / "results" / "00000.parquet").write_bytes(b"to be replaced")
    files = ("results/00000.parquet", f"tasks/{TASK}.parquet", f"examples/{TASK}.safetensors")
    for name in (*names, *files, ".unfinished"):
        folder = strange.parent / name.replace("/", "-")
        shutil.copytree(strange, folder)
        victim = folder / name
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
        if kind == "folder":
            victim.mkdir()
        elif kind == "pipe":
            os.mkfifo(victim)
        else:
            to = {"device": "/dev/zero", "loop": victim, "nothing": folder / "nowhere"}[kind]
            victim.symlink_to(to)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EvaluationWarning)
            for step in (seen, resumed):
                message = ""
                try:
                    found = step(folder, ONE)
                except UserError as error:
                    message = str(error)
                else:
                    assert all(row in expected for row in found)
                assert "\n" not in message


@pytest.mark.parametrize("name", ["tasks", "examples", ".unfinished", ".claims", "damaged"])
def test_a_resumed_run_writes_and_deletes_nothing_through_a_link(strange, name):
    victim = strange / name
    if victim.is_dir():
        shutil.rmtree(victim)
    else:
        victim.unlink(missing_ok=True)
    if name != "tasks":
        (strange / "tasks" / f"{TASK}.parquet").write_bytes(b"damaged")
    victim.symlink_to(strange.parent / "outside" / ("file" if name == ".claims" else ""))
    with pytest.raises(StorageError, match="symbolic link"):
        evaluate(tiny(strange, **ONE))


def test_a_report_replaces_links_and_does_not_write_through_them(strange):
    for name in ("report.html", "summary.md", "curves.png"):
        (strange / name).symlink_to(strange.parent / "outside" / "file")
    written = write_report(Results.load(strange))
    assert not any(path.is_symlink() for path in written)


WRITER = """
import sys
from pathlib import Path
from foolbox_carescale.evaluate.store.folder import RunFolder
RunFolder(Path(sys.argv[1])).claim(0)
print("writes", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_unless_another_one_writes(strange):
    left = strange / ".unfinished" / "left"
    (strange / ".unfinished" / "link").symlink_to(strange.parent / "outside" / "file")
    command = [sys.executable, "-c", WRITER, str(strange)]
    folder = RunFolder(strange)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"writes\n"
        assert not list((strange / ".unfinished").iterdir())
        left.touch()
        folder.claim(1)
        folder.close()
        assert left.exists()
        other.communicate(b"")
    folder.claim(1)
    folder.close()
    assert not left.exists()


@pytest.mark.parametrize(
    "text", ["a: &a [*a]\n", "[" * 3000, "a: !!python/name:os.system\n", "? [1]\n: {"]
)
def test_a_config_that_no_run_writes_is_one_line(tmp_path, text):
    results = synthetic.run(tmp_path / "run", config=text)
    with pytest.raises(UserError, match=r"config\.yaml: is damaged; remove it"):
        aggregate([results])


@pytest.mark.parametrize(
    "changes",
    [
        {"asked": None},
        {"resolved": {}},
        {"samples": 10**15},
        {"samples": -1},
        {"model": {"weights": "", "logits": ["high"]}},
        {"versions": [1]},
        {"tasks": "many"},
    ],
)
def test_a_record_that_no_run_writes_is_one_line(strange, changes):
    path = strange / "run.json"
    path.write_bytes(to_json({**from_json(path.read_bytes()), **changes}))
    with pytest.raises(UserError, match=r"run\.json"):
        evaluate(tiny(strange, **ONE))


@pytest.mark.parametrize("name", ["model", "attack", "attack_params", "input_hash"])
def test_texts_that_are_not_utf_8_are_left_out(tmp_path, uncompacted, name):
    results = synthetic.run(tmp_path / "run")
    path = next((tmp_path / "run" / "tasks").glob("*.parquet"))
    table, notes = from_parquet(path.read_bytes(), SCHEMA)
    ends = pa.array(range(0, 2 * len(table) + 2, 2), pa.int32())
    wrong = pa.py_buffer(b"\xff\xfe" * len(table))
    texts = pa.StringArray.from_buffers(len(table), ends.buffers()[1], wrong)
    table = table.set_column(table.schema.get_field_index(name), name, texts)
    path.write_bytes(to_parquet(table, notes))
    with pytest.warns(EvaluationWarning, match="1 of 4 files with .* are damaged"):
        aggregate([results])


@pytest.mark.parametrize(
    ("model", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("\N{FULLWIDTH EQUALS SIGN}1", "'\N{FULLWIDTH EQUALS SIGN}1"),
        ("a;=1", "a;=1"),
        ("a\t=1", "a\N{REPLACEMENT CHARACTER}=1"),
    ],
)
def test_texts_in_csv_are_quoted_and_no_formulas(tmp_path, model, cell):
    runs = aggregate([synthetic.run(tmp_path / "run", model=model)])
    text = summary_csv(runs)
    assert f',"{cell}",' in text
    # what is missing is not quoted: a column of numbers stays one
    assert ",," in text


def test_texts_in_markdown_are_shown_as_they_are(tmp_path):
    runs = aggregate([synthetic.run(tmp_path / "run", model="~~x~~ &lt; *y*")])
    assert r": \~\~x\~\~ \&lt; \*y\* on " in summary_markdown(runs)


def test_names_reach_the_console_without_markup_and_control_sequences(tmp_path):
    results = synthetic.run(tmp_path / "run", model="[/i]\x1b[2J")
    stream = io.StringIO()
    print_report(results, Console(file=stream))
    assert "[/i]\N{REPLACEMENT CHARACTER}[2J on" in stream.getvalue()


def seen(folder, changes):
    results = Results.load(folder)
    page(aggregate([results, results]))
    return rows(folder)


def resumed(folder, changes):
    evaluate(tiny(folder, **changes))
    return rows(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("flips", [30, pytest.param(500, marks=pytest.mark.nightly)])
def test_flipped_bits_in_all_kinds_of_files_are_noticed_or_harmless(
    tmp_path, flips, layout, request
):
    if layout == "tasks":
        request.getfixturevalue("uncompacted")
    attacks = {"noise": AttackConfig("L2AdditiveUniformNoiseAttack", [0.2])}
    changes = {"attacks": attacks, "samples": 2, "save": "adversarial_examples"}
    folder, generator = tmp_path / "run", random.Random(0)
    evaluate(tiny(folder, **changes))
    expected = rows(folder)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    kinds = [[path for path in files if path.match(pattern)] for pattern in KINDS]
    assert all(kinds)
    noticed = 0
    for _ in range(flips):
        victim = generator.choice(generator.choice(kinds))
        content = bytearray(files[victim])
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        victim.write_bytes(content)
        refused = None
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                read, again = seen(folder, changes), resumed(folder, changes)
            except UserError as error:
                refused = str(error)
        if refused is None:
            assert all(row in expected for row in read)
            assert again == expected
        else:
            assert "\n" not in refused
            assert victim.name in refused or "format" in refused
        noticed += bool(told) or refused is not None
        for path, original in files.items():
            path.write_bytes(original)
    assert noticed > 0.9 * flips
