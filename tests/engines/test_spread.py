"""How rows are shared out among threads."""

import itertools
import os
import threading

import pytest

from foolbox_carescale.engines.numba_cpu import threads

ENOUGH = threads.MIN_WORK


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def spread(rows, work):
    """The ranges that were handed out, and the threads that took them."""
    taken, names = [], set()

    def kernel(first, last):
        taken.append((first, last))
        names.add(threading.current_thread().name)

    threads.spread(kernel, rows, work)
    return sorted(taken), names


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_every_row_is_taken_once(number):
    threads.set_num_threads(number)
    work = (1, ENOUGH - 1, ENOUGH, 7 * ENOUGH, 10**9)
    for rows, per_row in itertools.product((1, 2, 3, 10, 1000), work):
        taken, _ = spread(rows, per_row)
        assert taken[0][0] == 0
        assert taken[-1][1] == rows
        assert all(first < last for first, last in taken)
        assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(taken))


def test_little_work_stays_with_the_caller():
    threads.set_num_threads(4)
    mine = {threading.current_thread().name}
    assert spread(1000, ENOUGH - 1) == ([(0, 1000)], mine)
    assert spread(1, 10**9) == ([(0, 1)], mine)
    assert len(spread(1000, ENOUGH)[0]) > 1
    threads.set_num_threads(1)
    assert spread(1000, 10**9) == ([(0, 1000)], mine)
    assert threads._pool is None


@pytest.mark.parametrize("number", [0, -1])
def test_less_than_one_thread_is_refused(number):
    before = threads.get_num_threads()
    with pytest.raises(ValueError, match=f"threads must be at least 1, got {number}"):
        threads.set_num_threads(number)
    assert threads.get_num_threads() == before


@pytest.mark.parametrize(("rows", "helpers"), [(2, 1), (3, 2), (1000, 3)])
def test_no_more_helpers_are_asked_than_there_are_rows_and_threads(monkeypatch, rows, helpers):
    asked = []
    monkeypatch.setattr(threads, "_submit", lambda task, times: asked.append(times) or [])
    threads.set_num_threads(4)
    spread(rows, 10**9)
    assert asked == [helpers]


@pytest.mark.parametrize("number", [2, 3])
def test_as_many_threads_as_were_asked_for_work_at_once(number):
    threads.set_num_threads(number)
    together = threading.Barrier(number, timeout=60)
    first_of_each = threading.local()
    names = set()

    def kernel(first, last):
        if not hasattr(first_of_each, "done"):
            first_of_each.done = True
            together.wait()
        names.add(threading.current_thread().name)

    threads.spread(kernel, 1000, 10**9)
    assert len(names) == number
    assert threading.current_thread().name in names
    assert sum(name.startswith("carescale") for name in names) == number - 1
    assert threads._pool._max_workers == number - 1


def test_ranges_shrink_with_what_is_left_down_to_the_least():
    edges = [first for first, _ in threads._ranges(100, 4, 10)]
    assert edges == [0, 25, 43, 57, 67, 77, 87, 97]
    assert list(threads._ranges(5, 2, 100)) == [(0, 5)]
    # of 1000 rows of 100 elements none is less than 25,000 elements
    assert [last - first for first, last in spread_of_four(1000, ENOUGH)] == [250] * 4
    assert [last - first for first, last in spread_of_four(ENOUGH, ENOUGH)] == [25_000] * 4
    # a row is never divided, however long it is
    assert spread_of_four(4, 10**9) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def spread_of_four(rows, work):
    threads.set_num_threads(4)
    return spread(rows, work)[0]


def test_a_helper_is_hired_though_another_thread_has_just_asked_for_one_thread():
    threads.set_num_threads(1)
    (helper,) = threads._submit(lambda: None, 1)
    assert helper.result() is None


def test_another_number_of_threads_ends_the_pool_that_there_was():
    threads.set_num_threads(3)
    spread(1000, 10**9)
    pool = threads._pool
    threads.set_num_threads(2)
    assert threads.get_num_threads() == 2
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(print)
    spread(1000, 10**9)
    assert threads._pool is not pool


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "two"])
def test_a_number_in_the_environment_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv(threads.ENVIRONMENT_VARIABLE, given)
    monkeypatch.setattr(threads, "_num_threads", None)
    expected = f"CARESCALE_NUM_THREADS must be a positive integer, got '{given}'"
    with pytest.raises(ValueError, match=expected):
        threads.get_num_threads()


def test_the_environment_comes_first_then_the_processors_up_to_eight(monkeypatch):
    def number():
        monkeypatch.setattr(threads, "_num_threads", None)
        return threads.get_num_threads()

    monkeypatch.setenv(threads.ENVIRONMENT_VARIABLE, "1")
    assert number() == 1
    monkeypatch.setenv(threads.ENVIRONMENT_VARIABLE, "20")
    assert number() == 20
    monkeypatch.delenv(threads.ENVIRONMENT_VARIABLE)
    for processors, expected in ((1, 1), (3, 3), (64, 8)):
        mine = {0: set(range(processors))}  # by process, of which 0 is the one that asks
        monkeypatch.setattr(os, "sched_getaffinity", mine.__getitem__, False)
        assert number() == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    for processors, expected in ((None, 1), (3, 3), (64, 8)):
        monkeypatch.setattr(os, "cpu_count", lambda n=processors: n)
        assert number() == expected
