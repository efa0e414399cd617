"""A program's history as its services would publish it, told record by record in order of time."""

import hashlib
import heapq
import random
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import orjson

from shared.clock import format_instant
from shared.events.envelope import Envelope, Event, data_schema
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import (
    PairDeclined,
    Paired,
    PairEnded,
    PairPaused,
    PairProposed,
    PairResumed,
    PairRotated,
    RoundCompleted,
)
from shared.events.participants import Enrolled, RosterCounted
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.events.topics import TOPICS
from shared.ids import derived_id
from shared.messaging.dead_letters import RawRecord
from tests.support.golden import golden

PROGRAM = "reverse-mentoring"
START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)

_REGIONS = ("europe", "africa", "asia", "americas")
_DEPARTMENTS = tuple(f"Department {number}" for number in range(1, 41))
_INTAKE_DAYS = 540
_TERM_DAYS = 180
_CADENCE_DAYS = 14
_ROUND_DAYS = 28

Told = tuple[datetime, type[Event], dict[str, Any]]


@cache
def _template(kind: type[Event]) -> dict[str, Any]:
    data: dict[str, Any] = golden(kind.type())["data"]
    return data


def history(events: int, program_id: str = PROGRAM, seed: int = 1) -> Iterator[RawRecord]:
    """Tell the first `events` events of a program that takes people in for a year and a half.

    Every one is of a type that reporting handles. The program has as many pairs as it takes, each
    with its enrollments, proposal, sessions, pulses, rests and end; their events interleave as in
    life, so that neighbors in the log seldom tell of the same pair. Memory is bound by the pairs
    that are active at a time. The same arguments tell the same history.
    """
    versions: Counter[tuple[str, str]] = Counter()
    for number, (time, kind, data) in enumerate(_tell(events, program_id, seed)):
        if number == events:
            return
        yield _record(kind, data, time, _event_id(time, program_id, number), versions)


def _event_id(time: datetime, program_id: str, number: int) -> str:
    """Return an id as `new_event_id` makes them (RFC 9562, version 7), in the order of time."""
    digest = hashlib.sha256(f"{program_id}/{number}".encode()).digest()
    milliseconds = int(time.timestamp() * 1000)
    bits = int.from_bytes(digest[:10]) & ~(0xF << 76) & ~(0x3 << 62)
    return str(uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | 0x2 << 62 | bits))


def _record(
    kind: type[Event],
    data: dict[str, Any],
    time: datetime,
    event_id: str,
    versions: Counter[tuple[str, str]],
) -> RawRecord:
    subject = str(data[kind.subject_field])
    owner = TOPICS[kind.topic].owner
    version = 1
    # A session and a response are told once: remembering each would take memory for ever.
    if kind not in (SessionHeld, FeedbackSubmitted):
        versions[owner, subject] += 1
        version = versions[owner, subject]
    envelope = Envelope(
        id=event_id,
        source=f"/upward/local/{owner}",
        type=kind.type(),
        subject=subject,
        time=time,
        dataschema=data_schema(kind.type()),
        program=data["program_id"],
        region="local",
        aggregateversion=version,
        correlationid=event_id,
    )
    return RawRecord(
        topic=kind.topic,
        partition=0,
        offset=0,
        key=subject.encode(),
        value=orjson.dumps(_template(kind) | data),
        headers=tuple((name, text.encode()) for name, text in envelope.to_headers().items()),
    )


