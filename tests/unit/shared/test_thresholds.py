"""Hiding small groups, and what would reveal them."""

from hypothesis import given
from hypothesis import strategies as st

from shared.privacy.thresholds import REVEALING, hidden_parts, too_few

THRESHOLD = 5
parts = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 20), max_size=8)


def test_a_figure_of_fewer_people_than_the_threshold_is_hidden() -> None:
    assert too_few(4, THRESHOLD) == "fewer than 5 people"
    assert too_few(5, THRESHOLD) is None


def test_with_one_small_part_the_next_smallest_is_hidden_too() -> None:
    people = {"Finance": 40, "Legal": 2, "Sales": 12}

    assert hidden_parts(people, THRESHOLD) == {"Legal": "fewer than 5 people", "Sales": REVEALING}


def test_of_two_equally_small_parts_the_one_that_sorts_first_is_hidden() -> None:
    people = {"Sales": 12, "Finance": 12, "Legal": 2}

    assert set(hidden_parts(people, THRESHOLD)) == {"Legal", "Finance"}


def test_small_parts_that_together_stay_small_hide_a_third() -> None:
    assert set(hidden_parts({"a": 1, "b": 2, "c": 9, "d": 9}, THRESHOLD)) == {"a", "b", "c"}


def test_small_parts_that_together_reach_the_threshold_hide_no_other() -> None:
    assert set(hidden_parts({"a": 3, "b": 2, "c": 9}, THRESHOLD)) == {"a", "b"}


def test_nothing_is_hidden_where_all_parts_are_large() -> None:
    assert hidden_parts({"a": 5, "b": 500}, THRESHOLD) == {}


@given(parts)
def test_no_hidden_part_can_be_had_by_subtraction(people: dict[str, int]) -> None:
    hidden = hidden_parts(people, THRESHOLD)

    assert all(name in hidden for name, count in people.items() if count < THRESHOLD)
    if hidden and len(hidden) < len(people):
        assert len(hidden) > 1
        assert sum(people[name] for name in hidden) >= THRESHOLD


@given(parts)
def test_what_is_hidden_does_not_depend_on_the_order_of_the_parts(people: dict[str, int]) -> None:
    backwards = dict(reversed(people.items()))

    assert hidden_parts(backwards, THRESHOLD) == hidden_parts(people, THRESHOLD)
