"""The use cases of sessions: load, decide, save, emit."""

from datetime import datetime

from services.sessions import access
from services.sessions.domain.agreement import Agreement, GroundRules
from services.sessions.domain.pair import Member, PairRecord
from services.sessions.domain.program import Program
from services.sessions.domain.session import Agenda, NewTime, Notes, Plan, Record, Session
from services.sessions.repository import (
    agreement_of,
    open_sessions,
    pair_of,
    program_of,
    session_of,
)
from shared.events.pairs import Paired, PairEnded, PairPaused, PairResumed, PairRotated
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.http.auth import Principal
from shared.store.port import Transaction

_PAGE = 100


async def agree_ground_rules(
    tx: Transaction, caller: Principal, now: datetime, pair_id: str, rules: GroundRules
) -> Agreement:
    """Record the caller's word on the ground rules; published when all have given it."""
    pair = await pair_of(tx, pair_id)
    member = access.must_be_member(caller, pair, pair)
    known = await agreement_of(tx, pair)
    program = await program_of(tx, pair)
    agreement = known.agree(member.participant_id, rules, pair, program, now)
    if agreement is known:
        return agreement
    if agreement.agreed:
        tx.emit(agreement.as_agreed())
    return tx.put(agreement)


async def plan_session(tx: Transaction, caller: Principal, pair_id: str, plan: Plan) -> Session:
    """Propose a session to the other side."""
    pair = await pair_of(tx, pair_id)
    member = access.must_be_member(caller, pair, pair)
    if plan.agenda is not None:
        access.must_be_mentee(pair, member, "an agenda")
    session = Session.plan(member.participant_id, plan, pair, await program_of(tx, pair))
    tx.put(pair.count_planned())
    return tx.put(session)


async def set_agenda(
    tx: Transaction, caller: Principal, session_id: str, agenda: Agenda
) -> Session:
    """Set the agenda of a session: a mentee's right alone."""
    known, pair, member = await _own(tx, caller, session_id)
    access.must_be_mentee(pair, member, "an agenda")
    return _keep(tx, known, known.set_agenda(member.participant_id, agenda))


async def confirm_session(tx: Transaction, caller: Principal, session_id: str) -> Session:
    """Agree to a session that the other side proposed."""
    known, pair, member = await _own(tx, caller, session_id)
    program, agreement = await program_of(tx, pair), await agreement_of(tx, pair)
    session = known.confirm(member.participant_id, pair, program, agreement)
    if session is known:
        return session
    tx.put(pair.count_scheduled())
    tx.emit(session.as_scheduled())
    return tx.put(session)


async def move_session(
    tx: Transaction, caller: Principal, session_id: str, time: NewTime
) -> Session:
    """Give a scheduled session another time."""
    known, pair, _ = await _own(tx, caller, session_id)
    session = known.move(time, pair, await program_of(tx, pair))
    if session is not known:
        tx.emit(session.as_moved())
    return _keep(tx, known, session)


async def cancel_session(
    tx: Transaction, caller: Principal, now: datetime, session_id: str
) -> Session:
    """Call a session off."""
    known, _, _ = await _own(tx, caller, session_id)
    return _cancel(tx, known, now)


async def miss_session(
    tx: Transaction, caller: Principal, now: datetime, session_id: str
) -> Session:
    """Record that a session did not take place because somebody did not come."""
    known, _, _ = await _own(tx, caller, session_id)
    session = known.miss(now)
    if session is not known:
        tx.emit(session.as_missed(now))
    return _keep(tx, known, session)


async def hold_session(
    tx: Transaction, caller: Principal, now: datetime, session_id: str, record: Record
) -> Session:
    """Record that a session took place. Published once: what comes later are notes."""
    known, pair, member = await _own(tx, caller, session_id)
    if record.takeaways:
        access.must_be_mentee(pair, member, "takeaways")
    program = await program_of(tx, pair)
    session = known.hold(member.participant_id, record, pair, program, now)
    if known.status != "held":
        tx.emit(session.as_held())
    return _keep(tx, known, session)


async def note_session(
    tx: Transaction, caller: Principal, now: datetime, session_id: str, notes: Notes
) -> Session:
    """Keep what the caller took from a session; publishes nothing."""
    known, pair, member = await _own(tx, caller, session_id)
    if notes.takeaways:
        access.must_be_mentee(pair, member, "takeaways")
    return _keep(tx, known, known.note(member.participant_id, notes, now))


async def take_program(tx: Transaction, event: ProgramPublished, source_version: int) -> None:
    """Follow a program's configuration."""
    known = await tx.get(Program, event.program_id) or Program(id=event.program_id)
    program = known.publish(event, source_version)
    if program is not known:
        tx.put(program)


async def close_program(tx: Transaction, event: ProgramClosed) -> None:
    """Follow a program's end; its pairs' ends follow from matching."""
    known = await tx.get(Program, event.program_id) or Program(id=event.program_id)
    program = known.close()
    if program is not known:
        tx.put(program)


async def form_pair(tx: Transaction, event: Paired, source_version: int) -> None:
    """Take over a new pair, or complete the placeholder of one."""
    known = await _record(tx, event.pair_id, event.program_id)
    pair = known.form(event, source_version)
    if pair is not known:
        tx.put(pair)


async def rest_pair(tx: Transaction, event: PairPaused | PairResumed, source_version: int) -> None:
    """Follow a pair's pause, or its end; sessions stay as they are and wait."""
    known = await _record(tx, event.pair_id, event.program_id)
    paused = isinstance(event, PairPaused)
    pair = known.pause(source_version) if paused else known.resume(source_version)
    if pair is not known:
        tx.put(pair)


async def end_pair(tx: Transaction, event: PairRotated | PairEnded, source_version: int) -> None:
    """Follow a pair's end, and call off what it still had before it."""
    known = await _record(tx, event.pair_id, event.program_id)
    pair = known.end(event.ended_at, source_version)
    if pair is known:
        return
    pair = tx.put(pair)
    while sessions := await open_sessions(tx, pair, _PAGE):
        for session in sessions:
            _cancel(tx, session, event.ended_at)


async def _record(tx: Transaction, pair_id: str, program_id: str) -> PairRecord:
    return await tx.get(PairRecord, pair_id) or PairRecord(id=pair_id, program_id=program_id)


async def _own(
    tx: Transaction, caller: Principal, session_id: str
) -> tuple[Session, PairRecord, Member]:
    session, pair = await session_of(tx, session_id)
    return session, pair, access.must_be_member(caller, pair, session)


def _cancel(tx: Transaction, known: Session, at: datetime) -> Session:
    session = known.cancel()
    if session is not known and known.status == "scheduled":
        tx.emit(session.as_cancelled(at))
    return _keep(tx, known, session)


def _keep(tx: Transaction, known: Session, session: Session) -> Session:
    return session if session is known else tx.put(session)
