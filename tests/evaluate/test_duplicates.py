"""Where a file system has no locks a task may be stored twice: it counts once."""

import errno
import shutil

import numpy as np
import pyarrow.compute as pc
import pytest

from foolbox_carescale.evaluate import Results, UserError, evaluate
from foolbox_carescale.evaluate.store import locks
from foolbox_carescale.evaluate.store.folder import RunFolder
from foolbox_carescale.evaluate.store.parquet import to_parquet
from tests.evaluate.factories import rows, tiny


@pytest.fixture
def no_locks(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", refuse)


@pytest.fixture
def run(tmp_path):
    """A run that is complete, in one file of results."""
    evaluate(tiny(tmp_path / "run"))
    return tmp_path / "run"


def changed(path, column, values):
    """Write a results file again with other values."""
    store = RunFolder(path.parents[1])
    store.record()
    tasks, table = store._rows._contents(path)
    place = table.schema.get_field_index(column)
    field = table.schema.field(column)
    table = table.set_column(place, field, values(table[column]))
    assert store._rows._replace(path, tasks, [table])


def test_a_task_in_two_results_files_counts_once(run):
    before, summary = rows(run), Results.load(run).summary()
    accuracy = Results.load(run).clean_accuracy
    shutil.copy(run / "results" / "00000.parquet", run / "results" / "00001.parquet")
    assert rows(run) == before
    assert Results.load(run).summary() == summary
    assert Results.load(run).clean_accuracy == accuracy
    assert Results.load(run).select("loss").num_rows == len(before)
    evaluate(tiny(run))  # resumed, diagnosed
    assert rows(run) == before


def test_seconds_of_the_first_file_are_taken_and_may_differ(run):
    shutil.copy(run / "results" / "00000.parquet", run / "results" / "00001.parquet")
    before = [row["seconds"] for row in rows(run, without=())]
    changed(run / "results" / "00001.parquet", "seconds", lambda seconds: pc.add(seconds, 1))
    assert [row["seconds"] for row in rows(run, without=())] == before


def test_two_that_differ_are_one_line(run):
    shutil.copy(run / "results" / "00000.parquet", run / "results" / "00001.parquet")
    changed(run / "results" / "00001.parquet", "clean_loss", lambda loss: pc.add(loss, 1e-9))
    says = r"results: task \S+ is stored twice, in \S+00000.parquet and \S+00001.parquet, and its"
    with pytest.raises(UserError, match=says + r" 'clean_loss' differs; remove one") as caught:
        Results.load(run).summary()
    assert "\n" not in str(caught.value)
    (run / "results" / "00001.parquet").unlink()
    assert Results.load(run).complete


def test_a_task_that_was_written_again_after_it_was_compacted_counts_once(run, no_locks):
    before, store = rows(run), RunFolder(run)
    store.record()
    (path,) = (run / "results").iterdir()
    tasks, table = store._rows._contents(path)
    own, notes = table.slice(0, tasks[0].rows), {"carescale.task": tasks[0].task}
    notes |= {"carescale.run": store._rows.run, "carescale.files": "{}"}
    place = run / "tasks" / f"{tasks[0].task}.parquet"
    place.write_bytes(to_parquet(own, notes))
    assert rows(run) == before
    store.compact()
    assert not place.exists()
    assert rows(run) == before
    # one that differs stays, and reading names it
    loss = own.schema.get_field_index("clean_loss")
    other = pc.add(own["clean_loss"], 1e-9)
    place.write_bytes(to_parquet(own.set_column(loss, own.schema.field(loss), other), notes))
    store.compact()
    assert place.exists()
    with pytest.raises(UserError, match="is stored twice"):
        Results.load(run).summary()


def test_a_task_that_another_process_compacted_meanwhile_is_not_added_again(run, no_locks):
    store = RunFolder(run)
    store.record()
    (path,) = (run / "results").iterdir()
    tasks, table = store._rows._contents(path)
    chosen = [(tasks[0], table.slice(0, tasks[0].rows))]
    store._rows._append(path, chosen)
    assert [one.task for one in store._rows._contents(path)[0]] == [one.task for one in tasks]


def test_a_task_twice_in_one_file_counts_once(run):
    before, store = rows(run), RunFolder(run)
    store.record()
    (path,) = (run / "results").iterdir()
    tasks, table = store._rows._contents(path)
    twice = [tasks[0], *tasks]
    first = table.slice(0, tasks[0].rows)
    assert store._rows._replace(path, twice, [first, table])
    assert len(store._rows._contents(path)[1]) == len(table) + tasks[0].rows
    assert rows(run) == before
    np.testing.assert_equal(len(Results.load(run).table), len(before))
