"""What each KPI counts, taken from the raw events, with the labels it can be broken down by."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tests.checker.world import Pair, World


@dataclass(frozen=True)
class Fact:
    """One thing that counts: `part` in the numerator, `whole` in the denominator, of `who`."""

    labels: dict[str, str]
    part: float
    whole: float = 1
    who: str = ""


def participation(world: World, program: str) -> list[Fact]:
    """Participants now, as parts, and the newest roster counts, as wholes, by role."""
    newest: dict[str, tuple[datetime, int, int]] = {}
    for event in world.named("roster-counted"):
        data = event.data
        whole = data.get("level_band") is None and data.get("department") is None
        if event.program == program and whole:
            count = event.instant("as_of"), event.version, data["employed"] or 0
            newest[data["role"]] = max(newest.get(data["role"], count), count)
    facts = [
        Fact({"role": role}, part=0, whole=employed) for role, (_, _, employed) in newest.items()
    ]
    for participant, timeline in world.participants.items():
        state = timeline.last()
        if world.enrolled_in[participant] == program and state and not state.gone:
            facts.extend(
                Fact({"role": role}, part=1, whole=0, who=participant)
                for role in newest
                if state.plays(role)
            )
    return facts


def rounds(world: World, program: str) -> list[Fact]:
    """Matched of pool, by role and round."""
    return [
        Fact(
            {"role": role, "month": _month(event.time)},
            part=event.data["matched"][f"{role}s"],
            whole=event.data["pool"][f"{role}s"],
        )
        for event in world.named("round-completed")
        if event.program == program
        for role in ("mentor", "mentee")
    ]


def waits(pairs: list[Pair]) -> list[Fact]:
    """Whole days that somebody waited for a pair."""
    return [
        Fact(
            {
                "role": "mentor" if pair.mentor and who == pair.mentor.participant else "mentee",
                "month": _month(pair.started_at),
            },
            part=math.floor(days),
            who=who,
        )
        for pair in pairs
        if pair.paired and pair.started_at
        for who, days in pair.paired.data["waited_days"].items()
    ]


def answers(pairs: list[Pair]) -> list[Fact]:
    """Proposals of rounds that were accepted or declined, of their first mentee."""
    facts = []
    for pair in pairs:
        answer = pair.answered
        if answer is None or answer.name == "pair-expired":
            continue
        if pair.terms["origin"] in ("round", "rotation"):
            at = answer.instant("started_at" if answer.name == "paired" else "at")
            labels = _pair_labels(pair) | {"month": _month(at)}
            accepted = answer.name == "paired"
            facts.append(Fact(labels, part=accepted, who=pair.mentees[0].participant))
    return facts


def activity(world: World, pairs: list[Pair], as_of: datetime) -> list[Fact]:
    """Sessions held, as parts, and every pair's active seconds by month, as wholes."""
    facts = []
    for pair in pairs:
        if pair.started_at is None:
            continue
        start, end = _second(pair.started_at), _second(pair.ended_at or as_of)
        pauses = [
            (_second(pause.since), _second(pause.until) if pause.until else end)
            for pause in pair.pauses
        ]
        labels = _pair_labels(pair)
        for month, since, until in _months(start, end):
            rest = sum(_common(since, until, *pause) for pause in pauses)
            active = until - since - rest
            facts.append(Fact(labels | {"month": month}, part=0, whole=active, who=pair.id))
    paired = {pair.id: pair for pair in pairs if pair.paired}
    for session in world.sessions.values():
        if session.pair in paired:
            labels = _pair_labels(paired[session.pair])
            facts.extend(
                Fact(labels | {"month": _month(event.instant("held_at"))}, part=1, whole=0)
                for event in session.held
            )
    return facts


def satisfaction(world: World, program: str) -> list[Fact]:
    """Scores of the pulses that have one."""
    return [
        Fact(
            {
                "role": event.data["role"],
                "region": event.data.get("region") or "unknown",
                "department": event.data.get("department") or "unknown",
                "month": event.data["submitted_on"][:7],
            },
            part=event.data["scores"]["satisfaction"],
            who=event.data["respondent"],
        )
        for event in world.named("feedback-submitted")
        if event.program == program
        and event.data["kind"] == "pulse"
        and "satisfaction" in event.data["scores"]
    ]


def top_two(scores: list[Fact]) -> list[Fact]:
    """Scores of 4 and 5 count, all others only in the denominator."""
    return [replace(score, part=score.part >= 4) for score in scores]


def leavings(pairs: list[Pair]) -> list[Fact]:
    """Pairs that left the active state, rotated ones as parts."""
    return [
        Fact(
            _pair_labels(pair) | {"month": _month(pair.ended_at)},
            part=pair.left.name == "pair-rotated",
            who=pair.id,
        )
        for pair in pairs
        if pair.left and pair.ended_at
    ]


def _pair_labels(pair: Pair) -> dict[str, str]:
    first = pair.mentees[0]
    return {"region": first.region or "unknown", "department": first.department or "unknown"}


def _month(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m") if moment else ""


def _second(moment: datetime) -> int:
    return math.floor(moment.timestamp())


def _common(start: int, end: int, other_start: int, other_end: int) -> int:
    return max(0, min(end, other_end) - max(start, other_start))


def _months(start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yield the UTC months that [start, end] touches, with the part that lies in each."""
    first = datetime.fromtimestamp(start, UTC)
    year, month = first.year, first.month
    opens = start
    while True:
        following = (year + month // 12, month % 12 + 1)
        closes = round(datetime(*following, 1, tzinfo=UTC).timestamp())
        yield f"{year:04d}-{month:02d}", opens, min(end, closes)
        if end < closes:
            return
        year, month = following
        opens = closes
