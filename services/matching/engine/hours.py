"""Working hours across time zones."""

from datetime import date, datetime, time
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from shared.events.participants import WorkingHours

_DAY = 24 * 60
_WEEK = 7 * _DAY

# Zones lie up to 26 hours apart, so a local day meets no day further away than two.
_NEARBY_DAYS = range(-2, 3)


def zone(name: str | None) -> ZoneInfo | None:
    """Return the zone, or None where the name is missing or in no time zone database."""
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def minutes_ahead(timezone: str | None, on: date) -> int | None:
    """Return by how many minutes the zone's clocks are ahead of UTC at noon; None if unknown."""
    local = zone(timezone)
    if local is None:
        return None
    offset = datetime.combine(on, time(12), tzinfo=local).utcoffset()
    assert offset is not None
    return int(offset.total_seconds()) // 60


def utc_week(hours: WorkingHours, timezone: str | None, on: date) -> NDArray[np.int32]:
    """Return seven rows (start, end), Monday first: local working days in minutes of a UTC week.

    The week has the UTC offset that the zone has at noon on `on`. Minutes may lie before the week
    or after it. A row is (0, 0) for a free day, for hours that end before they start, and for all
    days where the zone is unknown.
    """
    week = np.zeros((7, 2), dtype=np.int32)
    ahead = minutes_ahead(timezone, on)
    start, end = _minutes(hours.start), _minutes(hours.end)
    if ahead is None or end <= start:
        return week
    for day in hours.days:
        if 1 <= day <= 7:
            midnight = (day - 1) * _DAY - ahead
            week[day - 1] = midnight + start, midnight + end
    return week


def overlap_minutes(mentors: NDArray[np.int32], mentees: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return a matrix of minutes, mentors by mentees, from weeks stacked as (people, 7, 2).

    It is the most minutes that one day's working hours of the mentor share with any one day's
    working hours of the mentee, in a week that repeats for ever.
    """
    best = np.zeros((len(mentors), len(mentees)), dtype=np.int32)
    for day in range(7):
        if not mentors[:, day].any():
            continue
        for other in (day + nearby for nearby in _NEARBY_DAYS):
            weeks, weekday = divmod(other, 7)
            if not mentees[:, weekday].any():
                continue
            there = mentees[:, weekday] + weeks * _WEEK
            shared = np.minimum.outer(mentors[:, day, 1], there[:, 1])
            shared -= np.maximum.outer(mentors[:, day, 0], there[:, 0])
            np.maximum(best, shared, out=best)
    return best


@lru_cache(maxsize=1 << 16)
def shared_minutes(
    mentor: WorkingHours,
    mentor_zone: str | None,
    mentee: WorkingHours,
    mentee_zone: str | None,
    on: date,
) -> int:
    """Return what `overlap_minutes` counts for two people. Many share a zone and hours."""
    weeks = utc_week(mentor, mentor_zone, on), utc_week(mentee, mentee_zone, on)
    return int(overlap_minutes(weeks[0][None], weeks[1][None])[0, 0])


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)
