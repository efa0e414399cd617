"""Good evidence made bad in one place: whoever judges it must see each of these."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace

from tests.faults.cluster.evidence import Evidence, Told

Mutation = Callable[[Evidence], None]


def _twice_told(evidence: Evidence) -> tuple[int, int]:
    """Return two places, in a topic's order, of two versions of one subject."""
    first: dict[tuple[str, str, str], int] = {}
    for place, event in enumerate(evidence.topics):
        one = first.setdefault((event.source, event.subject, event.topic), place)
        if evidence.topics[one].event_id != event.event_id:
            return one, place
    raise AssertionError("no subject has two events")


def _applied(evidence: Evidence) -> tuple[str, Told]:
    """Return a group and an event that it has applied."""
    for group, noted in evidence.inbox.items():
        for event in evidence.topics:
            if noted[event.event_id]:
                return group, event
    raise AssertionError("nothing was applied")


def _acknowledged(evidence: Evidence) -> Told:
    """Return an event of an acknowledged command."""
    return next(
        event
        for event in evidence.outbox
        if (command := evidence.journal.get(event.correlation or "")) is not None
        and command.outcome == "ok"
        and not event.caused
    )


def _drop_stored(evidence: Evidence) -> None:
    evidence.outbox.remove(_acknowledged(evidence))


def _drop_published(evidence: Evidence) -> None:
    _, event = _applied(evidence)
    evidence.topics = [other for other in evidence.topics if other.event_id != event.event_id]


def _drop_applied(evidence: Evidence) -> None:
    group, event = _applied(evidence)
    del evidence.inbox[group][event.event_id]


def _double_stored(evidence: Evidence) -> None:
    evidence.outbox.append(_acknowledged(evidence))


def _double_effect(evidence: Evidence) -> None:
    twin = replace(_acknowledged(evidence), event_id="twin")
    evidence.outbox.append(twin)
    evidence.topics.append(twin)


def _double_applied(evidence: Evidence) -> None:
    group, event = _applied(evidence)
    evidence.inbox[group][event.event_id] += 1


def _swap(evidence: Evidence) -> None:
    one, other = _twice_told(evidence)
    topics = evidence.topics
    topics[one], topics[other] = topics[other], topics[one]


def _delay(evidence: Evidence) -> None:
    one, _ = _twice_told(evidence)
    event = evidence.topics[one]
    evidence.topics = [e for e in evidence.topics if e.event_id != event.event_id] + [event]


def _leave_waiting(evidence: Evidence) -> None:
    evidence.outbox[-1] = replace(evidence.outbox[-1], sent=False)


def _change_copy(evidence: Evidence) -> None:
    evidence.topics.append(replace(evidence.topics[0], digest="another"))


def _invent(evidence: Evidence) -> None:
    group, _ = _applied(evidence)
    evidence.inbox[group]["from-nowhere"] += 1


def _carry_out_refused(evidence: Evidence) -> None:
    event = _acknowledged(evidence)
    command = evidence.journal[event.correlation or ""]
    evidence.journal[command.cmd_id] = replace(command, outcome="fail")


def _change_figure(evidence: Evidence) -> None:
    row = next(row for row in evidence.kpis if row["shown"])
    row["n"] += 1


def _miscount(evidence: Evidence) -> None:
    group, (_, survived) = next(iter(evidence.applied.items()))
    evidence.applied[group] = (evidence.inbox[group].total() + 1, survived)


def _tell_name(evidence: Evidence) -> None:
    evidence.texts["a log"] = b"Hello Fatima Mori"


MUTATIONS: dict[str, tuple[str, Mutation]] = {
    "drop one that was stored": ("I1", _drop_stored),
    "drop one that was published": ("I1", _drop_published),
    "drop one that was applied": ("I1", _drop_applied),
    "leave one waiting": ("I1", _leave_waiting),
    "double one that was stored": ("I3", _double_stored),
    "double a command's effect": ("I2", _double_effect),
    "double one that was applied": ("I3", _double_applied),
    "carry out what was refused": ("I2", _carry_out_refused),
    "apply one that nobody published": ("I2", _invent),
    "change a copy": ("I3", _change_copy),
    "change a figure": ("I3", _change_figure),
    "swap two of an aggregate": ("I4", _swap),
    "delay one behind its successors": ("I4", _delay),
    "miscount": ("I5", _miscount),
    "tell a name": ("I8", _tell_name),
}
"""By what is done: the invariant that must find it."""


def mutants(evidence: Evidence) -> Iterator[tuple[str, str, Evidence]]:
    """Yield each mutant of good evidence: what was done, who must find it, the mutant."""
    for name, (invariant, mutate) in MUTATIONS.items():
        mutant = deepcopy(evidence)
        mutate(mutant)
        yield name, invariant, mutant
