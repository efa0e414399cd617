"""One broken rule each: the checker names the invariant that it breaks."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.checker.check import check
from tests.checker.expected import Summary, valid_summary
from tests.checker.report import Report
from tests.checker.synthetic import Line, at, dump, renumber, valid_log

Change = Callable[[list[Line]], None]


def _find(lines: list[Line], name: str, subject: str, nth: int = 0) -> Line:
    found = [
        line for line in lines if line["type"] == f"upward.{name}.v1" and line["subject"] == subject
    ]
    return found[nth]


def _data(name: str, subject: str, nth: int = 0, **changes: Any) -> Change:
    def change(lines: list[Line]) -> None:
        _find(lines, name, subject, nth)["data"].update(changes)

    return change


def _attribute(name: str, subject: str, key: str, value: Any) -> Change:
    def change(lines: list[Line]) -> None:
        _find(lines, name, subject)[key] = value

    return change


def _inside(name: str, subject: str, path: str, value: Any) -> Change:
    """Set what lies at a path such as `mentees.0.level`."""

    def change(lines: list[Line]) -> None:
        target: Any = _find(lines, name, subject)["data"]
        *parents, last = path.split(".")
        for step in parents:
            target = target[int(step)] if step.isdigit() else target[step]
        target[last] = value

    return change


def _both(*changes: Change) -> Change:
    def change(lines: list[Line]) -> None:
        for each in changes:
            each(lines)

    return change


def _proposal(pair: str, path: str, value: Any) -> Change:
    """Change pair-proposed and paired alike, so that they still agree."""
    return _both(_inside("pair-proposed", pair, path, value), _inside("paired", pair, path, value))


def _members(pair: str, mentor: str, mentee: str) -> Change:
    """Put other people into a pair, wherever it names them."""

    def change(lines: list[Line]) -> None:
        for name in ("pair-proposed", "paired"):
            for who, path in ((mentor, "mentor"), (mentee, "mentees")):
                state = _find(lines, "enrolled", who)["data"]
                keys = ("participant_id", "person_id", "level", "department", "region")
                side = {key: state[key] for key in keys}
                data = _find(lines, name, pair)["data"]
                data[path] = side if path == "mentor" else [side]

    return change


def _drop(name: str, subject: str) -> Change:
    def change(lines: list[Line]) -> None:
        lines.remove(_find(lines, name, subject))

    return change


def _move_before(name: str, subject: str, before: str, before_subject: str) -> Change:
    """Let an event come before another: lines, versions and offsets as if it always had."""

    def change(lines: list[Line]) -> None:
        moved = _find(lines, name, subject)
        anchor = _find(lines, before, before_subject)
        lines.remove(moved)
        lines.insert(lines.index(anchor), moved)
        moved["time"] = anchor["time"]

    return change


def _again(name: str, subject: str, time: str, **changes: Any) -> Change:
    """Append the event once more, as a new one."""

    def change(lines: list[Line]) -> None:
        line = _find(lines, name, subject)
        again = line | {"id": "again", "time": time, "data": line["data"] | changes}
        lines.append(again)

    return change


def _run(*changes: Change, told: Summary | None = None) -> Report:
    """Check the changed log; versions and offsets are made good, so that only sense is left."""
    lines = valid_log()
    for change in changes:
        change(lines)
    versions: dict[tuple[str, str], int] = {}
    for line in lines:
        aggregate = line["source"], line["subject"]
        versions[aggregate] = versions.get(aggregate, 0) + 1
        line["aggregateversion"] = versions[aggregate]
    renumber(lines)
    return check(dump(lines), told or valid_summary())


_PAST = at("01-01")

_BREACHES: dict[str, tuple[str, Change]] = {
    # the envelope
    "another specversion": ("envelope", _attribute("paired", "p1", "specversion", "0.3")),
    "another content type": ("envelope", _attribute("paired", "p1", "datacontenttype", "text/x")),
    "an unknown type": ("envelope", _attribute("paired", "p1", "type", "upward.wedded.v1")),
    "another version of a type": (
        "envelope",
        _attribute("paired", "p1", "type", "upward.paired.v2"),
    ),
    "a time without offset": (
        "envelope",
        _attribute("paired", "p1", "time", "2025-01-22T00:00:00"),
    ),
    "a time that is not UTC": (
        "envelope",
        _attribute("paired", "p1", "time", "2025-01-22T01:00:00+01:00"),
    ),
    "the subject of another": ("envelope", _attribute("paired", "p1", "subject", "p2")),
    "the program of another": ("envelope", _attribute("paired", "p1", "program", "prog-2")),
    "a topic of another service": (
        "envelope",
        _attribute("paired", "p1", "logtopic", "upward.sessions.v1"),
    ),
    "the source of another service": (
        "envelope",
        _attribute("paired", "p1", "source", "/upward/eu-1/sessions"),
    ),
    "the schema of another type": (
        "envelope",
        _attribute("paired", "p1", "dataschema", "urn:upward:schema:upward.enrolled.v1"),
    ),
    "no id": ("envelope", _attribute("paired", "p1", "id", "")),
    "no region": ("envelope", _attribute("paired", "p1", "region", "")),
    "no data": ("envelope", _attribute("paired", "p1", "data", None)),
    "a malformed traceparent": ("envelope", _attribute("paired", "p1", "traceparent", "00-1-2")),
    "a field of another kind": ("envelope", _data("paired", "p1", score="610")),
    "an unknown code": ("envelope", _data("pair-ended", "p3", reason="bored")),
    "a moment of the data without offset": (
        "envelope",
        _data("pair-ended", "p3", ended_at="2025-03-20T00:00:00"),
    ),
    "a cause that is not in the log": (
        "causation",
        _attribute("pair-paused", "p1", "causationid", "ev-9999"),
    ),
    # C10, C11
    "a mentor named at a higher level": ("C10", _proposal("p1", "mentor.level", 3)),
    "a mentee named at a lower level": ("C10", _proposal("p5", "mentees.1.level", 5)),
    "levels that are not the people's": ("C10", _proposal("p1", "mentor.level", 7)),
    "a mentor enrolled at a higher level": ("C10", _data("enrolled", "m1", level=3)),
    "a mentee enrolled without level": ("C10", _data("enrolled", "s1", level=None)),
    "a mentee two steps above in the line": (
        "C11",
        _data("enrolled", "m1", manager_chain=["x", "person-s1", "person-ceo"]),
    ),
    "a mentor above the mentee": ("C11", _data("enrolled", "s6", manager_chain=["person-m5"])),
    "the same boss": ("C11", _data("enrolled", "s1", manager_chain=["person-boss", "person-ceo"])),
    "the same department": ("C11", _data("enrolled", "m1", department="Board")),
    "a department that is not theirs": ("C11", _proposal("p1", "mentor.department", "Sales")),
    "a pair never paused when the mentee became the boss": ("C11", _drop("pair-paused", "p1")),
    "a pair paused before the mentee became the boss": (
        "C11",
        _both(
            _data("pair-paused", "p1", at=at("03-02")),
            _move_before("pair-paused", "p1", "session-scheduled", "ses-p5-2"),
        ),
    ),
    "a pair resumed while the mentee is the boss": (
        "C11",
        _data(
            "org-changed",
            "m1",
            1,
            current={
                "level": 6,
                "department": "Digital",
                "manager_chain": ["person-boss-2", "person-s1"],
            },
        ),
    ),
    "a promotion that closes the gap": (
        "C10",
        _again(
            "org-changed",
            "m1",
            at("04-20"),
            current={"level": 3, "department": "Digital", "manager_chain": ["person-boss"]},
        ),
    ),
    # C13
    "no shared language": ("C13", _data("enrolled", "s4", languages=["fr"])),
    "working hours that never meet": (
        "C13",
        _data("enrolled", "s4", timezone="Pacific/Auckland"),
    ),
    "working hours that meet too shortly": (
        "C13",
        _data(
            "enrolled",
            "s4",
            working_hours={"days": [1, 2, 3, 4, 5], "start": "09:00", "end": "14:29"},
        ),
    ),
    "an unknown zone": ("C13", _data("enrolled", "s4", timezone="Atlantis/Capital")),
    "no zone": ("C13", _data("enrolled", "s4", timezone=None)),
    "another region, forbidden": ("C13", _data("program-published", "prog-1", cross_region=False)),
    "a participant who is not ready": ("C13", _data("enrolled", "s4", ready=False)),
    "a participant who is paused": ("C13", _members("p4", "m11", "s4")),
    "a participant of the other role": ("C13", _data("enrolled", "m4", role="mentee")),
    "a participant who never enrolled": ("C13", _drop("enrolled", "m4")),
    "a participant who had withdrawn": (
        "C13",
        _move_before("withdrawn", "m3", "profile-changed", "m9"),
    ),
    "a participant who had departed": (
        "C13",
        _both(
            _members("p9", "m12", "s8"),
            _move_before("departed", "m12", "profile-changed", "m9"),
        ),
    ),
    "another person's id": ("C13", _proposal("p1", "mentor.person_id", "person-m9")),
    "another region than theirs": ("C13", _proposal("p1", "mentees.0.region", "asia")),
    "a mentee in two pairs at a time": ("C13", _members("p9", "m9", "s5")),
    "a mentor with more mentees than a circle holds": (
        "C13",
        _data("program-published", "prog-1", circle_capacity=1),
    ),
    "a circle where pairs are one to one": (
        "C13",
        _data("program-published", "prog-1", format="one_to_one"),
    ),
    "the same two people again": ("C13", _members("p10", "m1", "s1")),
    "somebody twice in a pair": ("C13", _members("p1", "s1", "s1")),
    # C14
    "no rationale": ("C14", _both(_proposal("p1", "rationale", []), _proposal("p1", "score", 0))),
    "a term without words": ("C14", _inside("pair-proposed", "p1", "rationale.0.text", " ")),
    "a point more": ("C14", _proposal("p1", "rationale.0.points", 451)),
    "another score": ("C14", _proposal("p1", "score", 611)),
    "another rationale told at pairing": (
        "C14",
        _inside("paired", "p1", "rationale.0.text", "You will like each other."),
    ),
    "another mentee at pairing": ("C14", _inside("paired", "p5", "mentees", [])),
    "no rules": ("C14", _proposal("p1", "rules", [])),
    # C15
    "paired without a proposal": ("C15", _drop("pair-proposed", "p1")),
    "paired before its proposal": ("C15", _move_before("paired", "p1", "pair-proposed", "p1")),
    "paired after it expired": ("C15", _data("paired", "p1", started_at=at("01-28"))),
    "declined and paired": (
        "C15",
        _again("pair-declined", "p6", at("01-23"), pair_id="p6"),
    ),
    "ended twice": ("C15", _again("pair-ended", "p3", at("04-01"))),
    "rotated and ended": (
        "C15",
        lambda lines: lines.append(
            _find(lines, "pair-ended", "p3")
            | {
                "id": "again",
                "subject": "p1",
                "data": _find(lines, "pair-ended", "p3")["data"] | {"pair_id": "p1"},
            }
        ),
    ),
    "resumed without a pause": ("C15", _again("pair-resumed", "p2", at("04-01"))),
    "ended before it started": ("C15", _data("pair-ended", "p3", ended_at=_PAST)),
    "never expired": ("C15", _drop("pair-expired", "p7")),
    "a wait of nobody": ("C15", _data("paired", "p1", waited_days={"m1": 1.0})),
    "a negative wait": ("C15", _data("paired", "p1", waited_days={"m1": 1.0, "s1": -1.0})),
    # C18 and rounds
    "a rotation into no round": ("C18", _data("pair-rotated", "p1", next_round_id="round-9")),
    "a rotation into a round that is none": (
        "C18",
        _data("pair-rotated", "p1", next_round_id="round-1"),
    ),
    "a rotation that forgot somebody": (
        "C18",
        _data("round-completed", "round-3", pool={"mentors": 1, "mentees": 4}),
    ),
    "a rotation that repeats a pair": ("C18", _members("p10", "m1", "s1")),
    "more proposals told than made": ("round", _data("round-completed", "round-1", proposed=8)),
    "more mentors matched than proposed": (
        "round",
        _data("round-completed", "round-1", matched={"mentors": 8, "mentees": 8}),
    ),
    "more mentees matched than proposed": (
        "round",
        _data("round-completed", "round-2", matched={"mentors": 2, "mentees": 3}),
    ),
    "fewer in the pool than matched": (
        "round",
        _data("round-completed", "round-2", pool={"mentors": 1, "mentees": 2}),
    ),
    "a proposal of an unknown round": ("round", _proposal("p1", "round_id", "round-9")),
    "a proposal of a round without round": ("round", _proposal("p1", "round_id", None)),
    "a rotation's proposal that says round": ("round", _proposal("p10", "origin", "round")),
    # C22, C23, C25
    "a session without ground rules": ("C22", _drop("ground-rules-agreed", "p1")),
    "ground rules that one did not agree": (
        "C22",
        _data("ground-rules-agreed", "p5", by=["m5", "s5"]),
    ),
    "ground rules after the first session was planned": (
        "C22",
        _attribute("ground-rules-agreed", "p8", "time", at("02-10", "09:01")),
    ),
    "ground rules by a stranger": (
        "C22",
        _data("ground-rules-agreed", "p1", by=["m1", "s1", "s2"]),
    ),
    "an agenda by the mentor": ("C23", _data("session-scheduled", "ses-p1-1", agenda_by="m1")),
    "an agenda by the mentor of a moved session": (
        "C23",
        _data("session-moved", "ses-p1-1", agenda_by="m1"),
    ),
    "an agenda by the mentor of a held session": (
        "C23",
        _data("session-held", "ses-p1-1", agenda_by="m1"),
    ),
    "an agenda by another pair's mentee": (
        "C23",
        _data("session-scheduled", "ses-p1-1", agenda_by="s2"),
    ),
    "no agenda": ("C23", _data("session-scheduled", "ses-p1-1", agenda_set=False)),
    "held without a plan": ("C25", _drop("session-scheduled", "ses-p4-1")),
    "held before it was planned": (
        "C25",
        _move_before("session-held", "ses-p4-1", "session-scheduled", "ses-p4-1"),
    ),
    "held before it begins": (
        "C25",
        _data("session-held", "ses-p4-1", held_at=at("01-29", "09:59")),
    ),
    "held before the time it was moved to": (
        "C25",
        _data("session-held", "ses-p1-1", held_at=at("02-02", "10:05")),
    ),
    "held after the pair ended": ("C25", _data("session-held", "ses-p4-3", held_at=at("04-17"))),
    "held before the pair began": ("C25", _data("session-held", "ses-p4-1", held_at=at("01-20"))),
    "held while the pair was paused": (
        "C25",
        _both(
            _data("session-scheduled", "ses-p1-2", starts_at=at("03-05")),
            _data("session-held", "ses-p1-2", held_at=at("03-05")),
        ),
    ),
    "attended by a stranger": (
        "C25",
        _data("session-held", "ses-p1-1", attended=["m1", "s2"]),
    ),
    "attended by nobody": ("C25", _data("session-held", "ses-p1-1", attended=[])),
    "learned by a stranger": ("C25", _data("session-held", "ses-p1-1", learned={"s2": True})),
    "a number twice": (
        "C25",
        _both(
            _data("session-scheduled", "ses-p2-2", number=1),
            _data("session-held", "ses-p2-2", number=1),
        ),
    ),
    "a number left out": (
        "C25",
        _both(
            _data("session-scheduled", "ses-p8-2", number=3),
            _data("session-held", "ses-p8-2", number=3),
        ),
    ),
    "a number that changes": ("C25", _data("session-held", "ses-p8-2", number=1)),
    "held twice": ("C25", _again("session-held", "ses-p8-2", at("04-10"))),
    "missed and cancelled": (
        "C25",
        lambda lines: lines.append(
            _find(lines, "session-cancelled", "ses-p9-2")
            | {
                "id": "again",
                "subject": "ses-p2-3",
                "data": _find(lines, "session-cancelled", "ses-p9-2")["data"]
                | {"session_id": "ses-p2-3", "pair_id": "p2"},
            }
        ),
    ),
    "another pair's session": ("C25", _data("session-held", "ses-p1-1", pair_id="p2")),
    "a session of no pair": ("C25", _data("session-scheduled", "ses-p4-1", pair_id="p99")),
    "a session of a pair that declined": (
        "C25",
        _data("session-scheduled", "ses-p4-1", pair_id="p6"),
    ),
    # C28
    "a pulse that nobody was asked for": ("C28", _drop("survey-due", "due-ses-p1-1-m1")),
    "a pulse of somebody who was not there": (
        "C28",
        _data("survey-due", "due-ses-p1-1-m1", participant_id="m2"),
    ),
    "a pulse of another session": (
        "C28",
        _data("survey-due", "due-ses-p1-1-m1", session_id="ses-p1-2"),
    ),
    "a survey that is not planned": ("C28", _data("survey-due", "due-ses-p1-1-m1", kind="mid")),
    "an instrument that is not planned": (
        "C28",
        lambda lines: next(
            line["data"] for line in lines if line["type"] == "upward.feedback-submitted.v1"
        ).update(instrument_version=2),
    ),
    "an answer that the public count lacks": (
        "C28",
        _data("survey-completed", "prog-1", role="mentor"),
    ),
    "no pulses where the program has none": (
        "C28",
        _data("program-published", "prog-1", surveys=[]),
    ),
}


@pytest.mark.parametrize("breach", _BREACHES)
def test_a_breach_is_found_by_its_invariant(breach: str) -> None:
    code, change = _BREACHES[breach]
    report = _run(change)
    assert report.violations[code], report.lines()


def test_versions_and_offsets_made_good_break_nothing() -> None:
    assert _run().ok


def _submitted(lines: list[Line]) -> Line:
    return next(line for line in lines if line["type"] == "upward.feedback-submitted.v1")


def _say(**changes: Any) -> Change:
    return lambda lines: _submitted(lines)["data"].update(changes)


def _thread(key: str, value: str) -> Change:
    return lambda lines: _submitted(lines).update({key: value})


_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

_LEAKS: dict[str, Change] = {
    "a name": _data("enrolled", "m1", display_name="x"),
    "an address": _data("enrolled", "m1", email="x"),
    "an address as an id": _data("enrolled", "m1", country="jane.doe@example.org"),
    "a telephone number": _data("enrolled", "m1", country="+44 20 7946 0958"),
    "a trait": _data("enrolled", "m1", gender="x"),
    "a trait within": _inside("enrolled", "m1", "preferences.age", 24),
    "free text": _data("enrolled", "m1", wish="somebody who listens"),
    "free text of a session": _data("session-held", "ses-p1-1", topics=["my own career"]),
    "a comment": _data("session-held", "ses-p1-1", comments=[]),
    "a reason to withdraw": _data("withdrawn", "m3", reason="too_busy"),
    "a reason to decline": _data("pair-declined", "p6", reason="not_for_me"),
    "a respondent who is a participant": _say(respondent="s4"),
    "a respondent who is a person": _say(respondent="person-s4"),
    "an answer that names who gave it": _say(flags=[], about="s4"),
    "an answer under its survey's id": _say(respondent="due-ses-p4-1-s4"),
    "an answer caused by its survey": _thread("causationid", "ev-0068"),
    "an answer on the thread of a session": _thread("correlationid", "co-ev-0068"),
    "an answer in the trace of an enrollment": _both(
        _thread("traceparent", _TRACE), _attribute("enrolled", "s4", "traceparent", _TRACE)
    ),
}


@pytest.mark.parametrize("leak", _LEAKS)
def test_a_leak_is_found(leak: str) -> None:
    report = _run(_LEAKS[leak])
    assert report.violations["privacy"], report.lines()


def test_a_response_with_the_id_of_its_survey_is_found() -> None:
    def change(lines: list[Line]) -> None:
        line = _submitted(lines)
        line["subject"] = line["data"]["response_id"] = "due-ses-p4-1-s4"

    assert _run(change).violations["privacy"]


def test_a_topic_may_be_called_what_a_person_may_not() -> None:
    report = _run(_say(skills={"disability": 4, "gender": 3}))
    assert report.ok, report.lines()


def test_a_pair_need_not_be_paused_for_a_change_that_is_undone_in_the_same_moment() -> None:
    bad = {"level": 3, "department": "Digital", "manager_chain": ["person-boss"]}
    good = bad | {"level": 6}
    moved = _again("org-changed", "m1", at("04-20"), current=bad)

    def undone(lines: list[Line]) -> None:
        _again("org-changed", "m1", at("04-20"), current=good)(lines)
        lines[-1]["id"] = "once more"

    assert _run(moved).violations["C10"] == 1
    assert _run(moved, undone).violations["C10"] == 0


def test_a_proposal_may_rest_on_what_was_true_in_the_same_moment() -> None:
    def changed(time: str) -> Change:
        def change(lines: list[Line]) -> None:
            state = _find(lines, "enrolled", "m4")
            later = state | {
                "id": "changed",
                "type": "upward.profile-changed.v1",
                "dataschema": "urn:upward:schema:upward.profile-changed.v1",
                "time": time,
                "data": state["data"] | {"languages": ["cy"]},
            }
            lines.insert(lines.index(_find(lines, "pair-proposed", "p1")), later)

        return change

    assert _run(changed(at("01-20", "08:59"))).violations["C13"] == 1
    assert _run(changed(at("01-20", "09:00"))).violations["C13"] == 0


def test_a_subject_stays_in_its_partition() -> None:
    lines = valid_log()
    paired = _find(lines, "paired", "p1")
    paired["logpartition"] = (paired["logpartition"] + 1) % 3
    renumber(lines)
    assert check(dump(lines), valid_summary()).violations["partition"]


def test_a_gap_in_the_offsets_is_found() -> None:
    lines = valid_log()
    lines[-1]["logoffset"] += 1
    assert check(dump(lines), valid_summary()).violations["offset"] == 1


def test_a_line_that_is_no_json_is_found() -> None:
    report = check([*dump(valid_log()), "{"], valid_summary())
    assert report.violations == {"envelope": 1}


def _insert(before: tuple[str, str], like: tuple[str, str], time: str, **changes: Any) -> Change:
    """Insert a new event like another one."""

    def change(lines: list[Line]) -> None:
        line = _find(lines, *like)
        data = line["data"] | changes
        new = line | {"id": f"new-{len(lines)}", "time": time, "data": data}
        new.pop("causationid", None)
        lines.insert(lines.index(_find(lines, *before)), new)

    return change


def test_a_pause_taken_over_by_another_reason_is_one_pause() -> None:
    resumed = "pair-resumed", "p2"
    facts = {"level": 6, "department": "Policy"}

    def org(chain: list[str], day: str) -> Change:
        current = facts | {"manager_chain": chain}
        who = {"participant_id": "m2", "person_id": "person-m2", "current": current}
        change = _insert(resumed, ("org-changed", "m1"), at(day), **who)

        def of_m2(lines: list[Line]) -> None:
            change(lines)
            new = next(line for line in lines if line["id"] == f"new-{len(lines) - 1}")
            new["subject"] = "m2"
            new["logpartition"] = _find(lines, "enrolled", "m2")["logpartition"]

        return of_m2

    reason = {"reason": "reporting_line", "at": at("03-06")}
    again = _insert(resumed, ("pair-paused", "p2"), at("03-06"), **reason)
    told = valid_summary()
    told["events"]["org-changed"] += 2
    told["events"]["pair-paused"] += 1
    report = _run(org(["person-s2"], "03-06"), again, org(["person-x"], "03-08"), told=told)
    assert report.ok, report.lines()


def test_a_pair_is_not_paused_twice_for_the_same_reason() -> None:
    again = _insert(("pair-resumed", "p2"), ("pair-paused", "p2"), at("03-06"))
    assert _run(again).violations == {"C15": 1}


def test_a_pair_is_not_paused_for_what_never_was() -> None:
    report = _run(_data("pair-paused", "p2", reason="same_boss"))
    assert report.violations == {"C11": 1}
