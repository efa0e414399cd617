"""Buckets are a commutative group."""

from hypothesis import given
from hypothesis import strategies as st

from services.reporting.kpis.bucket import (
    EMPTY,
    WAITED,
    WHOLE,
    Cell,
    Cells,
    Contribution,
    histogram,
)
from shared.counts import merge

names = st.sampled_from(["held", "starts", "starts_at", "waited:3", "waited:12", "pulses"])
buckets = st.dictionaries(names, st.integers(-(10**12), 10**12).filter(bool))


@given(buckets, buckets, buckets)
def test_merging_is_associative(a: dict[str, int], b: dict[str, int], c: dict[str, int]) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c)) == merge(a, b, c)


@given(buckets, buckets)
def test_merging_is_commutative(a: dict[str, int], b: dict[str, int]) -> None:
    assert merge(a, b) == merge(b, a)


@given(buckets)
def test_the_empty_bucket_is_the_identity(a: dict[str, int]) -> None:
    assert merge(a, EMPTY) == merge(EMPTY, a) == a


@given(buckets)
def test_every_bucket_has_an_inverse(a: dict[str, int]) -> None:
    inverse = {name: -amount for name, amount in a.items()}

    assert merge(a, inverse) == EMPTY


@given(buckets, buckets)
def test_merging_changes_neither_bucket(a: dict[str, int], b: dict[str, int]) -> None:
    before = dict(a), dict(b)
    merge(a, b)

    assert (a, b) == before


def test_a_histogram_is_read_in_the_order_of_its_values() -> None:
    bucket = {"waited:12": 2, "waited:3": 1, "held": 7}

    assert histogram(bucket, WAITED) == [(3, 1), (12, 2)]


def test_what_is_added_and_taken_away_changes_no_bucket() -> None:
    finance = Cells((WHOLE, Cell("department", "Finance")))
    found = Contribution()
    found.count(finance, "held", 3)
    assert found.by_cell() == {WHOLE: {"held": 3}, Cell("department", "Finance"): {"held": 3}}

    # Equal cells of another object are the same buckets.
    found.count(Cells(finance.each), "held", -3)
    assert found.by_cell() == {}


def test_a_cell_gets_what_all_groups_of_cells_say_of_it() -> None:
    found = Contribution()
    for name, amount in (("Finance", 3), ("Legal", 4)):
        found.count(Cells((WHOLE, Cell("department", name))), "held", amount)
    found.appeared["respondents"][WHOLE] += 2

    assert found.by_cell() == {
        WHOLE: {"held": 7, "respondents": 2},
        Cell("department", "Finance"): {"held": 3},
        Cell("department", "Legal"): {"held": 4},
    }
