"""The invariants I1 to I5, I7 and I8, as functions of the evidence: each returns what it found."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from deploy.client import Json
from tests.faults.cluster.evidence import Evidence, Told

Effects = Mapping[str, Counter[str]]
"""By command: the types of the events that it brought about, and how many."""
Finding = str

_SHOWN = 5


def effects(evidence: Evidence) -> dict[str, Counter[str]]:
    """Return what each command of the journal brought about, by what the command was.

    Events that another event caused are left out: two commands at once decide by chance whose
    event it is that completes something.
    """
    commands = evidence.journal
    found: dict[str, Counter[str]] = {
        command.what: Counter() for command in commands.values() if command.outcome == "ok"
    }
    for event in evidence.outbox:
        command = commands.get(event.correlation or "")
        if command is not None and command.outcome == "ok" and not event.caused:
            found[command.what][event.type] += 1
    return found


def no_loss(evidence: Evidence, reference: Effects) -> list[Finding]:
    """I1 and I7: acknowledged ⊆ outbox ⊆ topic ⊆ inbox or dead letters; says where it ends."""
    found = []
    for what, types in effects(evidence).items():
        wanted = reference.get(what, Counter[str]())
        if missing := wanted - types:
            found.append(f"acknowledged but not stored: {what}: {dict(missing)}")
    on_topic = {event.event_id: event for event in evidence.topics}
    for event in evidence.outbox:
        if not event.sent:
            found.append(f"stored but not marked as sent: {_name(event)}")
        if event.event_id not in on_topic:
            where = "marked as sent but not on the topic" if event.sent else "not published"
            found.append(f"{where}: {_name(event)}")
    for group, types_handled in evidence.handled.items():
        seen = evidence.inbox[group].keys() | evidence.dead[group]
        found += [
            f"on the topic but not applied by {group}: {_name(event)}"
            for event in on_topic.values()
            if event.type in types_handled and event.event_id not in seen
        ]
    return found


def no_invention(evidence: Evidence, reference: Effects) -> list[Finding]:
    """I2: no event without its command, none of a refused one, none applied from nowhere."""
    found = []
    for what, types in effects(evidence).items():
        if extra := types - reference.get(what, Counter[str]()):
            found.append(f"more than the command brings about: {what}: {dict(extra)}")
    for event in evidence.outbox:
        command = evidence.journal.get(event.correlation or "")
        if command is not None and command.outcome == "fail":
            found.append(f"the command was refused: {command.what}: {_name(event)}")
    stored = {event.event_id for event in evidence.outbox} | evidence.foreign
    on_topic = {event.event_id for event in evidence.topics}
    found += [f"published but never stored: {_id}" for _id in sorted(on_topic - stored)]
    for group, noted in evidence.inbox.items():
        found += [
            f"applied by {group} but on no topic: {_id}" for _id in sorted(noted.keys() - on_topic)
        ]
    return found


def exactly_once(evidence: Evidence, reference: list[Json]) -> list[Finding]:
    """I3: nothing stored or noted twice, copies are equal, and the KPI rows are the reference's."""
    found = []
    times = Counter(event.event_id for event in evidence.outbox)
    found += [f"stored {n} times: {event_id}" for event_id, n in times.items() if n > 1]
    for group, noted in evidence.inbox.items():
        found += [f"noted {n} times by {group}: {_id}" for _id, n in noted.items() if n > 1]
    digests: dict[str, str] = {event.event_id: event.digest for event in evidence.outbox}
    for event in evidence.topics:
        if digests.setdefault(event.event_id, event.digest) != event.digest:
            found.append(f"a copy differs from what was stored: {_name(event)}")
    told, wanted = _rows(evidence.kpis), _rows(reference)
    for key in sorted(told.keys() | wanted.keys()):
        if told.get(key) != wanted.get(key):
            found.append(f"KPI {key}: {told.get(key)} instead of {wanted.get(key)}")
    if evidence.checker:
        found.append(evidence.checker)
    return found


def _rows(kpis: Iterable[Json]) -> dict[str, Json]:
    return {
        f"{row['kpi']} {row['unit']} {sorted(row['breakdown'].items())} {row['period']}": row
        for row in kpis
    }


def key_order(evidence: Evidence) -> list[Finding]:
    """I4: an aggregate's versions are 1, 2, 3 …, in order in its one partition, copies left aside.

    A subject that has two topics has one order in each.
    """
    found = []
    seen: set[str] = set()
    versions: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    latest: dict[tuple[str, str, str], Told] = {}
    for event in evidence.topics:
        if event.event_id in seen or event.event_id in evidence.foreign:
            continue
        seen.add(event.event_id)
        versions[event.source, event.subject].append(event.version)
        before = latest.get((event.source, event.subject, event.topic), event)
        latest[event.source, event.subject, event.topic] = event
        if event.version < before.version:
            found.append(f"after version {before.version}: {_name(event)}")
        if event.partition != before.partition:
            found.append(
                f"in partition {event.partition}, {before.partition} before: {_name(event)}"
            )
    found += [
        f"versions of {subject} are {sorted(told)}"
        for (_, subject), told in versions.items()
        if sorted(told) != list(range(1, len(told) + 1))
    ]
    return found


def conservation(evidence: Evidence) -> list[Finding]:
    """I5: what counters say was applied is what inboxes note; a killed process's count is lost."""
    found = []
    for group, (counted, all_survived) in evidence.applied.items():
        noted = evidence.inbox[group].total()
        if counted > noted or (all_survived and counted != noted):
            found.append(f"{group} counted {counted:.0f} as applied and noted {noted}")
    return found


def privacy(evidence: Evidence, secrets: Sequence[bytes]) -> list[Finding]:
    """I8: no full name of the roster in any record, dead letter or log."""
    return [
        f"{name} has {secret.decode()!r}"
        for name, text in evidence.texts.items()
        for secret in secrets
        if secret in text
    ]


def all_findings(
    evidence: Evidence, effects_wanted: Effects, kpis: list[Json], secrets: Sequence[bytes]
) -> dict[str, list[Finding]]:
    """Return what each invariant found, those without findings left out."""
    checks: dict[str, Callable[[], list[Finding]]] = {
        "I1": lambda: no_loss(evidence, effects_wanted),
        "I2": lambda: no_invention(evidence, effects_wanted),
        "I3": lambda: exactly_once(evidence, kpis),
        "I4": lambda: key_order(evidence),
        "I5": lambda: conservation(evidence),
        "I8": lambda: privacy(evidence, secrets),
    }
    return {name: found for name, check in checks.items() if (found := check())}


def in_words(findings: Mapping[str, list[Finding]]) -> str:
    """Return the first few findings of each invariant."""
    return "\n".join(
        f"{name}: {len(found)} findings\n  " + "\n  ".join(found[:_SHOWN])
        for name, found in findings.items()
    )


def _name(event: Told) -> str:
    return f"{event.type} {event.event_id} of {event.subject} version {event.version}"
