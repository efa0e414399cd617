"""The formulas of the checker against numbers that can be worked out by hand."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from tests.checker.figures import quantile, wilson
from tests.checker.kpi_facts import Fact
from tests.checker.kpis import Row, suppress
from tests.checker.overlap import shared_minutes
from tests.checker.world import Facts, Hours, Timeline

_WEEKDAYS = (1, 2, 3, 4, 5)
_OFFICE = Hours(_WEEKDAYS, 9 * 60, 17 * 60)
_SOMEBODY = Facts(
    person="person-1",
    role="mentor",
    level=5,
    department="Policy",
    region="europe",
    timezone="Europe/London",
    chain=(),
    languages=frozenset({"en"}),
    hours=_OFFICE,
    ready=True,
)


@pytest.mark.parametrize(
    ("zone", "on", "minutes"),
    [
        ("Europe/London", "2025-01-15", 480),
        ("Asia/Kolkata", "2025-01-15", 150),
        ("Asia/Kolkata", "2025-07-15", 210),
        ("Asia/Kathmandu", "2025-01-15", 135),
        ("America/New_York", "2025-01-15", 180),
        # America has already moved its clocks, Europe has not
        ("America/New_York", "2025-03-19", 240),
        ("Pacific/Auckland", "2025-01-15", 0),
        # the same hours, a day apart
        ("Pacific/Kiritimati", "2025-01-15", 0),
    ],
)
def test_the_overlap_follows_zones_and_daylight_saving(zone: str, on: str, minutes: int) -> None:
    other = replace(_SOMEBODY, timezone=zone)
    assert shared_minutes(_SOMEBODY, other, date.fromisoformat(on)) == minutes
    assert shared_minutes(other, _SOMEBODY, date.fromisoformat(on)) == minutes


def test_the_overlap_reaches_over_the_end_of_the_week() -> None:
    honolulu = replace(_SOMEBODY, timezone="Pacific/Honolulu", hours=Hours((7,), 540, 1020))
    tokyo = replace(_SOMEBODY, timezone="Asia/Tokyo", hours=Hours((1,), 540, 1020))
    # Sunday 09:00 to 17:00 in Honolulu is 19:00 to 03:00 UTC; Monday in Tokyo begins at 00:00 UTC.
    assert shared_minutes(honolulu, tokyo, date(2025, 1, 15)) == 180


@pytest.mark.parametrize("zone", [None, "", "Atlantis/Capital"])
def test_an_unknown_zone_has_no_overlap(zone: str | None) -> None:
    assert shared_minutes(_SOMEBODY, replace(_SOMEBODY, timezone=zone), date(2025, 1, 15)) is None


def test_the_interval_equals_the_published_example() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0 / 20, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (2, 2), (9, 9), (10, 9), (11, 10), (70, 63)])
def test_the_nearest_rank_is_exact(count: int, rank: int) -> None:
    figure = quantile(9, 10)([Fact({}, part=value) for value in range(1, count + 1)])
    assert figure is not None
    assert figure.value == rank


def _rows(**people: int) -> list[Row]:
    return [
        Row("acceptance", "share", (("region", label),), "all", 0.5, count, people=count)
        for label, count in people.items()
    ]


@pytest.mark.parametrize(
    ("people", "few", "revealing"),
    [
        ({"a": 5, "b": 9}, "", ""),
        ({"a": 4, "b": 9, "c": 6}, "a", "c"),
        ({"a": 4, "b": 6, "c": 6}, "a", "b"),
        ({"a": 2, "b": 2, "c": 7, "d": 6}, "ab", "d"),
        ({"a": 2, "b": 3, "c": 7}, "ab", ""),
        ({"a": 4}, "a", ""),
        ({"a": 1, "b": 1}, "ab", ""),
    ],
)
def test_hidden_rows_are_never_alone_nor_too_few(
    people: dict[str, int], few: str, revealing: str
) -> None:
    rows = {row.breakdown[0][1]: row.why_hidden for row in suppress(_rows(**people), 5)}
    assert "".join(k for k, why in rows.items() if why == "fewer than 5 people") == few
    hidden = "".join(k for k, why in rows.items() if why == "would reveal a hidden figure")
    assert hidden == revealing


def test_a_moment_may_be_seen_in_either_state() -> None:
    noon, later = (datetime(2025, 1, 1, hour, tzinfo=UTC) for hour in (12, 13))
    timeline = Timeline([(noon, "first"), (later, "second")])
    assert timeline.seen_at(noon) == ["first"]
    assert timeline.seen_at(later) == ["first", "second"]
    assert timeline.settled_at(later) == "second"
    assert timeline.settled_at(noon) == "first"
