"""Instants and clocks."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.clock import (
    FileClock,
    Instant,
    ManualClock,
    SystemClock,
    format_instant,
    monotonic,
    to_utc,
)

START = datetime(2026, 1, 5, 8, 30, 0, 125000, tzinfo=UTC)
INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)

offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# A day inside the calendar at each end, so that every offset has its UTC.
moments = st.datetimes(
    datetime.fromisoformat("0001-01-02"), datetime.fromisoformat("9999-12-30"), timezones=offsets
)


@given(moments, moments)
def test_instants_sort_as_text(one: datetime, other: datetime) -> None:
    assert (format_instant(one) < format_instant(other)) == (one < other)
    assert (format_instant(one) == format_instant(other)) == (one == other)


@given(moments)
def test_an_instant_written_and_read_again_is_the_same(moment: datetime) -> None:
    text = INSTANT.dump_json(moment).decode().strip('"')

    assert INSTANT.validate_python(text) == moment
    assert text == format_instant(moment)
    assert len(text) == len("2026-01-05T08:30:00.125000Z")


@given(moments)
def test_any_offset_is_converted_to_utc(moment: datetime) -> None:
    read = INSTANT.validate_python(moment.isoformat())

    assert read == moment
    assert read.tzinfo == UTC
    assert to_utc(moment).utcoffset() == timedelta(0)


def test_an_instant_is_written_in_utc_with_six_decimals() -> None:
    tokyo = datetime(2026, 1, 5, 17, 30, tzinfo=timezone(timedelta(hours=9)))

    assert format_instant(tokyo) == "2026-01-05T08:30:00.000000Z"
    assert format_instant(datetime(33, 1, 1, tzinfo=UTC)) == "0033-01-01T00:00:00.000000Z"


def test_a_time_without_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="no offset"):
        to_utc(START.replace(tzinfo=None))
    with pytest.raises(ValidationError):
        INSTANT.validate_python("2026-01-05T08:30:00")


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_that_is_outside_the_calendar_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="outside the years"):
        INSTANT.validate_python(text)


def test_the_system_clock_gives_the_present_in_utc() -> None:
    before = datetime.now(UTC)
    now = SystemClock().now()

    assert before <= now <= datetime.now(UTC)
    assert now.tzinfo == UTC


def test_a_manual_clock_moves_forward_only() -> None:
    clock = ManualClock(START)
    clock.advance(days=1, hours=2)
    assert clock.now() == START + timedelta(days=1, hours=2)

    clock.set(clock.now())
    with pytest.raises(ValueError, match="not going back"):
        clock.set(START)
    assert clock.now() == START + timedelta(days=1, hours=2)


def test_a_file_clock_starts_where_it_is_told(tmp_path: Path) -> None:
    assert FileClock(tmp_path / "clock", START).now() == START
    assert [path.name for path in tmp_path.iterdir()] == ["clock"]


def test_a_file_clock_goes_on_where_it_stood_when_it_is_opened_again(tmp_path: Path) -> None:
    later = START + timedelta(days=40, microseconds=1)
    FileClock(tmp_path / "clock", START).set(later)

    assert FileClock(tmp_path / "clock").now() == later
    assert FileClock(tmp_path / "clock", START).now() == later


def test_two_openings_of_a_file_clock_share_its_time(tmp_path: Path) -> None:
    owner = FileClock(tmp_path / "clock", START)
    reader = FileClock(tmp_path / "clock")

    for days in (1, 2, 300):
        owner.set(START + timedelta(days=days))
        assert reader.now() == START + timedelta(days=days)


def test_a_file_clock_follows_the_process_that_moves_it(tmp_path: Path) -> None:
    clock = FileClock(tmp_path / "clock", START)
    code = (
        "import sys; from datetime import timedelta; from pathlib import Path;"
        "from shared.clock import FileClock; clock = FileClock(Path(sys.argv[1]));"
        "clock.set(clock.now() + timedelta(days=9))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "clock"], check=True)

    assert clock.now() == START + timedelta(days=9)


def test_a_file_clock_refuses_to_go_back(tmp_path: Path) -> None:
    clock = FileClock(tmp_path / "clock", START)
    clock.set(START)

    with pytest.raises(ValueError, match="not going back"):
        clock.set(START - timedelta(microseconds=1))
    with pytest.raises(ValueError, match="no offset"):
        clock.set(START.replace(year=2027, tzinfo=None))
    assert FileClock(tmp_path / "clock").now() == START


def test_a_file_clock_keeps_times_before_1970(tmp_path: Path) -> None:
    early = datetime(1969, 7, 20, 20, 17, tzinfo=UTC)

    assert FileClock(tmp_path / "clock", early).now() == early


def test_a_file_clock_without_file_and_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no simulated clock"):
        FileClock(tmp_path / "clock")
    assert list(tmp_path.iterdir()) == []


def test_durations_never_run_backwards() -> None:
    readings = [monotonic() for _ in range(100)]

    assert readings == sorted(readings)