def _tell(events: int, program_id: str, seed: int) -> Iterator[Told]:
    chance = random.Random(seed)
    # About as many events come of each pair; one that is cut off at the end does no harm.
    pairs = max(1, events // 24)
    program = {"program_id": program_id}
    yield START, ProgramPublished, program | {"version": 1, "thresholds": _THRESHOLDS}
    for role in ("mentor", "mentee"):
        count = {"role": role, "level_band": None, "department": None, "employed": 3 * pairs}
        yield START, RosterCounted, program | count | {"as_of": format_instant(START)}
    going: list[tuple[datetime, int, Told, Iterator[Told]]] = []
    begun = 0
    next_round = START + timedelta(days=_ROUND_DAYS)
    while going or begun < pairs:
        intake = START + timedelta(days=_INTAKE_DAYS * begun / pairs)
        if begun < pairs and (not going or intake <= going[0][0]):
            story = _pair(program_id, begun, intake, random.Random(chance.getrandbits(64)))
            first = next(story)
            heapq.heappush(going, (first[0], begun, first, story))
            begun += 1
            continue
        moment, number, told, story = going[0]
        while next_round <= moment:
            yield next_round, RoundCompleted, program | _round(next_round, pairs)
            next_round += timedelta(days=_ROUND_DAYS)
        yield told
        following = next(story, None)
        if following is None:
            heapq.heappop(going)
        else:
            heapq.heapreplace(going, (following[0], number, following, story))


_THRESHOLDS = {"scores": 5, "comments": 10}


def _round(moment: datetime, pairs: int) -> dict[str, Any]:
    pool = max(1, pairs * _ROUND_DAYS // _INTAKE_DAYS)
    counts = {"mentors": pool, "mentees": pool}
    return {"round_id": f"ro_{moment:%Y%m%d}", "pool": counts, "matched": counts}


def _side(program_id: str, who: str, chance: random.Random) -> dict[str, Any]:
    return {
        "participant_id": derived_id("pt", program_id, who),
        "person_id": derived_id("p", who),
        "level": chance.randint(1, 6),
        "department": chance.choice(_DEPARTMENTS),
        "region": chance.choice(_REGIONS),
    }


def _pair(program_id: str, number: int, intake: datetime, chance: random.Random) -> Iterator[Told]:
    now = intake
    program = {"program_id": program_id}
    pair = program | {"pair_id": derived_id("pr", program_id, str(number))}
    mentor = _side(program_id, f"jr{number}", chance)
    mentees = [_side(program_id, f"sr{number}", chance)]
    if number % 7 == 0:
        mentees.append(_side(program_id, f"extra{number}", chance))
    for role, side in (("mentor", mentor), *(("mentee", mentee) for mentee in mentees)):
        yield now, Enrolled, program | side | {"role": role}
        now += timedelta(hours=chance.uniform(0.1, 30))
    now += timedelta(days=chance.uniform(1, 20))
    proposal = pair | {"mentor": mentor, "mentees": mentees, "round_id": f"ro_{now:%Y%m%d}"}
    yield now, PairProposed, proposal
    now += timedelta(days=chance.uniform(0.1, 6))
    if chance.random() < 0.12:
        yield now, PairDeclined, pair | {"at": format_instant(now)}
        return
    waited = {side["participant_id"]: chance.uniform(1, 30) for side in (mentor, *mentees)}
    ends = now + timedelta(days=_TERM_DAYS)
    times = {"started_at": format_instant(now), "ends_at": format_instant(ends)}
    yield now, Paired, proposal | times | {"waited_days": waited}
    yield from _sessions(pair, mentor, mentees, now, ends, chance)
    left = pair | {"ended_at": format_instant(ends)}
    if chance.random() < 0.6:
        yield ends, PairRotated, left | {"reason": "term", "next_round_id": "ro_next"}
    else:
        yield ends, PairEnded, left | {"reason": "completed"}


def _sessions(
    pair: dict[str, Any],
    mentor: dict[str, Any],
    mentees: list[dict[str, Any]],
    now: datetime,
    ends: datetime,
    chance: random.Random,
) -> Iterator[Told]:
    program = {"program_id": pair["program_id"]}
    number = 0
    while (now := now + timedelta(days=_CADENCE_DAYS * chance.uniform(0.6, 2))) < ends:
        if chance.random() < 0.08:
            rest = pair | {"reason": "level_gap"}
            yield now, PairPaused, rest | {"at": format_instant(now)}
            now = min(ends, now + timedelta(days=chance.uniform(3, 20)))
            yield now, PairResumed, rest | {"at": format_instant(now)}
            continue
        number += 1
        session_id = derived_id("se", pair["pair_id"], str(number))
        held = {"session_id": session_id, "number": number, "held_at": format_instant(now)}
        yield now, SessionHeld, pair | held
        for role, side in (("mentor", mentor), ("mentee", mentees[0])):
            if chance.random() < 0.8:
                now = min(ends, now + timedelta(minutes=chance.uniform(5, 600)))
                answer = {
                    "response_id": derived_id("re", session_id, role),
                    "respondent": derived_id("r", side["participant_id"]),
                    "role": role,
                    "department": side["department"],
                    "region": side["region"],
                    "scores": {"satisfaction": chance.choice((1, 2, 3, 4, 4, 4.5, 5, 5))},
                    "submitted_on": now.date().isoformat(),
                }
                yield now, FeedbackSubmitted, program | answer


def main() -> None:
    """`python -m tests.load.events N` writes the history to stdout, as lines of JSON."""
    for record in history(int(sys.argv[1])):
        line = orjson.dumps(
            [
                record.topic,
                (record.key or b"").decode(),
                (record.value or b"").decode(),
                [(name, (value or b"").decode()) for name, value in record.headers],
            ]
        )
        sys.stdout.buffer.write(line + b"\n")


if __name__ == "__main__":
    main()
