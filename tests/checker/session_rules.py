"""Invariants of sessions: C22 ground rules, C23 the mentee's agenda, C25 held as planned."""

from collections import defaultdict

from tests.checker.reading import Event
from tests.checker.report import Report
from tests.checker.world import MOMENT, Pair, Session, World


def check_sessions(world: World, report: Report) -> None:
    """Check every session against its plan and its pair."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for session in world.sessions.values():
        pair = world.pairs.get(session.pair)
        if pair is None or pair.paired is None:
            report.violation("C25", f"session {session.id}", f"no pair {session.pair}")
            continue
        _check_life(session, report)
        _check_ground_rules(world, session, pair, report)
        _check_agenda(session, pair, report)
        for event in session.held:
            _check_held(event, session, pair, report)
        numbers[pair.id].append(session.events[0].data.get("number", 0))
    for pair_id, used in numbers.items():
        if sorted(used) != list(range(1, len(used) + 1)):
            report.violation("C25", f"pair {pair_id}", f"sessions are numbered {sorted(used)}")
    for event in world.named("ground-rules-agreed"):
        _check_agreement(event, world, report)


def _check_life(session: Session, report: Report) -> None:
    """scheduled → moved … → held | missed | cancelled; then nothing."""
    state = "new"
    for event in session.events:
        before = state
        if event.name == "session-scheduled":
            legal, state = before == "new", "planned"
        else:
            legal = before == "planned"
            state = "planned" if event.name == "session-moved" else "over"
        if not legal:
            report.violation("C25", str(event), f"while the session was {before}")
        if event.data["pair_id"] != session.pair:
            report.violation("C25", str(event), f"the session was pair {session.pair}'s")
    if len({event.data["number"] for event in (*session.plans, *session.held)}) > 1:
        report.violation("C25", f"session {session.id}", "changed its number")


def _check_agreement(event: Event, world: World, report: Report) -> None:
    pair = world.pairs.get(event.subject)
    if pair is None or pair.started_at is None or pair.started_at > event.time:
        report.violation("C22", str(event), "there is no such pair yet")
    elif not set(event.data["by"]) <= pair.member_ids:
        report.violation("C22", str(event), "somebody agreed who is not in the pair")


def _check_ground_rules(world: World, session: Session, pair: Pair, report: Report) -> None:
    for event in session.plans:
        agreed: set[str] = set()
        for rules in world.agreements.get(pair.id, []):
            if rules.time <= event.time:
                agreed.update(rules.data["by"])
        if not pair.member_ids <= agreed:
            missing = sorted(pair.member_ids - agreed)
            report.violation("C22", str(event), f"{missing} had not agreed the ground rules")


def _check_agenda(session: Session, pair: Pair, report: Report) -> None:
    mentees = {side.participant for side in pair.mentees}
    for event in (*session.plans, *session.held):
        if event.data.get("agenda_set") is False:
            report.violation("C23", str(event), "has no agenda")
        if event.data["agenda_by"] not in mentees:
            report.violation("C23", str(event), "its agenda is not by a mentee of the pair")


def _check_held(event: Event, session: Session, pair: Pair, report: Report) -> None:
    held_at = event.instant("held_at")
    plans = [plan for plan in session.plans if plan.version < event.version]
    if not plans:
        report.violation("C25", str(event), "was never scheduled")
    elif held_at < plans[-1].instant("starts_at"):
        report.violation("C25", str(event), f"at {held_at}, before its start")
    attended = event.data["attended"]
    if not attended or len(set(attended)) != len(attended):
        report.violation("C25", str(event), "nobody attended, or somebody twice")
    if not {*attended, *event.data["learned"]} <= pair.member_ids:
        report.violation("C25", str(event), "somebody attended who is not in the pair")
    started, ended = pair.started_at, pair.ended_at
    if (started and held_at < started) or (ended and held_at > ended):
        report.violation("C25", str(event), f"at {held_at}, outside the pair's active time")
    for pause in pair.pauses:
        until = pause.until
        if pause.since + MOMENT < held_at and (until is None or held_at < until - MOMENT):
            report.violation("C25", str(event), f"at {held_at}, while the pair was paused")
