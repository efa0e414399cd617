"""The use cases of enrollment: load, decide, save, emit."""

from collections.abc import Sequence
from datetime import datetime

from services.enrollment import access
from services.enrollment.domain import Participant, Person, Profile, Program, ProgramSpec
from services.enrollment.repository import RosterImport, org_facts
from shared.errors import ForbiddenError, raise_not_found
from shared.events.participants import (
    Enrolled,
    ParticipantState,
    Paused,
    ProfileChanged,
    Resumed,
    TrainingCompleted,
    Withdrawn,
)
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.http.auth import Principal
from shared.store.port import Transaction
from shared.turns import in_turns


async def publish_program(
    tx: Transaction, caller: Principal, now: datetime, program_id: str, spec: ProgramSpec
) -> Program:
    """Publish a program, or its next version; the same once more changes nothing."""
    access.must_coordinate(caller, program_id)
    known = await tx.get(Program, program_id)
    program = (
        Program.publish(program_id, spec, now) if known is None else known.republish(spec, now)
    )
    if program is known:
        return program
    program = tx.put(program)
    tx.emit(
        ProgramPublished(
            program_id=program_id,
            version=program.program_version,
            **spec.model_dump(),
        )
    )
    return program


async def close_program(
    tx: Transaction, caller: Principal, now: datetime, program_id: str
) -> Program:
    """Close a program; its pairs then end."""
    access.must_coordinate(caller, program_id)
    known = await tx.require(Program, program_id)
    program = known.close(now)
    if program is known:
        return program
    program = tx.put(program)
    tx.emit(ProgramClosed(program_id=program_id, version=program.program_version))
    return program


async def enroll(
    tx: Transaction, caller: Principal, now: datetime, program_id: str, profile: Profile
) -> Participant:
    """Enroll the caller. Nobody can enroll somebody else: the person is who asks."""
    program = await tx.require(Program, program_id)
    person = await tx.get(Person, caller.subject)
    if person is None or person.name is None:
        raise ForbiddenError("You are not on the roster.")
    org = await org_facts(tx, person)
    known = await tx.get(Participant, Participant.id_of(program_id, person.id))
    if known is None:
        participant = Participant.enroll(program, person, org, profile, now)
    else:
        participant = known.enroll_again(program, person, org, profile, now)
    participant = tx.put(participant)
    tx.emit(_state(Enrolled, participant, person))
    return participant


async def change_profile(
    tx: Transaction, caller: Principal, now: datetime, participant_id: str, profile: Profile
) -> Participant:
    """Change the caller's own profile."""
    known = await _own(tx, caller, participant_id)
    program = await tx.require(Program, known.program_id)
    participant = known.change_profile(program, profile, now)
    if participant is known:
        return participant
    participant = tx.put(participant)
    person = await tx.require(Person, participant.person_id)
    tx.emit(_state(ProfileChanged, participant, person))
    return participant


async def complete_training(
    tx: Transaction, caller: Principal, now: datetime, participant_id: str, module: str
) -> Participant:
    """Record that the caller finished a training module."""
    known = await _own(tx, caller, participant_id)
    program = await tx.require(Program, known.program_id)
    participant = known.complete(program, module, now)
    if participant is known:
        return participant
    participant = tx.put(participant)
    tx.emit(
        TrainingCompleted(
            program_id=participant.program_id,
            participant_id=participant.id,
            person_id=participant.person_id,
            module=module,
            ready=participant.ready,
            ready_at=participant.ready_at,
        )
    )
    return participant


async def pause(
    tx: Transaction, caller: Principal, now: datetime, participant_id: str
) -> Participant:
    """Take a break from the program."""
    known = await _own(tx, caller, participant_id)
    return _change(tx, known, known.pause(), Paused, now)


async def resume(
    tx: Transaction, caller: Principal, now: datetime, participant_id: str
) -> Participant:
    """Come back from a break."""
    known = await _own(tx, caller, participant_id)
    return _change(tx, known, known.resume(), Resumed, now)


async def withdraw(
    tx: Transaction, caller: Principal, now: datetime, participant_id: str
) -> Participant:
    """Leave the program, without a reason."""
    known = await _own(tx, caller, participant_id)
    return _change(tx, known, known.withdraw(), Withdrawn, now)


def _change(
    tx: Transaction,
    known: Participant,
    participant: Participant,
    event: type[Paused | Resumed | Withdrawn],
    now: datetime,
) -> Participant:
    if participant is known:
        return participant
    tx.emit(
        event(
            program_id=known.program_id,
            participant_id=known.id,
            person_id=known.person_id,
            at=now,
        )
    )
    return tx.put(participant)


async def _own(tx: Transaction, caller: Principal, participant_id: str) -> Participant:
    participant = await tx.get(Participant, participant_id)
    if participant is None:
        raise_not_found("participant", participant_id)
    access.must_be_own(caller, participant)
    return participant


def _state(
    event: type[Enrolled | ProfileChanged], participant: Participant, person: Person
) -> ParticipantState:
    profile = participant.profile
    return event(
        program_id=participant.program_id,
        participant_id=participant.id,
        person_id=participant.person_id,
        role=profile.role,
        level=participant.org.level,
        department=participant.org.department,
        region=person.region,
        country=person.country,
        timezone=person.timezone,
        manager_chain=participant.org.manager_chain,
        teaches=profile.teaches,
        wants=profile.wants,
        languages=profile.languages,
        working_hours=profile.working_hours,
        preferences=profile.preferences,
        hired_on=person.hired_on,
        ready=participant.ready,
        ready_at=participant.ready_at,
        enrolled_at=participant.enrolled_at,
    )


async def keep_report(tx: Transaction, report: RosterImport) -> RosterImport:
    """Keep the report of an import."""
    return tx.put(report)


async def store_people(tx: Transaction, people: Sequence[Person]) -> tuple[int, int]:
    """Write the new and the changed people of an import; return how many of each."""
    stored = await tx.get_many(Person, [person.id for person in people])
    added = changed = 0
    async for part in in_turns(people):
        for person in part:
            known = stored.get(person.id)
            if known is None:
                added += 1
                tx.put(person)
            elif not known.same_facts(person):
                changed += 1
                tx.put(person.changed(version=known.version))
    return added, changed
