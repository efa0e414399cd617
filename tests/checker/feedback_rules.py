"""Invariants of feedback: C28 surveys are due and answered as planned; `privacy` of all events."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

from tests.checker.reading import Event, Json
from tests.checker.report import Report
from tests.checker.world import World

_PERSONAL_KEYS = re.compile(
    r"(^|_)(name|names|firstname|lastname|surname|username|email|e_mail|mail|phone|mobile|address"
    r"|street|postcode|birthday|birth|born|age|gender|sex|ethnicity|race|religion|disability"
    r"|disabilities|orientation|veteran|neurodivergence|generation|traits|salary|comment|comments"
    r"|note|notes|message|description|free_text|answer|answers|title_of_person|job_title|photo)$"
)
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
_PHONE = re.compile(r"\+\d[\d ()/-]{6,}\d")

# Where words may stand: what the program office wrote, the roster's labels, and the rationale.
_WORDS = frozenset(
    {
        ("program-published", "title"),
        ("program-published", "topics.title"),
        ("program-published", "objectives"),
        ("program-published", "ground_rules"),
        ("pair-proposed", "rationale.text"),
        ("paired", "rationale.text"),
    }
)
_LABELS = frozenset({"department", "region", "country", "regions", "level_band"})

# Objects whose keys are ids or codes: a topic may well be called disability.
_MAPS = frozenset({"skills", "scores", "unmatched", "learned", "waited_days", "purposes"})
_NO_REASON = frozenset({"withdrawn", "paused", "resumed", "pair-declined", "pair-expired"})
_ANONYMOUS = frozenset({"feedback-submitted", "survey-completed"})
_PUBLIC_SUBJECT = frozenset({"program-published", "program-closed", "roster-counted"})


def check_surveys(world: World, report: Report) -> None:
    """C28: pulses after held sessions, no more answers than surveys, the public count equal."""
    _check_pulses(world, report)
    due: Counter[tuple[str, str]] = Counter()
    for event in world.named("survey-due"):
        due[event.program, event.data["kind"]] += 1
        if not _planned(world, event):
            report.violation("C28", str(event), f"the program plans no {event.data['kind']}")
        if world.enrolled_in.get(event.data["participant_id"]) != event.program:
            report.violation("C28", str(event), "is due from nobody in the program")
    submitted: Counter[tuple[str, str]] = Counter()
    answered: Counter[tuple[str, str, str]] = Counter()
    for event in world.named("feedback-submitted"):
        submitted[event.program, event.data["kind"]] += 1
        answered[event.program, event.data["kind"], event.data["role"]] += 1
        if not _planned(world, event):
            report.violation("C28", str(event), "the program plans no such instrument")
    for key, count in submitted.items():
        if count > due[key]:
            report.violation("C28", f"{key}", f"{count} answers to {due[key]} surveys")
    completed = Counter(
        (event.program, event.data["kind"], event.data["role"])
        for event in world.named("survey-completed")
    )
    for group in answered.keys() | completed.keys():
        if answered[group] != completed[group]:
            what = f"{answered[group]} submitted, {completed[group]} completed"
            report.violation("C28", f"{group}", what)


def _planned(world: World, event: Event) -> bool:
    policies = world.programs.get(event.program)
    plans = {plan for _, policy in policies.states for plan in policy.surveys} if policies else ()
    data = event.data
    if event.name == "survey-due":
        return data["kind"] in {kind for kind, _, _ in plans}
    return (data["kind"], data["instrument"], data["instrument_version"]) in plans


def _check_pulses(world: World, report: Report) -> None:
    expected: Counter[tuple[str, str]] = Counter()
    for session in world.sessions.values():
        for event in session.held:
            seen = world.policies_seen(event)
            if any(kind == "pulse" for policy in seen for kind, _, _ in policy.surveys):
                expected.update((session.id, who) for who in event.data["attended"])
    asked = Counter(
        (event.data.get("session_id") or "", event.data["participant_id"])
        for event in world.named("survey-due")
        if event.data["kind"] == "pulse"
    )
    for session_id, who in sorted(expected.keys() | asked.keys()):
        wanted, got = expected[session_id, who], asked[session_id, who]
        if wanted != got:
            what = f"{got} pulses due from {who}, {wanted} expected"
            report.violation("C28", f"session {session_id}", what)


def check_privacy(world: World, report: Report) -> None:
    """`privacy`: nothing personal in any event, and no way from an answer to who gave it."""
    people = {*world.participants}
    people.update(
        facts.person for timeline in world.participants.values() for _, facts in timeline.states
    )
    surveys = {event.subject for event in world.named("survey-due")}
    surveys.update(event.id for event in world.named("survey-due"))
    links = _links_to_people(world)
    for event in world.events:
        for what in _personal(event):
            report.violation("privacy", str(event), what)
        if event.name not in _ANONYMOUS:
            continue
        for value in people.intersection(_strings(event.data)):
            report.violation("privacy", str(event), f"names {value}")
        if event.data.get("respondent") in surveys or event.data.get("response_id") in surveys:
            report.violation("privacy", str(event), "carries the id of a survey that was due")
        threads = {thread for thread in _threads(event) if thread}
        if threads & links:
            what = f"{sorted(threads & links)} also stands on an event about somebody"
            report.violation("privacy", str(event), what)


def _threads(event: Event) -> tuple[str | None, ...]:
    return event.causation, event.correlation, event.trace


def _links_to_people(world: World) -> set[str]:
    return {
        value
        for event in world.events
        if event.name not in _ANONYMOUS and event.name not in _PUBLIC_SUBJECT
        for value in (event.id, *_threads(event))
        if value
    }


def _personal(event: Event) -> Iterator[str]:
    if event.name in _NO_REASON and "reason" in event.data:
        yield "tells a reason"
    for path, value in _leaves(event.data, ""):
        *parents, key = path.split(".")
        named = _MAPS.intersection(parents) or path == "thresholds.comments"
        if not named and _looks_personal(key):
            yield f"{path} looks personal"
        if not isinstance(value, str):
            continue
        if ("@" in value and _EMAIL.search(value)) or ("+" in value and _PHONE.search(value)):
            yield f"{path} looks like an address: {value}"
        allowed = (event.name, path) in _WORDS or key in _LABELS
        if not allowed and len(value.split()) > 1:
            yield f"{path} holds free text"


@cache
def _looks_personal(key: str) -> bool:
    return bool(_PERSONAL_KEYS.search(key))


def _leaves(value: Json, path: str) -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
            if isinstance(item, dict | list) and not item:
                yield (f"{path}.{key}" if path else key), None
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, path)
    else:
        yield path, value


def _strings(value: Json) -> Iterator[str]:
    for _, leaf in _leaves(value, ""):
        if isinstance(leaf, str):
            yield leaf
