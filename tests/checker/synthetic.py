"""A small program's whole log, as plain dicts: one wrong step in it is easy to make."""

import json
import zlib
from collections import Counter, defaultdict
from typing import Any

from tests.checker.contract import EVENT_TYPES

Line = dict[str, Any]

PROGRAM = "prog-1"
AS_OF = "2025-04-28T00:00:00.000000Z"

_PARTITIONS = 3
_BOARD, _LEGAL = "Board", "Legal"
_MENTEES: dict[str, tuple[str, str | None, str]] = {
    "s1": (_BOARD, "europe", "Europe/London"),
    "s2": (_BOARD, "europe", "Europe/London"),
    "s3": (_BOARD, "europe", "Europe/Paris"),
    "s4": (_BOARD, "asia", "Asia/Kolkata"),
    "s5": (_LEGAL, "europe", "Europe/London"),
    "s6": (_LEGAL, "asia", "Asia/Kolkata"),
    "s7": (_LEGAL, "asia", "Asia/Kolkata"),
    "s8": (_LEGAL, None, "Europe/Paris"),
}
_MENTORS = [f"m{number}" for number in range(1, 13)]


def at(day: str, clock: str = "00:00") -> str:
    """Return a moment of 2025 as events write it; `day` is MM-DD."""
    return f"2025-{day}T{clock}:00.000000Z"


