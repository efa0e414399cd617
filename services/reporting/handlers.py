"""The projection: an event changes a fact, and the buckets by what that changed. Order is free."""

from datetime import datetime
from typing import TypeVar

from services.reporting.domain import (
    PairFact,
    ParticipantFact,
    PersonFact,
    ProgramFact,
    RosterFact,
    of_response,
    of_round,
)
from services.reporting.kpis.bucket import Bucket, Cell, Contribution, merge
from services.reporting.repository import StoredBucket, bucket_id
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import PairEvent, PairState, RoundCompleted
from shared.events.participants import ParticipantEvent, ParticipantState, RosterCounted
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.store.port import Transaction

F = TypeVar("F", RosterFact, ParticipantFact, PairFact)


async def learn_program(tx: Transaction, event: ProgramPublished) -> None:
    """Learn of a program's version."""
    known = await tx.get(ProgramFact, event.program_id)
    fact = ProgramFact.published(event) if known is None else known.after(event)
    if fact is not known:
        tx.put(fact)


async def count_roster(tx: Transaction, event: RosterCounted, version: int) -> None:
    """Take over how many could take part in a role; counts of parts of the roster are not used."""
    if event.level_band is not None or event.department is not None:
        return
    unknown = RosterFact.unknown(event.program_id, event.role)
    known = await tx.get(RosterFact, unknown.id) or unknown
    await _replace(tx, known, known.after(event, version))


async def follow_participant(
    tx: Transaction, event: ParticipantState | ParticipantEvent, version: int
) -> None:
    """Learn whether a participant takes part, and as what."""
    known = await tx.get(ParticipantFact, event.participant_id) or ParticipantFact(
        id=event.participant_id, program_id=event.program_id
    )
    await _replace(tx, known, known.after(event, version))


async def follow_pair(tx: Transaction, event: PairState | PairEvent, version: int) -> None:
    """Learn what happened to a pair."""
    known = await _pair(tx, event.pair_id, event.program_id)
    await _replace(tx, known, known.after(event, version))


async def count_session(tx: Transaction, event: SessionHeld) -> None:
    """Count a session that was held."""
    known = await _pair(tx, event.pair_id, event.program_id)
    await _replace(tx, known, known.after_session(event))


async def count_round(tx: Transaction, event: RoundCompleted, time: datetime) -> None:
    """Count whom a round matched; `time` is the event's."""
    await _add(tx, event.program_id, of_round(event, time))


async def count_response(tx: Transaction, event: FeedbackSubmitted) -> None:
    """Count a pulse. Raises InvalidInputError for a score that its scale does not have."""
    await _add(tx, event.program_id, of_response(event))


async def _pair(tx: Transaction, pair_id: str, program_id: str) -> PairFact:
    return await tx.get(PairFact, pair_id) or PairFact(id=pair_id, program_id=program_id)


async def _replace(tx: Transaction, known: F, fact: F) -> None:
    """Keep the fact, and let the buckets count it instead of what was known before."""
    if fact is known:
        return
    tx.put(fact)
    await _add(tx, fact.program_id, fact.contribution().minus(known.contribution()))


async def _add(tx: Transaction, program_id: str, change: Contribution) -> None:
    for person, sightings in change.by_person().items():
        document_id = f"{program_id}/{person}"
        known = await tx.get(PersonFact, document_id) or PersonFact(id=document_id)
        seen, appeared = known.seen(sightings)
        change.add(appeared)
        _keep(tx, seen, empty=not seen.times)
    for cell, counts in change.by_cell().items():
        await _add_to_bucket(tx, program_id, cell, counts)


async def _add_to_bucket(tx: Transaction, program_id: str, cell: Cell, counts: Bucket) -> None:
    document_id = bucket_id(program_id, cell)
    known = await tx.get(StoredBucket, document_id) or StoredBucket(
        id=document_id, program_id=program_id, kind=cell.kind, value=cell.value
    )
    bucket = known.changed(counts=merge(known.counts, counts))
    _keep(tx, bucket, empty=not bucket.counts)


def _keep(tx: Transaction, document: StoredBucket | PersonFact, *, empty: bool) -> None:
    # Without empty documents, what is kept depends on the facts alone, not on their history.
    if not empty:
        tx.put(document)
    elif document.version:
        tx.delete(document)
