"""Matching done again, slowly and in plain Python; shares only its input with the engine."""

from collections.abc import Sequence
from datetime import date, datetime, time
from functools import cache
from zoneinfo import ZoneInfo

from services.matching.engine.model import Candidate, Policy
from shared.events.participants import WorkingHours


def shared_minutes(
    mentor: WorkingHours, here: str, mentee: WorkingHours, there: str, on: date
) -> int:
    def days(hours: WorkingHours, name: str) -> list[set[int]]:
        offset = datetime.combine(on, time(12), tzinfo=ZoneInfo(name)).utcoffset()
        assert offset is not None
        start, end = (int(t[:2]) * 60 + int(t[3:]) for t in (hours.start, hours.end))
        return [
            {
                (day * 1440 + minute - int(offset.total_seconds()) // 60) % 10080
                for minute in range(start, end)
            }
            for day in hours.days
        ]

    return max(len(one & other) for one in days(mentor, here) for other in days(mentee, there))


def may_pair(mentor: Candidate, mentee: Candidate, policy: Policy) -> bool:
    for person in (mentor, mentee):
        if person.level is None or person.department is None or person.timezone is None:
            return False
    assert mentor.level is not None
    assert mentee.level is not None
    assert mentor.timezone is not None
    assert mentee.timezone is not None
    for one, other in ((mentor, mentee), (mentee, mentor)):
        if other.person_id in (
            one.person_id, *one.manager_chain, *one.former_partners, *one.vetoes
        ):  # fmt: skip
            return False
    if mentor.level - mentee.level < policy.min_level_gap:
        return False
    if policy.cross_department and mentor.department == mentee.department:
        return False
    bosses = mentor.manager_chain[:1] + mentee.manager_chain[:1]
    if policy.different_boss and len(bosses) == 2 and bosses[0] == bosses[1]:
        return False
    if not policy.cross_region and (mentor.region is None or mentor.region != mentee.region):
        return False
    if not {t[:2] for t in mentor.languages} & {t[:2] for t in mentee.languages}:
        return False
    minutes = shared_minutes(
        mentor.working_hours,
        mentor.timezone,
        mentee.working_hours,
        mentee.timezone,
        policy.term_middle,
    )
    return minutes >= policy.min_overlap_minutes


def best(scores: Sequence[Sequence[int | None]], capacities: Sequence[int]) -> tuple[int, int]:
    """Return (mentees matched, total score) of the best assignment; None is not allowed.

    `scores` has a row for each mentor and a column for each mentee.
    """
    columns = len(scores[0]) if scores else 0

    @cache
    def search(column: int, left: tuple[int, ...]) -> tuple[int, int]:
        if column == columns:
            return 0, 0
        found = search(column + 1, left)
        for row, places in enumerate(left):
            score = scores[row][column]
            if places and score is not None:
                rest = search(column + 1, (*left[:row], places - 1, *left[row + 1 :]))
                found = max(found, (rest[0] + 1, rest[1] + score))
        return found

    return search(0, tuple(capacities))
