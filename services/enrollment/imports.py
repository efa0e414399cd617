"""Importing a whole roster: people in batches, then whom the new organization moves."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime

from services.enrollment import roster
from services.enrollment.domain import Participant, Person, Program, manager_chain
from services.enrollment.handlers import store_people
from services.enrollment.repository import RosterCount, RosterImport, everybody
from shared.events.participants import Departed, OrgChanged, OrgFacts, Role, RosterCounted
from shared.events.programs import Thresholds
from shared.ids import new_event_id
from shared.store.port import Store, Transaction

# Each is one sync to disk, or a transaction of few requests.
_BATCH = 1000
_ROLES: tuple[Role, ...] = ("mentor", "mentee")


async def import_roster(
    store: Store, content: bytes, person_id_of: Callable[[str], str], now: datetime
) -> RosterImport:
    """Import a CSV roster and return the report, which is not kept yet.

    Each batch commits by itself and the same file imported again finds nothing to do, so an import
    cut off by a crash is simply repeated. Raises InvalidInputError if nothing can be read.
    """
    parsed = await asyncio.to_thread(roster.parse, content, person_id_of)
    added = updated = 0
    for start in range(0, len(parsed.people), _BATCH):
        batch = parsed.people[start : start + _BATCH]
        new, other = await store.transact(store_people, batch)
        added, updated = added + new, updated + other
    people: dict[str, Person] = {}
    heads = _Heads()
    async for page in everybody(store):
        people |= {person.id: person for person in page}
        heads.update(_heads(page, now))
    # Counts first: moves may take minutes, in which another import may tell newer ones.
    for program in await store.find(Program, {"closed_at": None}):
        await _tell_counts(store, program, heads, now)
    moved = await _move_participants(store, people, now)
    return RosterImport(
        id=new_event_id(),
        imported_at=now,
        rows=parsed.rows,
        added=added,
        updated=updated,
        unchanged=len(parsed.people) - added - updated,
        refused=parsed.rows - len(parsed.people),
        moved_participants=moved,
        roots=roster.roots(parsed.people),
        notes=tuple(parsed.notes),
    )


async def _move_participants(store: Store, people: Mapping[str, Person], now: datetime) -> int:
    """Compare every participant with the roster and tell what changed; return how many did."""
    manager_of = {person.id: person.manager_person_id for person in people.values()}
    moved, after = 0, None
    while participants := await store.find(Participant, after=after, limit=_BATCH):
        after = (participants[-1].id, participants[-1].id)
        for participant in participants:
            person = people.get(participant.person_id)
            if person is None or not participant.takes_part:
                continue
            org = OrgFacts(
                level=person.level,
                department=person.department,
                manager_chain=manager_chain(person.id, manager_of),
            )
            if person.left_on is not None and person.has_left(now):
                moved += await store.transact(_depart, participant.id, person.left_on)
            elif org != participant.org:
                moved += await store.transact(_move, participant.id, org)
    return moved


async def _move(tx: Transaction, participant_id: str, org: OrgFacts) -> int:
    known = await tx.require(Participant, participant_id)
    participant = known.moved(org)
    if participant is known or not known.takes_part:
        return 0
    tx.put(participant)
    tx.emit(
        OrgChanged(
            program_id=known.program_id,
            participant_id=known.id,
            person_id=known.person_id,
            previous=known.org,
            current=org,
        )
    )
    return 1


async def _depart(tx: Transaction, participant_id: str, left_on: date) -> int:
    known = await tx.require(Participant, participant_id)
    participant = known.depart()
    if participant is known:
        return 0
    tx.put(participant)
    tx.emit(
        Departed(
            program_id=known.program_id,
            participant_id=known.id,
            person_id=known.person_id,
            left_on=left_on,
        )
    )
    return 1


async def count_roster(store: Store, program: Program, now: datetime) -> None:
    """Tell reporting how many people could take part, by role, where that changed.

    Small counts are withheld.
    """
    heads = _Heads()
    async for page in everybody(store):
        heads.update(_heads(page, now))
    await _tell_counts(store, program, heads, now)


_Heads = Counter[tuple[int, bool]]
"""How many people there are of a level who have, or have not, left."""


def _heads(people: Iterable[Person], now: datetime) -> _Heads:
    # Unknown levels may enroll but are nobody's quota, and vacant posts are nobody.
    return Counter(
        (person.level, person.has_left(now))
        for person in people
        if person.name is not None and person.level is not None
    )


async def _tell_counts(store: Store, program: Program, heads: _Heads, now: datetime) -> None:
    employed, left = dict.fromkeys(_ROLES, 0), dict.fromkeys(_ROLES, 0)
    for (level, gone), number in heads.items():
        for role in _ROLES:
            if program.eligible(level, role):
                (left if gone else employed)[role] += number

    async def tell(tx: Transaction) -> None:
        for role in _ROLES:
            known = await tx.get(RosterCount, RosterCount.id_of(program.id, role))
            count = RosterCount(
                id=RosterCount.id_of(program.id, role),
                employed=_shown(employed[role], program.spec.thresholds),
                left=_shown(left[role], program.spec.thresholds),
            )
            if known is not None and known.same(count):
                continue
            tx.put(count if known is None else count.changed(version=known.version))
            tx.emit(
                RosterCounted(
                    program_id=program.id,
                    role=role,
                    employed=count.employed,
                    left=count.left,
                    as_of=now,
                )
            )

    await store.transact(tell)


def _shown(count: int, thresholds: Thresholds) -> int | None:
    return count if count >= thresholds.scores else None
