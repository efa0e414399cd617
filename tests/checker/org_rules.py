"""C10 and C11 when the organization changes: a pair that it made illegal rests or ends."""

from collections.abc import Iterator
from datetime import datetime

from tests.checker.report import Report
from tests.checker.world import END, MOMENT, Facts, Pair, Policy, Side, Timeline, World

_ORG_PAUSES = frozenset({"level_gap", "reporting_line", "same_department", "same_boss"})
_ORG_ENDS = frozenset({"org_changed", "withdrawn", "departed", "program_closed"})


def check_org_changes(world: World, report: Report) -> None:
    """Check every pair's levels, and that it is at rest while the organization forbids it."""
    for pair in world.pairs.values():
        _check_level_gap(world, pair, report)
        _check_org_changes(world, pair, report)


def _check_level_gap(world: World, pair: Pair, report: Report) -> None:
    """The levels that pair-proposed and paired themselves name."""
    for event in (pair.proposed, pair.paired):
        if event is None:
            continue
        policies = world.policies_seen(event)
        highest = event.data["mentor"]["level"]
        lowest = max((side["level"] for side in event.data["mentees"]), default=highest)
        gap = highest - lowest
        if not any(gap >= policy.min_level_gap for policy in policies):
            report.violation("C10", str(event), f"the mentor is only {gap} levels below")


def broken_org_rules(policy: Policy, mentor: Facts, mentee: Facts) -> Iterator[str]:
    """Yield the reasons for which an org change pauses a pair; unknown facts satisfy nothing."""
    known = mentor.level is not None and mentee.level is not None
    if not known or (mentor.level or 0) - (mentee.level or 0) < policy.min_level_gap:
        yield "level_gap"
    if (
        mentor.person == mentee.person
        or mentor.person in mentee.chain
        or mentee.person in mentor.chain
    ):
        yield "reporting_line"
    if policy.cross_department and (
        mentor.department is None
        or mentee.department is None
        or mentor.department == mentee.department
    ):
        yield "same_department"
    if policy.different_boss and mentor.chain and mentor.chain[:1] == mentee.chain[:1]:
        yield "same_boss"


def _check_org_changes(world: World, pair: Pair, report: Report) -> None:
    """An active pair that the organization made illegal rests or ends by the end of the log."""
    if pair.paired is None or pair.mentor is None:
        return
    until = pair.left.time if pair.left else END
    changes = [
        event
        for event in world.named("org-changed")
        if event.subject in pair.member_ids and pair.paired.time < event.time < until
    ]
    resumed = [event for event in pair.events if event.name == "pair-resumed"]
    for event in (pair.paired, *resumed, *changes):
        broken = _settled_breaches(world, pair, event.time)
        if broken and not _rests(pair, event.time):
            code = "C10" if broken == {"level_gap"} else "C11"
            what = f"pair {pair.id} breaks {sorted(broken)} and is neither paused nor ended"
            report.violation(code, str(event), what)
    for event in pair.events:
        reason = event.data.get("reason")
        if event.name == "pair-paused" and reason in _ORG_PAUSES:
            told = [pair.paired.time, *(change.time for change in changes)]
            moments = [time for time in told if time <= event.time]
            if not any(reason in _settled_breaches(world, pair, time) for time in moments):
                report.violation("C11", str(event), f"paused by {reason}, which never was")


def _settled_breaches(world: World, pair: Pair, time: datetime) -> set[str]:
    policy = world.programs.get(pair.program, Timeline[Policy]()).settled_at(time)
    mentor = _settled(world, pair.mentor, time)
    broken: set[str] = set()
    for side in pair.mentees:
        mentee = _settled(world, side, time)
        if policy and mentor and mentee:
            broken.update(broken_org_rules(policy, mentor, mentee))
    return broken


def _rests(pair: Pair, time: datetime) -> bool:
    """Whether the pair was at rest when this moment ended, or was put to rest for it later."""
    for pause in pair.pauses:
        lasting = pause.until is None or pause.until > time + MOMENT
        if pause.told <= time + MOMENT and lasting:
            return True
        if pause.told >= time and pause.reason in _ORG_PAUSES:
            return True
    if pair.left is None:
        return False
    return pair.left.time <= time + MOMENT or pair.left.data["reason"] in _ORG_ENDS


def _settled(world: World, side: Side | None, time: datetime) -> Facts | None:
    if side is None or side.participant not in world.participants:
        return None
    return world.participants[side.participant].settled_at(time)
