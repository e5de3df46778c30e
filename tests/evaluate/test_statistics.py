import math

import numpy as np
import pytest

from foolbox_carescale.evaluate.statistics import chance_of_more, difference, wilson


@pytest.mark.parametrize(("count", "total"), [(0, 5), (3, 7), (5, 5), (480, 1000), (1, 50_000)])
def test_wilsons_interval_is_that_of_his_formula(count, total):
    z = 1.959963984540054
    centre, scale = count + z * z / 2, total + z * z
    half = z * (count * (total - count) / total + z * z / 4) ** 0.5
    assert wilson(count, total) == pytest.approx(
        ((centre - half) / scale, (centre + half) / scale), abs=1e-12
    )


def test_the_interval_of_no_samples_is_from_0_to_1():
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("more", "fewer"), [(0, 0), (0, 4), (3, 3), (7, 0), (60, 30)])
def test_the_sign_test_counts_throws_of_a_fair_coin(more, fewer):
    throws = more + fewer
    expected = sum(math.comb(throws, k) for k in range(more, throws + 1)) / 2**throws
    assert chance_of_more(more, fewer) == pytest.approx(expected, rel=1e-12)


def test_an_unpaired_difference_is_newcombes_published_one():
    # Newcombe 1998, Statistics in Medicine 17, 873-890, table II, row (a), method 10
    one, other = np.arange(70) < 56, np.arange(80) < 48
    value, low, high = difference(one, other, paired=False)
    assert value == pytest.approx(0.2)
    assert (low, high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95])
def test_the_paired_interval_holds_the_truth_about_as_often_as_it_says(correlation):
    generator = np.random.default_rng(0)
    held = widths = free_widths = 0.0
    rounds = 600
    for _ in range(rounds):
        one = generator.random(100) < 0.6
        other = np.where(generator.random(100) < correlation, one, generator.random(100) < 0.5)
        truth = 0.6 - (correlation * 0.6 + (1 - correlation) * 0.5)
        _, low, high = difference(one, other, paired=True)
        held += low <= truth <= high
        widths += high - low
        free_widths += np.subtract(*difference(one, other, paired=False)[:0:-1])
    assert 0.93 <= held / rounds <= 0.995
    if correlation > 0.5:
        assert widths < 0.8 * free_widths


def test_runs_that_agree_everywhere_differ_by_nothing_with_an_interval_around_it():
    same = np.arange(50) < 20
    value, low, high = difference(same, same, paired=True)
    assert value == 0
    assert low < 0 < high
