"""Epsilons as people write them."""

import pytest

from foolbox_carescale.core.fractions import format_epsilon, parse_fraction


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8 / 255, "8/255"),
        (0.25 / 255, "0.25/255"),
        (0.031, "0.031"),
        (0.2, "0.2"),  # 51/255
        (1.0, "1"),
        (1 / 3, "0.333333"),  # 85/255
        (1e-9, "1e-09"),
        (0.03137, "0.03137"),
    ],
)
def test_multiples_of_1_255_are_shown_as_such_and_read_back(value, text):
    assert format_epsilon(value) == text
    assert parse_fraction(text) == pytest.approx(value, rel=1e-5)


def test_what_is_no_text_stays_as_it_is():
    for value in (0.5, None, [1], 3):
        assert parse_fraction(value) is value


@pytest.mark.parametrize("text", ["", "8/", "/255", "8/0", "a", "1/2/3", "nan", "8:255"])
def test_what_is_no_number_is_named(text):
    with pytest.raises(ValueError, match=r"is no number; give one such as 0\.1 or 8/255"):
        parse_fraction(text)
