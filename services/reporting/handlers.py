"""The projection: an event changes a fact, and the buckets by what that changed. Order is free."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from services.reporting.domain import (
    FACT_OF,
    FACTS,
    Fact,
    Held,
    PairFact,
    PersonFact,
    ProgramFact,
    RespondentFact,
    Response,
    SeenFact,
    Sessions,
    add_round,
)
from services.reporting.kpis.bucket import Contribution
from services.reporting.repository import StoredBucket, bucket_id
from shared.events.envelope import Envelope, Event
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import RoundCompleted
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.store.port import Transaction
from shared.turns import in_turns

Changes = defaultdict[str, Contribution]
"""What a batch adds to the buckets, by program."""
Told = tuple[Any, int]
"""What is said of a fact, with the version of its aggregate."""
ToldOfEach = defaultdict[str, list[Told]]
"""What is said of facts, by their ids."""


class OfFact(NamedTuple):
    """What an event says of a fact."""

    kind: type[Fact]
    fact_id: str
    said: Told


Round = tuple[RoundCompleted, Envelope]


def of_fact(event: Event, envelope: Envelope) -> OfFact:
    """Return what an event says of a fact."""
    kind = FACT_OF[type(event)]
    return OfFact(kind, kind.id_of(event), (event, envelope.aggregateversion))


def of_session(event: SessionHeld, _: Envelope) -> Held:
    """Return what a session says of its pair."""
    return Held.of(event)


def of_response(event: FeedbackSubmitted, _: Envelope) -> Response | None:
    """Return what a response says of satisfaction, if anything.

    Raises InvalidInputError for a score that its scale does not have.
    """
    return Response.of(event)


async def learn_programs(
    tx: Transaction, said: Sequence[tuple[ProgramPublished, Envelope]]
) -> None:
    """Learn of programs' versions."""
    for event, _ in said:
        known = await tx.get(ProgramFact, event.program_id)
        fact = ProgramFact.published(event) if known is None else known.after(event)
        if fact is not known:
            tx.put(fact)


async def project(tx: Transaction, said: Sequence[OfFact | Held | Response | Round | None]) -> None:
    """Let facts learn what was said of them, and the buckets count what that changed.

    Facts are read at once, and written once however many of the events change them; buckets are
    added to without being read.
    """
    changes: Changes = defaultdict(Contribution)
    told: dict[type[Fact], ToldOfEach] = {kind: defaultdict(list) for kind in FACTS}
    held: dict[str, Sessions] = {}
    async for part in in_turns(said):
        for each in part:
            if isinstance(each, Response):
                each.add_to(changes[each.program_id])
            elif isinstance(each, Held):
                sessions = held.get(each.pair_id)
                if sessions is None:
                    sessions = held[each.pair_id] = Sessions(each.pair_id, each.program_id, {})
                sessions.by_month[each.month] = sessions.by_month.get(each.month, 0) + 1
            elif isinstance(each, OfFact):
                told[each.kind][each.fact_id].append(each.said)
            elif each is not None:
                event, envelope = each
                assert isinstance(event, RoundCompleted)
                add_round(changes[event.program_id], event, envelope.time)
    for kind, of_kind in told.items():
        await _follow(tx, kind, of_kind, changes)
    # By then the transaction knows which pairs have started in the same batch.
    await _follow_sessions(tx, held, changes)
    for program_id, change in changes.items():
        await _add(tx, program_id, change)


async def _follow(tx: Transaction, kind: type[Fact], told: ToldOfEach, changes: Changes) -> None:
    before = await tx.get_many(kind, told)
    async for part in in_turns(told.items()):
        for fact_id, events in part:
            fact = known = before.get(fact_id) or kind.unknown(events[0][0])
            for event, version in events:
                fact = fact.after(event, version)
            if fact is not known:
                tx.put(fact)
                fact.add_since(known, changes[fact.program_id])


async def _follow_sessions(tx: Transaction, held: Mapping[str, Sessions], changes: Changes) -> None:
    before = await tx.get_many(PairFact, held)
    async for part in in_turns(held.items()):
        for pair_id, sessions in part:
            known = before.get(pair_id) or PairFact.unknown(sessions)
            fact = known.after_sessions(sessions, changes[known.program_id])
            if fact is not known:
                tx.put(fact)


async def _add(tx: Transaction, program_id: str, change: Contribution) -> None:
    await _see(tx, PersonFact, program_id, change.people, change)
    await _see(tx, RespondentFact, program_id, change.answered, change)
    for cell, counts in change.by_cell().items():
        more = StoredBucket(
            id=bucket_id(program_id, cell),
            program_id=program_id,
            kind=cell.kind,
            value=cell.value,
            counts=counts,
        )
        tx.add(more)


async def _see(
    tx: Transaction,
    kind: type[SeenFact],
    program_id: str,
    seen: Mapping[str, Any],
    change: Contribution,
) -> None:
    by_id = {f"{program_id}/{who}": what for who, what in seen.items()}
    before = await tx.get_many(kind, by_id)
    async for part in in_turns(by_id.items()):
        for document_id, what in part:
            known = before.get(document_id) or kind(id=document_id)
            fields = known.changed_by(what, change)
            # Whom nothing is known of is as good as unknown.
            if any(fields.values()):
                tx.put(known, **fields)
            elif fields:
                tx.delete(known)
