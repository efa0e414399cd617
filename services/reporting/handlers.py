"""The projection: an event changes a fact, and the buckets by what that changed. Order is free."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from services.reporting.domain import (
    PairFact,
    ParticipantFact,
    PersonFact,
    ProgramFact,
    RosterFact,
    add_response,
    add_round,
)
from services.reporting.kpis.bucket import Contribution, merge
from services.reporting.repository import StoredBucket, bucket_id
from shared.events.envelope import Envelope, Event
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import PairEvent, PairState, RoundCompleted
from shared.events.participants import ParticipantEvent, ParticipantState, RosterCounted
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.store.port import Document, Transaction
from shared.turns import in_turns

Said = Sequence[tuple[Event, Envelope]]
Changes = defaultdict[str, Contribution]
"""What a batch adds to the buckets, by program."""
PairTold = PairState | PairEvent | SessionHeld
ParticipantTold = ParticipantState | ParticipantEvent

F = TypeVar("F", RosterFact, ParticipantFact)


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

    All of it is read at once, and written once however many of the events change it. Raises
    InvalidInputError for a score that its scale does not have.
    """
    changes: Changes = defaultdict(Contribution)
    of_pairs: list[tuple[PairTold, int]] = []
    of_participants: list[tuple[ParticipantTold, int]] = []
    of_rosters: list[tuple[RosterCounted, int]] = []
    async for part in in_turns(said):
        for event, envelope in part:
            # The most frequent ones first.
            if isinstance(event, FeedbackSubmitted):
                add_response(changes[event.program_id], event)
            elif isinstance(event, SessionHeld | PairState | PairEvent):
                of_pairs.append((event, envelope.aggregateversion))
            elif isinstance(event, ParticipantState | ParticipantEvent):
                of_participants.append((event, envelope.aggregateversion))
            elif isinstance(event, RoundCompleted):
                add_round(changes[event.program_id], event, envelope.time)
            elif isinstance(event, RosterCounted) and event.level_band is event.department is None:
                # Counts of parts of the roster are not used.
                of_rosters.append((event, envelope.aggregateversion))
    await _follow_pairs(tx, of_pairs, changes)
    await _follow_participants(tx, of_participants, changes)
    await _follow_rosters(tx, of_rosters, changes)
    for program_id, change in changes.items():
        await _add(tx, program_id, change)


async def _follow_pairs(
    tx: Transaction, told: Sequence[tuple[PairTold, int]], changes: Changes
) -> None:
    before = await tx.get_many(PairFact, [event.pair_id for event, _ in told])
    now = dict(before)
    async for events in in_turns(told):
        for event, version in events:
            pair_id = event.pair_id
            pair = now.get(pair_id)
            if pair is None:
                pair = before[pair_id] = PairFact(id=pair_id, program_id=event.program_id)
            if isinstance(event, SessionHeld):
                now[pair_id] = pair.after_session(event)
            else:
                now[pair_id] = pair.after(event, version)
    async for pairs in in_turns(now.items()):
        for pair_id, pair in pairs:
            if pair is not before[pair_id]:
                tx.put(pair)
                pair.add_since(before[pair_id], changes[pair.program_id])


async def _follow_participants(
    tx: Transaction, told: Sequence[tuple[ParticipantTold, int]], changes: Changes
) -> None:
    before = await tx.get_many(ParticipantFact, [event.participant_id for event, _ in told])
    now = dict(before)
    async for events in in_turns(told):
        for event, version in events:
            participant_id = event.participant_id
            fact = now.get(participant_id)
            if fact is None:
                fact = before[participant_id] = ParticipantFact(
                    id=participant_id, program_id=event.program_id
                )
            now[participant_id] = fact.after(event, version)
    for participant_id, fact in now.items():
        _replace(tx, before[participant_id], fact, changes)


async def _follow_rosters(
    tx: Transaction, told: Sequence[tuple[RosterCounted, int]], changes: Changes
) -> None:
    for event, version in told:
        unknown = RosterFact.unknown(event.program_id, event.role)
        known = await tx.get(RosterFact, unknown.id) or unknown
        _replace(tx, known, known.after(event, version), changes)


def _replace(tx: Transaction, known: F, fact: F, changes: Changes) -> None:
    if fact is not known:
        tx.put(fact)
        known.add_to(changes[fact.program_id], -1)
        fact.add_to(changes[fact.program_id], 1)


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
                _keep(tx, seen, empty=not seen.times)
    cells = {bucket_id(program_id, cell): (cell, more) for cell, more in change.by_cell().items()}
    kept = await tx.get_many(StoredBucket, cells)
    for document_id, (cell, counts) in cells.items():
        stored = kept.get(document_id) or StoredBucket(
            id=document_id, program_id=program_id, kind=cell.kind, value=cell.value
        )
        bucket = stored.changed(counts=merge(stored.counts, counts))
        _keep(tx, bucket, empty=not bucket.counts)


def _keep(tx: Transaction, document: Document, *, empty: bool) -> None:
    # Without empty documents, what is kept depends on the facts alone, not on their history.
    if not empty:
        tx.put(document)
    elif document.version:
        tx.delete(document)
