"""How long two people's working days run side by side."""

from datetime import date, datetime, time
from zoneinfo import ZoneInfo

from tests.checker.world import Facts

_DAY = 24 * 60


def offset_minutes(timezone: str | None, on: date) -> int | None:
    """Return the zone's minutes ahead of UTC at local noon of `on`; None for an unknown zone."""
    if not timezone:
        return None
    try:
        offset = datetime.combine(on, time(12), tzinfo=ZoneInfo(timezone)).utcoffset()
    except (KeyError, ValueError, OSError):
        return None
    return None if offset is None else round(offset.total_seconds()) // 60


def shared_minutes(mentor: Facts, mentee: Facts, on: date) -> int | None:
    """Return the most minutes that a day's hours of one share with any day's of the other.

    None where a zone is unknown. The week of `on` is taken to come again and again, with the
    offsets of that date.
    """
    ahead_mentor = offset_minutes(mentor.timezone, on)
    ahead_mentee = offset_minutes(mentee.timezone, on)
    if ahead_mentor is None or ahead_mentee is None:
        return None
    best = 0
    for day in mentor.hours.days:
        opens = day * _DAY + mentor.hours.start - ahead_mentor
        closes = day * _DAY + mentor.hours.end - ahead_mentor
        for other in mentee.hours.days:
            for week in (-7, 0, 7):
                midnight = (other + week) * _DAY - ahead_mentee
                start = max(opens, midnight + mentee.hours.start)
                end = min(closes, midnight + mentee.hours.end)
                best = max(best, end - start)
    return best
