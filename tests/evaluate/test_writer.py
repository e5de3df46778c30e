"""Results are stored by a thread while the next task is computed; nothing of them is lost."""

import threading
import time

import pytest

from foolbox_carescale.evaluate import Results, evaluate
from foolbox_carescale.evaluate.errors import StorageError
from foolbox_carescale.evaluate.runner.worker import Worker
from foolbox_carescale.evaluate.runner.writer import AHEAD
from foolbox_carescale.evaluate.store.folder import RunFolder

from .test_runner import rows, small

WAIT_S = 60.0


@pytest.fixture
def slow(monkeypatch):
    """Storing that waits for an event, and notes how many tasks were computed when it began."""
    go, computed, began, store, run = threading.Event(), [], [], RunFolder.store, Worker.run

    def store_later(folder, part):
        began.append(len(computed))
        assert go.wait(WAIT_S)
        store(folder, part)

    def count(worker, task):
        computed.append(task.name)
        return run(worker, task)

    monkeypatch.setattr(RunFolder, "store", store_later)
    monkeypatch.setattr(Worker, "run", count)
    return go, computed, began


def test_next_tasks_are_computed_while_one_is_stored_but_not_all(tmp_path, slow):
    go, computed, _ = slow
    held = []

    def release():
        while len(computed) < AHEAD + 1:
            time.sleep(0.01)
        time.sleep(0.3)  # time for more, if there were no limit
        held.append(len(computed))
        go.set()

    thread = threading.Thread(target=release)
    thread.start()
    results = evaluate(small(tmp_path / "run"))
    thread.join()
    assert held == [AHEAD + 1]
    assert results.complete
    assert rows(results) == rows(evaluate(small(tmp_path / "again")))


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, ValueError])
def test_what_waits_to_be_stored_is_stored_whatever_ends_the_run(tmp_path, slow, raised):
    go, computed, _ = slow
    threading.Timer(0.3, go.set).start()

    def stop(progress):
        if progress.done == AHEAD:
            raise raised("now")

    with pytest.raises(raised, match="now"):
        evaluate(small(tmp_path / "run"), on_progress=stop)
    assert len(computed) == AHEAD
    assert RunFolder(tmp_path / "run").stored() == set(computed)
    assert not Results.load(tmp_path / "run").complete
    assert evaluate(small(tmp_path / "run")).complete


@pytest.mark.parametrize("failing", [1, 9])
def test_what_the_thread_says_ends_the_run_and_what_was_stored_is_kept(
    tmp_path, monkeypatch, failing
):
    store, tried = RunFolder.store, []

    def fail(folder, part):
        tried.append(part.task)
        if len(tried) == failing:
            raise StorageError("output: there is no room")
        store(folder, part)

    monkeypatch.setattr(RunFolder, "store", fail)
    with pytest.raises(StorageError, match="there is no room"):
        evaluate(small(tmp_path / "run"))
    stored = RunFolder(tmp_path / "run").stored()
    assert stored == set(tried) - {tried[failing - 1]}
    assert evaluate(small(tmp_path / "run")).complete


def test_claims_of_stored_tasks_end_and_no_thread_is_left(tmp_path, monkeypatch):
    released, release = [], RunFolder.release

    def note(folder, number):
        released.append((number, threading.current_thread().name))
        release(folder, number)

    monkeypatch.setattr(RunFolder, "release", note)
    evaluate(small(tmp_path / "run"))
    in_thread = sorted(number for number, name in released if name.startswith("carescale-writer"))
    assert in_thread == list(range(9))
    assert not [t for t in threading.enumerate() if t.name.startswith("carescale-writer")]