class Log:
    """Events in the order in which they were committed, with the exporter's attributes."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._versions: Counter[tuple[str, str]] = Counter()
        self._offsets: Counter[tuple[str, int]] = Counter()

    def emit(self, name: str, time: str, cause: str | None = None, **data: Any) -> str:
        """Append an event and return its id."""
        kind = EVENT_TYPES[name]
        data = {"program_id": PROGRAM, **data}
        subject = data[kind.subject]
        source = f"/upward/eu-1/{kind.owner}"
        partition = zlib.crc32(subject.encode()) % _PARTITIONS
        event_id = f"ev-{len(self.lines) + 1:04d}"
        self._versions[source, subject] += 1
        line: Line = {
            "specversion": "1.0",
            "id": event_id,
            "source": source,
            "type": f"upward.{name}.v1",
            "subject": subject,
            "time": time,
            "datacontenttype": "application/json",
            "dataschema": f"urn:upward:schema:upward.{name}.v1",
            "program": PROGRAM,
            "region": "eu-1",
            "aggregateversion": self._versions[source, subject],
            "correlationid": f"co-{event_id}",
            "logtopic": kind.topic,
            "logpartition": partition,
            "logoffset": self._offsets[kind.topic, partition],
            "data": data,
        }
        if cause:
            line["causationid"] = cause
        self._offsets[kind.topic, partition] += 1
        self.lines.append(line)
        return event_id


def renumber(lines: list[Line]) -> None:
    """Give the lines the offsets that a log written in this order would have."""
    offsets: Counter[tuple[str, int]] = Counter()
    for line in lines:
        place = line["logtopic"], line["logpartition"]
        line["logoffset"] = offsets[place]
        offsets[place] += 1


def dump(lines: list[Line]) -> list[str]:
    """Return the lines as the export writes them."""
    return [json.dumps(line) for line in lines]


def valid_log() -> list[Line]:
    """Return a copy of the log, to be changed at will."""
    lines: list[Line] = json.loads(_TEXT)
    return lines


def _participant(who: str) -> dict[str, Any]:
    return {"participant_id": who, "person_id": f"person-{who}"}


def _state(who: str) -> dict[str, Any]:
    mentee = who in _MENTEES
    number = int(who[1:])
    department = _MENTEES[who][0] if mentee else ("Policy", "Digital")[number % 2]
    role = "both" if who == "m11" else ("mentee" if mentee else "mentor")
    ready = who not in ("m10", "m11")
    return {
        **_participant(who),
        "role": role,
        "level": 2 if mentee else 6,
        "department": department,
        "region": _MENTEES[who][1] if mentee else "europe",
        "country": None,
        "timezone": _MENTEES[who][2] if mentee else "Europe/London",
        "manager_chain": ["person-ceo"] if mentee else ["person-boss", "person-ceo"],
        "teaches": [] if mentee else [{"topic_id": "ai", "proficiency": 4}],
        "wants": [{"topic_id": "ai", "proficiency": 1}] if mentee else [],
        "languages": ["en", "hi"] if number % 2 else ["en"],
        "working_hours": {"days": [1, 2, 3, 4, 5], "start": "09:00", "end": "17:00"},
        "preferences": {"format": None, "regions": []},
        "hired_on": None,
        "ready": ready,
        "ready_at": at("01-07", "09:00") if ready else None,
        "enrolled_at": at("01-07", "09:00"),
    }


def _side(who: str) -> dict[str, Any]:
    state = _state(who)
    return {
        key: state[key] for key in ("participant_id", "person_id", "level", "department", "region")
    }


class _Program:
    """The story: three rounds, eight terms, their sessions and what people said of them."""

    def __init__(self) -> None:
        self.log = Log()
        self.proposals: dict[str, dict[str, Any]] = {}
        self.numbers: Counter[str] = Counter()

    def propose(self, pair: str, round_id: str, time: str, expires: str, *members: str) -> None:
        mentor, *mentees = members
        proposal: dict[str, Any] = {
            "pair_id": pair,
            "round_id": round_id,
            "mentor": _side(mentor),
            "mentees": [_side(who) for who in mentees],
            "score": 610,
            "rationale": [
                {"term": "coverage", "points": 450, "text": "Teaches what you want to learn."},
                {"term": "difference", "points": 160, "text": "You work far from each other."},
            ],
            "rules": ["level_gap", "reporting_line"],
            "topics": ["ai"],
            "origin": "rotation" if round_id == "round-3" else "round",
            "expires_at": expires,
        }
        self.proposals[pair] = proposal
        self.log.emit("pair-proposed", time, **proposal)

    def complete(self, round_id: str, time: str, pool: list[int], matched: list[int]) -> None:
        self.log.emit(
            "round-completed",
            time,
            round_id=round_id,
            kind="rotation" if round_id == "round-3" else "round",
            pool={"mentors": pool[0], "mentees": pool[1]},
            matched={"mentors": matched[0], "mentees": matched[1]},
            proposed=matched[0],
            unmatched={"nobody_fits": sum(pool) - sum(matched)},
            objective=610 * matched[0],
            bound=610 * matched[0],
            gap=0.0,
            mean_dissimilarity=0.5,
            mean_dissimilarity_random=0.4,
            seed=7,
            snapshot=f"snap-{round_id}",
        )

    def accept(self, pair: str, day: str, ends: str, **waited: float) -> None:
        time = at(day)
        self.log.emit(
            "paired",
            time,
            **self.proposals[pair],
            started_at=time,
            ends_at=at(ends),
            waited_days=waited,
        )
        self.log.emit(
            "ground-rules-agreed",
            at(day, "01:00"),
            pair_id=pair,
            by=list(waited),
            scope="general",
            at=at(day, "01:00"),
        )

    def plan(self, name: str, pair: str, time: str, day: str) -> dict[str, Any]:
        if name == "session-scheduled":
            self.numbers[pair] += 1
        plan = {
            "session_id": f"ses-{pair}-{self.numbers[pair]}",
            "pair_id": pair,
            "number": self.numbers[pair],
            "mode": "virtual",
            "topics": ["ai"],
            "agenda_by": self.proposals[pair]["mentees"][0]["participant_id"],
        }
        self.log.emit(name, time, **plan, starts_at=at(day, "10:00"), minutes=45, agenda_set=True)
        return plan

    def meet(self, pair: str, day: str, scheduled: str, *attended: str, moved: str = "") -> None:
        plan = self.plan("session-scheduled", pair, at(scheduled, "09:00"), moved or day)
        if moved:
            plan = self.plan("session-moved", pair, at(scheduled, "10:00"), day)
        held = self.log.emit(
            "session-held",
            at(day, "11:00"),
            **plan,
            held_at=at(day, "10:05"),
            minutes=40,
            attended=list(attended),
            takeaways=1,
            learned=dict.fromkeys(attended, True),
            tags=[],
        )
        for who in attended:
            self.log.emit(
                "survey-due",
                at(day, "11:01"),
                cause=held,
                survey_id=f"due-{plan['session_id']}-{who}",
                kind="pulse",
                participant_id=who,
                session_id=plan["session_id"],
                due_on=f"2025-{day}",
            )

    def say(self, role: str, place: tuple[str | None, str], day: str, score: int, who: str) -> None:
        number = len(self.log.lines)
        self.log.emit(
            "feedback-submitted",
            at(day, "12:00"),
            response_id=f"answer-{number}",
            kind="pulse",
            instrument="pulse",
            instrument_version=1,
            respondent=f"voice-{who}",
            role=role,
            region=place[0],
            department=place[1],
            scores={"satisfaction": score},
            skills={},
            flags=[],
            submitted_on=f"2025-{day}",
        )
        self.log.emit(
            "survey-completed",
            at(day, "12:00"),
            kind="pulse",
            role=role,
            completed_on=f"2025-{day}",
        )

    def end(self, pair: str, day: str, reason: str) -> None:
        self.log.emit("pair-ended", at(day), pair_id=pair, reason=reason, ended_at=at(day))

    def rotate(self, pair: str, day: str) -> None:
        self.log.emit(
            "pair-rotated",
            at(day),
            pair_id=pair,
            reason="term",
            ended_at=at(day),
            next_round_id="round-3",
        )


def _tell() -> list[Line]:
    story = _Program()
    _gather(story.log)
    _first_rounds(story)
    _winter(story)
    _spring(story)
    _rotation(story)
    return _in_order(story.log.lines)


def _gather(log: Log) -> None:
    log.emit(
        "program-published",
        at("01-06", "09:00"),
        version=1,
        title="Upward for the board",
        objectives=["Learn what the young know"],
        topics=[{"topic_id": "ai", "title": "Digital and AI"}],
        format="mixed",
        circle_capacity=2,
        cadence_days=14,
        term_days=84,
        proposal_expiry_days=7,
        starts_on="2025-01-06",
        ends_on="2025-12-31",
        mode="cohort",
        min_level_gap=2,
        cross_department=True,
        cross_region=True,
        min_overlap_minutes=60,
        training={"mentor": ["basics"], "mentee": []},
        surveys=[
            {"kind": "pulse", "instrument": "pulse", "instrument_version": 1, "day": None},
        ],
        thresholds={"scores": 3, "comments": 10},
        eligibility={"mentor_min_level": 4, "mentee_max_level": 3},
        different_boss=True,
    )
    for role, employed in (("mentor", 40), ("mentee", 16)):
        _count(log, "01-06", role, employed)
    _count(log, "01-06", "mentor", 20, department="Digital")
    for who in (*_MENTORS, *_MENTEES):
        log.emit("enrolled", at("01-07", "09:00"), **_state(who))
    for module, ready in (("basics", False), ("inversion", True)):
        log.emit(
            "training-completed",
            at("01-08", "09:00"),
            **_participant("m10"),
            module=module,
            ready=ready,
            ready_at=at("01-08", "09:00") if ready else None,
        )
    changed = _state("m9") | {"languages": ["en", "fr"]}
    log.emit("profile-changed", at("01-09"), **changed)
    log.emit("paused", at("01-10"), **_participant("m10"), at=at("01-10"))
    log.emit("resumed", at("01-13"), **_participant("m10"), at=at("01-13"))


def _count(log: Log, day: str, role: str, employed: int, department: str | None = None) -> None:
    log.emit(
        "roster-counted",
        at(day, "10:00"),
        role=role,
        level_band=None,
        department=department,
        employed=employed,
        left=None,
        as_of=at(day, "10:00"),
    )


def _first_rounds(story: _Program) -> None:
    first, expiry = at("01-20", "09:00"), at("01-27", "09:00")
    for number, mentees in enumerate((["s1"], ["s2"], ["s3"], ["s4"], ["s5", "s6"], ["s7"]), 1):
        story.propose(f"p{number}", "round-1", first, expiry, f"m{number}", *mentees)
    story.propose("p7", "round-1", first, expiry, "m7", "s8")
    story.complete("round-1", first, pool=[11, 8], matched=[7, 8])
    story.accept("p1", "01-22", "04-16", m1=14.6, s1=14.6)
    story.accept("p2", "01-22", "04-16", m2=14.6, s2=14.6)
    story.accept("p3", "01-22", "04-16", m3=13.9, s3=14.6)
    story.accept("p4", "01-22", "04-16", m4=14.6, s4=12.2)
    story.log.emit("pair-declined", at("01-23"), pair_id="p6", at=at("01-23"))
    story.accept("p5", "01-24", "04-18", m5=16.5, s5=16.5, s6=15.1)
    expired = at("01-27", "12:00")
    story.log.emit("pair-expired", expired, pair_id="p7", at=expired)
    for role, employed in (("mentor", 48), ("mentee", 20)):
        _count(story.log, "02-01", role, employed)
    second, expiry = at("02-03", "09:00"), at("02-10", "09:00")
    story.propose("p8", "round-2", second, expiry, "m8", "s7")
    story.propose("p9", "round-2", second, expiry, "m9", "s8")
    story.complete("round-2", second, pool=[6, 2], matched=[2, 2])
    story.accept("p8", "02-05", "04-30", m8=28.6, s7=28.6)
    story.accept("p9", "02-05", "04-30", m9=28.6, s8=28.6)


def _winter(story: _Program) -> None:
    europe = "europe"
    story.meet("p4", "01-29", "01-27", "m4", "s4")
    story.say("mentee", ("asia", _BOARD), "01-30", 2, "e")
    story.meet("p1", "02-03", "02-01", "m1", "s1", moved="02-02")
    story.meet("p2", "02-04", "02-01", "m2", "s2")
    story.say("mentee", (europe, _BOARD), "02-04", 5, "a")
    story.say("mentor", (europe, "Digital"), "02-04", 4, "b")
    story.meet("p3", "02-05", "02-02", "m3", "s3")
    story.say("mentee", (europe, _BOARD), "02-05", 3, "c")
    story.say("mentor", (europe, "Policy"), "02-05", 5, "d")
    story.meet("p5", "02-06", "02-03", "m5", "s5", "s6")
    story.say("mentee", (europe, _LEGAL), "02-07", 5, "g")
    story.say("mentee", ("asia", _LEGAL), "02-07", 4, "h")
    story.say("mentor", (europe, "Digital"), "02-07", 5, "i")
    story.meet("p4", "02-12", "02-10", "m4", "s4")
    story.say("mentor", (europe, "Policy"), "02-13", 4, "f")
    story.meet("p2", "02-18", "02-10", "m2", "s2")
    story.meet("p8", "02-19", "02-10", "m8", "s7")
    story.meet("p9", "02-20", "02-10", "m9", "s8")
    story.say("mentee", (None, _LEGAL), "02-21", 1, "j")
    missed = story.plan("session-scheduled", "p2", at("02-20", "09:00"), "02-27")
    _stop(story, "session-missed", missed, "02-28")
    cancelled = story.plan("session-scheduled", "p9", at("02-21", "09:00"), "03-05")
    _stop(story, "session-cancelled", cancelled, "03-04")


def _stop(story: _Program, name: str, plan: dict[str, Any], day: str) -> None:
    ids = {key: plan[key] for key in ("session_id", "pair_id")}
    story.log.emit(name, at(day), **ids, at=at(day))


def _spring(story: _Program) -> None:
    _move(story, "m1", "03-03", ["person-s1", "person-ceo"], "pair-paused")
    story.meet("p5", "03-06", "03-02", "m5", "s5")
    _move(story, "m1", "03-10", ["person-boss-2", "person-ceo"], "pair-resumed")
    for name, time in (("paused", at("03-04", "12:00")), ("resumed", at("03-12"))):
        cause = story.log.emit(name, time, **_participant("m2"), at=time)
        story.log.emit(
            f"pair-{name}", time, cause, pair_id="p2", reason="participant_paused", at=time
        )
    story.meet("p1", "03-17", "03-11", "m1", "s1")
    story.say("mentee", ("europe", _BOARD), "03-18", 4, "a")
    story.log.emit("withdrawn", at("03-20"), **_participant("m3"), at=at("03-20"))
    story.end("p3", "03-20", "withdrawn")
    story.log.emit("departed", at("03-25"), **_participant("m12"), left_on="2025-03-25")
    story.meet("p4", "03-26", "03-20", "m4", "s4")
    story.meet("p8", "04-02", "03-21", "m8", "s7")
    story.say("mentor", ("europe", "Policy"), "04-03", 3, "k")


def _move(story: _Program, who: str, day: str, chain: list[str], name: str) -> None:
    facts: dict[str, Any] = {"level": 6, "department": "Digital"}
    cause = story.log.emit(
        "org-changed",
        at(day),
        **_participant(who),
        previous=facts | {"manager_chain": ["person-boss", "person-ceo"]},
        current=facts | {"manager_chain": chain},
    )
    story.log.emit(name, at(day), cause, pair_id="p1", reason="reporting_line", at=at(day))


def _rotation(story: _Program) -> None:
    story.rotate("p1", "04-16")
    story.rotate("p2", "04-16")
    story.end("p4", "04-16", "completed")
    start, expiry = at("04-16"), at("04-23")
    story.propose("p10", "round-3", start, expiry, "m1", "s2")
    story.propose("p11", "round-3", start, expiry, "m2", "s1")
    story.propose("p12", "round-3", start, expiry, "m6", "s3")
    story.complete("round-3", start, pool=[6, 4], matched=[3, 3])
    story.end("p5", "04-18", "completed")
    story.accept("p10", "04-18", "07-11", m1=2.0, s2=2.9)
    story.accept("p11", "04-18", "07-11", m2=2.0, s1=2.0)
    story.meet("p10", "04-22", "04-20", "m1", "s2")
    story.log.emit("pair-expired", at("04-23"), pair_id="p12", at=at("04-23"))


def _in_order(lines: list[Line]) -> list[Line]:
    """Put the story's lines in the order of time, as a log has them, and number them again."""
    ordered = sorted(lines, key=lambda line: str(line["time"]))
    versions: dict[tuple[str, str], int] = defaultdict(int)
    for line in ordered:
        versions[line["source"], line["subject"]] += 1
        line["aggregateversion"] = versions[line["source"], line["subject"]]
    renumber(ordered)
    return ordered


_TEXT = json.dumps(_tell())
