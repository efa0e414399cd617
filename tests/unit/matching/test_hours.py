from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.matching.engine.hours import overlap_minutes, utc_week, zone
from shared.events.participants import WorkingHours
from tests.unit.matching.oracle import shared_minutes

SUMMER, WINTER = date(2026, 7, 1), date(2026, 1, 14)
NINE_TO_FIVE = WorkingHours()


def overlap(
    here: str | None,
    there: str | None,
    on: date,
    mentor: WorkingHours = NINE_TO_FIVE,
    mentee: WorkingHours = NINE_TO_FIVE,
) -> int:
    weeks = [utc_week(mentor, here, on)[None], utc_week(mentee, there, on)[None]]
    return int(overlap_minutes(weeks[0], weeks[1])[0, 0])


@pytest.mark.parametrize(
    ("here", "there", "on", "minutes"),
    [
        ("Europe/London", "Europe/London", SUMMER, 480),
        # London is at +01:00 in summer, Kathmandu always at +05:45.
        ("Europe/London", "Asia/Kathmandu", SUMMER, 480 - 285),
        ("Europe/London", "Asia/Kathmandu", WINTER, 480 - 345),
        # On the morning of this day London's clocks go forward: noon decides.
        ("Europe/London", "Asia/Kathmandu", date(2026, 3, 29), 480 - 285),
        ("Europe/London", "Asia/Kolkata", SUMMER, 480 - 270),
        ("Europe/London", "Asia/Kolkata", WINTER, 480 - 330),
        ("Asia/Kolkata", "Asia/Kathmandu", WINTER, 480 - 15),
        # Lord Howe moves by half an hour only: +10:30, and +11:00 in the southern summer.
        ("Australia/Lord_Howe", "Asia/Kolkata", SUMMER, 480 - 300),
        ("Australia/Lord_Howe", "Asia/Kolkata", WINTER, 480 - 330),
        ("Australia/Lord_Howe", "Australia/Brisbane", SUMMER, 480 - 30),
        ("Australia/Lord_Howe", "Australia/Brisbane", WINTER, 480 - 60),
        ("Europe/London", "Asia/Tokyo", WINTER, 0),
        # 26 hours apart is two hours apart, a day later.
        ("Pacific/Kiritimati", "Etc/GMT+12", WINTER, 480 - 120),
        ("Pacific/Kiritimati", "Pacific/Honolulu", WINTER, 480),
    ],
)
def test_working_hours_overlap_as_the_zones_stand_on_the_date(
    here: str, there: str, on: date, minutes: int
) -> None:
    assert overlap(here, there, on) == minutes
    assert overlap(there, here, on) == minutes


def test_a_week_wraps_so_that_a_sunday_meets_a_monday_further_east() -> None:
    sunday = WorkingHours(days=(7,), start="20:00", end="23:00")
    monday = WorkingHours(days=(1,), start="08:00", end="12:00")
    # 20:00 on Sunday in Honolulu is 16:00 on Monday in Brisbane, 06:00 in London.
    assert overlap("Pacific/Honolulu", "Europe/London", WINTER, sunday, monday) == 60
    assert overlap("Europe/London", "Pacific/Honolulu", WINTER, monday, sunday) == 60


def test_a_wednesday_can_meet_a_monday_at_the_far_ends_of_the_earth() -> None:
    wednesday = WorkingHours(days=(3,), start="00:00", end="02:00")
    monday = WorkingHours(days=(1,), start="22:00", end="23:59")
    assert overlap("Pacific/Kiritimati", "Etc/GMT+12", WINTER, wednesday, monday) == 119
    assert overlap("Etc/GMT+12", "Pacific/Kiritimati", WINTER, monday, wednesday) == 119


def test_days_that_nobody_shares_do_not_overlap() -> None:
    early = WorkingHours(days=(1, 2))
    late = WorkingHours(days=(4, 5))
    assert overlap("Europe/London", "Europe/London", SUMMER, early, late) == 0


def test_hours_that_end_before_they_start_and_days_that_are_none_are_no_working_hours() -> None:
    assert overlap("Europe/London", "Europe/London", SUMMER, WorkingHours(start="18:00")) == 0
    assert overlap("Europe/London", "Europe/London", SUMMER, WorkingHours(days=(0, 8))) == 0


@pytest.mark.parametrize("name", [None, "", "Mars/Phobos", "../etc/passwd", "Europe", "a\0b"])
def test_a_zone_in_no_database_is_unknown_and_overlaps_with_nothing(name: str | None) -> None:
    assert zone(name) is None
    assert overlap(name, "Europe/London", SUMMER) == 0


@st.composite
def hours(draw: st.DrawFn) -> WorkingHours:
    start = draw(st.integers(0, 95)) * 15
    end = draw(st.integers(start // 15 + 1, 96)) * 15 - 1
    return WorkingHours(
        days=tuple(draw(st.sets(st.integers(1, 7), min_size=1))),
        start=f"{start // 60:02}:{start % 60:02}",
        end=f"{end // 60:02}:{end % 60:02}",
    )


ZONES = st.sampled_from(
    ["Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Kiritimati", "Pacific/Pago_Pago",
     "America/St_Johns", "Europe/London", "Pacific/Chatham"]
)  # fmt: skip


@given(hours(), hours(), ZONES, ZONES, st.dates(date(2026, 1, 1), date(2027, 12, 31)))
def test_the_overlap_is_what_counting_every_minute_finds(
    mentor: WorkingHours, mentee: WorkingHours, here: str, there: str, on: date
) -> None:
    assert overlap(here, there, on, mentor, mentee) == shared_minutes(
        mentor, here, mentee, there, on
    )


def test_nobody_has_no_overlap_with_anybody() -> None:
    nobody = np.zeros((0, 7, 2), dtype=np.int32)
    assert overlap_minutes(nobody, nobody).shape == (0, 0)
