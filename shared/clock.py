"""Where time comes from: the system, or a file that a simulation steps forward."""

import mmap
import re
import struct
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_utc(moment: datetime) -> datetime:
    """Return the same instant in UTC.

    Raises ValueError for a time without offset, or one that is outside the calendar in UTC.
    """
    if moment.tzinfo is None:
        msg = "the time has no offset"
        raise ValueError(msg)
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        msg = "the time is outside the years 1 to 9999"
        raise ValueError(msg) from error


def format_instant(moment: datetime) -> str:
    """RFC 3339 in UTC with exactly six decimals, so that text order is time order."""
    return to_utc(moment).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


Instant = Annotated[
    AwareDatetime,
    AfterValidator(to_utc),
    PlainSerializer(format_instant, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$",
        },
        mode="serialization",
    ),
]
"""A moment in documents and events: any offset is read, UTC is kept and written."""

_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _written_moment(value: object) -> object:
    # Pydantic would read a bare number as seconds since 1970, which no caller means.
    if not (isinstance(value, datetime) or (isinstance(value, str) and _RFC_3339.fullmatch(value))):
        msg = "it is a date and time with offset, such as 2026-03-02T09:30:00+01:00"
        raise ValueError(msg)
    return value


def _written_date(value: object) -> object:
    if not (isinstance(value, date) or (isinstance(value, str) and _DATE.fullmatch(value))):
        msg = "it is a date such as 2026-03-02"
        raise ValueError(msg)
    return value


# Not strict, for JSON has no type of its own for them: strict is what the validators add.
WrittenInstant = Annotated[Instant, Field(strict=False), BeforeValidator(_written_moment)]
"""A moment that a caller sends: date, time and offset, and never a number."""
WrittenDate = Annotated[date, Field(strict=False), BeforeValidator(_written_date)]
"""A date that a caller sends, and never a number."""


class Clock(Protocol):
    """The only source of the present."""

    def now(self) -> datetime:
        """Return the present, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the present, in UTC."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that a test sets."""

    def __init__(self, start: datetime) -> None:
        self._now = to_utc(start)

    def now(self) -> datetime:
        """Return the moment last set."""
        return self._now

    def set(self, moment: datetime) -> None:
        """Move to `moment`; never backwards."""
        moment = to_utc(moment)
        if moment < self._now:
            msg = f"the clock stands at {self._now}, not going back to {moment}"
            raise ValueError(msg)
        self._now = moment

    def advance(self, **step: float) -> None:
        """Move forward by `timedelta(**step)`."""
        self.set(self._now + timedelta(**step))


class FileClock:
    """Simulated time in an eight-byte file that several processes share.

    The one that owns the simulation calls `set`; all others only read, at the cost of a memory
    access. The file survives a crash, so a simulation goes on where it was killed.
    """

    def __init__(self, path: Path, start: datetime | None = None) -> None:
        """Open `path`; create it at `start` where it is missing.

        Raises FileNotFoundError without a file and without a start.
        """
        if not path.exists():
            if start is None:
                msg = f"no simulated clock at {path}"
                raise FileNotFoundError(msg)
            partial = path.with_suffix(".new")
            partial.write_bytes(struct.pack("<q", (to_utc(start) - _EPOCH) // _MICROSECOND))
            partial.replace(path)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    def now(self) -> datetime:
        """Return the simulated present, in UTC."""
        microseconds: int = struct.unpack_from("<q", self._map)[0]
        return _EPOCH + microseconds * _MICROSECOND

    def set(self, moment: datetime) -> None:
        """Move to `moment`; never backwards."""
        if to_utc(moment) < self.now():
            msg = f"the simulated clock stands at {self.now()}, not going back to {moment}"
            raise ValueError(msg)
        struct.pack_into("<q", self._map, 0, (to_utc(moment) - _EPOCH) // _MICROSECOND)
        self._map.flush()


def monotonic() -> float:
    """Seconds for measuring durations; unrelated to any calendar and never simulated."""
    return time.monotonic()
