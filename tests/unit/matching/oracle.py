"""Matching done again, slowly and in plain Python; shares only its input with the engine."""

from collections.abc import Sequence
from datetime import date, datetime, time
from functools import cache
from zoneinfo import ZoneInfo

from services.matching.engine.model import Candidate, Policy
from shared.events.participants import WorkingHours

RULES = (
    "level_gap", "reporting_line", "same_department", "same_boss", "cross_region",
    "no_common_language", "working_hours", "former_partner", "veto", "same_person",
)  # fmt: skip


@cache
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


def unknown(person: Candidate) -> bool:
    return person.level is None or person.department is None or person.timezone is None


def broken(mentor: Candidate, mentee: Candidate, policy: Policy) -> dict[str, int]:
    """Return the rules that keep two known people apart, in their order, and what lacks to each."""
    assert mentor.level is not None
    assert mentee.level is not None
    assert mentor.timezone is not None
    assert mentee.timezone is not None
    found: dict[str, int] = {}
    if (levels := mentor.level - mentee.level) < policy.min_level_gap:
        found["level_gap"] = policy.min_level_gap - levels
    both = ((mentor, mentee), (mentee, mentor))
    if any(other.person_id in one.manager_chain for one, other in both):
        found["reporting_line"] = 0
    if policy.cross_department and mentor.department == mentee.department:
        found["same_department"] = 0
    bosses = mentor.manager_chain[:1] + mentee.manager_chain[:1]
    if policy.different_boss and len(bosses) == 2 and bosses[0] == bosses[1]:
        found["same_boss"] = 0
    if not policy.cross_region and (mentor.region is None or mentor.region != mentee.region):
        found["cross_region"] = 0
    if not {t[:2] for t in mentor.languages} & {t[:2] for t in mentee.languages}:
        found["no_common_language"] = 0
    minutes = shared_minutes(
        mentor.working_hours,
        mentor.timezone,
        mentee.working_hours,
        mentee.timezone,
        policy.term_middle,
    )
    if minutes < policy.min_overlap_minutes:
        found["working_hours"] = policy.min_overlap_minutes - minutes
    if any(other.person_id in one.former_partners for one, other in both):
        found["former_partner"] = 0
    if any(other.person_id in one.vetoes for one, other in both):
        found["veto"] = 0
    if mentor.person_id == mentee.person_id:
        found["same_person"] = 0
    return found


def may_pair(mentor: Candidate, mentee: Candidate, policy: Policy) -> bool:
    if unknown(mentor) or unknown(mentee):
        return False
    return not broken(mentor, mentee, policy)


def explain(
    who: Candidate, pool: Sequence[Candidate], policy: Policy
) -> tuple[int, dict[str, int], tuple[tuple[str, ...], int, int] | None]:
    """Return how many suit somebody, how many each rule keeps away, and the nearest of those."""
    others = [other for other in pool if other.role != who.role and not unknown(other)]
    between = [
        broken(who, other, policy) if who.role == "mentor" else broken(other, who, policy)
        for other in others
    ]
    kept_away: dict[str, int] = {}
    for rule in RULES:
        if count := sum(rule in found for found in between):
            kept_away[rule] = count
    suit = sum(not found for found in between)
    near = [
        (
            len(found),
            sum(2 ** RULES.index(rule) for rule in found),
            found.get("level_gap", 0),
            found.get("working_hours", 0),
            tuple(found),
        )
        for found in between
        if found and not found.keys() & {"veto", "same_person"}
    ]
    told = {rule: kept_away[rule] for rule in kept_away if rule not in {"veto", "same_person"}}
    if suit or not near:
        return suit, told, None
    _, _, levels, minutes, rules = min(near)
    return suit, told, (rules, levels, minutes)


def score(mentor: Candidate, mentee: Candidate, policy: Policy) -> dict[str, int]:
    """Return the points of every term for two who may be paired."""
    assert mentor.level is not None
    assert mentee.level is not None
    assert mentor.timezone is not None
    assert mentee.timezone is not None
    taught = {rated.topic_id: rated.proficiency for rated in mentor.teaches}
    wanted = {rated.topic_id: rated.proficiency for rated in mentee.wants}
    steps = [taught.get(topic, 0) - level for topic, level in wanted.items()]
    learned = sum({1: 40, 2: 70, 3: 90}.get(step, 100) for step in steps if step > 0)
    different = 40 * (mentor.department != mentee.department)
    if mentor.region and mentee.region and mentor.region != mentee.region:
        different += 30
    elif mentor.country and mentee.country and mentor.country != mentee.country:
        different += 15
    different += 6 * max(0, min(mentor.level - mentee.level, 5))
    shared = shared_minutes(
        mentor.working_hours, mentor.timezone, mentee.working_hours, mentee.timezone,
        policy.term_middle,
    )  # fmt: skip
    language = 50
    for one, other in ((mentor, mentee), (mentee, mentor)):
        spoken = [tag.split("-")[0].lower() for tag in other.languages]
        language += 25 * (one.languages[0].split("-")[0].lower() in spoken)
    offered = "circle" if mentor.capacity > 1 else "one_to_one"
    content = sum(one.preferences.format in (None, "mixed", offered) for one in (mentor, mentee))
    content += not mentor.preferences.regions or mentee.region in mentor.preferences.regions
    content += not mentee.preferences.regions or mentor.region in mentee.preferences.regions
    patience = [
        60 * min(one.waited_days, 90) // 90 + 40 * min(one.declines, 2) // 2
        for one in (mentor, mentee)
    ]
    percent = {
        "coverage": learned // max(len(wanted), 1),
        "difference": different,
        "overlap": 100 * min(shared, 240) // 240,
        "language": language,
        "preference": 25 * content,
        "waiting": sum(patience) // 2,
    }
    weights = {str(term): weight for term, weight in policy.weights.items()} or {
        "coverage": 450, "difference": 250, "overlap": 100, "language": 50, "preference": 80,
        "waiting": 70,
    }  # fmt: skip
    return {term: weights.get(term, 0) * share // 100 for term, share in percent.items()}


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
