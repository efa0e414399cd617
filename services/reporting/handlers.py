"""The projection: an event changes a fact, and the buckets by what that changed. Order is free."""

from collections import defaultdict
from collections.abc import Sequence

from services.reporting.domain import (
    FACT_OF,
    FACTS,
    Fact,
    PersonFact,
    ProgramFact,
    add_response,
    add_round,
)
from services.reporting.kpis.bucket import Contribution
from services.reporting.repository import StoredBucket, bucket_id
from shared.events.envelope import Envelope, Event
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import RoundCompleted
from shared.events.programs import ProgramPublished
from shared.store.port import Transaction
from shared.turns import in_turns

Said = Sequence[tuple[Event, Envelope]]
Changes = defaultdict[str, Contribution]
"""What a batch adds to the buckets, by program."""
Told = tuple[Event, int]
"""What is said of a fact, with the version of its aggregate."""


async def learn_programs(tx: Transaction, said: Said) -> None:
    """Learn of programs' versions."""
    for event, _ in said:
        assert isinstance(event, ProgramPublished)
        known = await tx.get(ProgramFact, event.program_id)
        fact = ProgramFact.published(event) if known is None else known.after(event)
        if fact is not known:
            tx.put(fact)


async def project(tx: Transaction, said: Said) -> None:
    """Let facts learn what was said of them, and the buckets count what that changed.

    Facts are read at once, and written once however many of the events change them; buckets are
    added to without being read. Raises InvalidInputError for a score that its scale does not have.
    """
    changes: Changes = defaultdict(Contribution)
    told: dict[type[Fact], list[Told]] = {kind: [] for kind in FACTS}
    async for part in in_turns(said):
        for event, envelope in part:
            if (kind := FACT_OF.get(type(event))) is not None:
                told[kind].append((event, envelope.aggregateversion))
            elif isinstance(event, FeedbackSubmitted):
                add_response(changes[event.program_id], event)
            else:
                assert isinstance(event, RoundCompleted)
                add_round(changes[event.program_id], event, envelope.time)
    for kind, of_kind in told.items():
        await _follow(tx, kind, of_kind, changes)
    for program_id, change in changes.items():
        await _add(tx, program_id, change)


async def _follow(
    tx: Transaction, kind: type[Fact], told: Sequence[Told], changes: Changes
) -> None:
    id_of = kind.id_of
    of_each: defaultdict[str, list[Told]] = defaultdict(list)
    for each in told:
        of_each[id_of(each[0])].append(each)
    before = await tx.get_many(kind, of_each)
    async for part in in_turns(of_each.items()):
        for fact_id, events in part:
            fact = known = before.get(fact_id) or kind.unknown(events[0][0])
            for event, version in events:
                fact = fact.after(event, version)
            if fact is not known:
                tx.put(fact)
                fact.add_since(known, changes[fact.program_id])


async def _add(tx: Transaction, program_id: str, change: Contribution) -> None:
    people = {
        f"{program_id}/{person}": person for person in change.people.keys() | change.people_for_good
    }
    before = await tx.get_many(PersonFact, people)
    async for part in in_turns(people.items()):
        for document_id, person in part:
            known = before.get(document_id) or PersonFact(id=document_id)
            seen = known.seen(person, change)
            if seen is not known:
                # Whom nothing is known of is as good as unknown.
                if seen.times:
                    tx.put(seen)
                elif seen.version:
                    tx.delete(seen)
    for cell, counts in change.by_cell().items():
        more = StoredBucket(
            id=bucket_id(program_id, cell),
            program_id=program_id,
            kind=cell.kind,
            value=cell.value,
            counts=counts,
        )
        tx.add(more)
