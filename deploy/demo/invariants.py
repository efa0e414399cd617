"""The demo's own look at its events: how often each promise was broken. All zero, or a defect.

A quick look for the summary, not the proof: that is the independent checker of the tests.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Event = Mapping[str, Any]


def without_redeliveries(events: Iterable[Event]) -> tuple[list[Event], int]:
    """Return the events without later copies of the same record, and how many copies there were.

    A relay that was killed between the log's acknowledgement and its own mark publishes again, with
    the same id and the same content: consumers apply it once, and so does whoever counts. A copy
    with another content is kept, for `each_id_once` to find.
    """
    seen: dict[str, Event] = {}
    kept: list[Event] = []
    copies = 0
    for event in events:
        content = {key: value for key, value in event.items() if not key.startswith("log")}
        if seen.setdefault(event["id"], content) == content and content is not seen[event["id"]]:
            copies += 1
        else:
            kept.append(event)
    return kept, copies


def count_violations(events: Sequence[Event]) -> dict[str, int]:
    """Return the violations by invariant, from the exported events in log order."""
    return {
        "each_id_once": _repeated(event["id"] for event in events),
        "per_aggregate_order": _out_of_order(events),
        **_pairs(events),
        **_sessions(events),
    }


def _repeated(ids: Iterable[str]) -> int:
    seen: set[str] = set()
    again = 0
    for item in ids:
        again += item in seen
        seen.add(item)
    return again


def _out_of_order(events: Sequence[Event]) -> int:
    last: dict[tuple[str, str], int] = defaultdict(int)
    broken = 0
    for event in events:
        stream = (event["source"], event["subject"])
        broken += event["aggregateversion"] != last[stream] + 1
        last[stream] = event["aggregateversion"]
    return broken


def _name(event: Event) -> str:
    return str(event["type"]).removeprefix("upward.").rpartition(".")[0]


def _pairs(events: Sequence[Event]) -> dict[str, int]:
    gap, lines = 0, dict[str, Sequence[str]]()
    inversion = reporting_line = former = capacity = both_accepted = rotation = 0
    partners: set[tuple[str, str]] = set()
    active: dict[str, set[str]] = {}
    proposed: set[str] = set()
    rotations, rotated = set[str](), set[str]()
    for event in events:
        name, data = _name(event), event["data"]
        if name == "program-published":
            gap = data["min_level_gap"]
        elif name in {"enrolled", "profile-changed"}:
            lines[data["person_id"]] = data["manager_chain"]
        elif name == "org-changed":
            lines[data["person_id"]] = data["current"]["manager_chain"]
        elif name in {"pair-proposed", "paired"}:
            mentor = data["mentor"]
            for mentee in data["mentees"]:
                inversion += mentor["level"] - mentee["level"] < gap
                reporting_line += mentee["person_id"] in lines.get(mentor["person_id"], ())
                reporting_line += mentor["person_id"] in lines.get(mentee["person_id"], ())
                couple = (mentor["person_id"], mentee["person_id"])
                former += couple in partners
                if name == "paired":
                    partners.add(couple)
            if name == "pair-proposed":
                proposed.add(data["pair_id"])
                continue
            both_accepted += data["pair_id"] not in proposed
            members = {mentor["person_id"], *(side["person_id"] for side in data["mentees"])}
            capacity += sum(bool(members & others) for others in active.values())
            active[data["pair_id"]] = members
        elif name in {"pair-rotated", "pair-ended"}:
            active.pop(data["pair_id"], None)
            if name == "pair-rotated":
                rotated.add(data["next_round_id"])
        elif name == "round-completed" and data["kind"] == "rotation":
            rotations.add(data["round_id"])
    rotation = len(rotated - rotations)
    return {
        "C10_seniority_inversion": inversion,
        "C11_reporting_line": reporting_line,
        "C13_former_partner": former,
        "C13_capacity": capacity,
        "C15_both_accepted": both_accepted,
        "C18_rotation_round": rotation,
    }


def _sessions(events: Sequence[Event]) -> dict[str, int]:
    agreed, scheduled = set[str](), set[str]()
    mentees: dict[str, set[str]] = {}
    ground_rules = agenda = held = 0
    # Pairs and sessions are on different topics: who is a mentee may stand later in the log.
    for event in events:
        if _name(event) == "paired":
            sides = event["data"]["mentees"]
            mentees[event["data"]["pair_id"]] = {side["participant_id"] for side in sides}
    for event in events:
        name, data = _name(event), event["data"]
        if name == "ground-rules-agreed":
            agreed.add(data["pair_id"])
        elif name == "session-scheduled":
            ground_rules += data["pair_id"] not in agreed
            by_mentee = data["agenda_by"] in mentees.get(data["pair_id"], set())
            agenda += not (data["agenda_set"] and by_mentee)
            scheduled.add(data["session_id"])
        elif name == "session-held":
            held += data["session_id"] not in scheduled
    return {
        "C22_ground_rules_first": ground_rules,
        "C23_agenda_by_the_mentee": agenda,
        "C25_held_after_scheduled": held,
    }
