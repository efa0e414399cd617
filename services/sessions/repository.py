"""What sessions keep, and the queries that need a name."""

from collections.abc import Sequence

from services.sessions.domain.agreement import Agreement
from services.sessions.domain.pair import PairRecord
from services.sessions.domain.program import Program
from services.sessions.domain.session import Session
from shared.errors import raise_not_found
from shared.store.port import Document, In, Reader

DOCUMENTS: tuple[type[Document], ...] = (Program, PairRecord, Agreement, Session)

_OPEN = In(("planned", "scheduled"))


async def pair_of(reader: Reader, pair_id: str) -> PairRecord:
    """Return a pair, a placeholder too; raise NotFoundError without one."""
    pair = await reader.get(PairRecord, pair_id)
    if pair is None:
        raise_not_found("pair", pair_id)
    return pair


async def session_of(reader: Reader, session_id: str) -> tuple[Session, PairRecord]:
    """Return a session with its pair; raise NotFoundError without one."""
    session = await reader.get(Session, session_id)
    if session is None:
        raise_not_found("session", session_id)
    return session, await reader.require(PairRecord, session.pair_id)


async def program_of(reader: Reader, pair: PairRecord) -> Program:
    """Return the pair's program, a placeholder while it is unknown."""
    return await reader.get(Program, pair.program_id) or Program(id=pair.program_id)


async def agreement_of(reader: Reader, pair: PairRecord) -> Agreement:
    """Return the pair's agreement, an empty one while nobody has agreed."""
    return await reader.get(Agreement, pair.id) or Agreement.open(pair)


async def agreed_among(reader: Reader, pairs: Sequence[PairRecord]) -> frozenset[str]:
    """Return the ids of those pairs whose ground rules all members agreed to."""
    ids = In(tuple(pair.id for pair in pairs))
    found = await reader.find(Agreement, {"id": ids}, limit=len(pairs))
    return frozenset(agreement.id for agreement in found if agreement.agreed)


async def open_sessions(reader: Reader, pair: PairRecord, limit: int) -> list[Session]:
    """Return the pair's planned and scheduled sessions, the earliest first."""
    return await reader.find(
        Session, {"pair_id": pair.id, "status": _OPEN}, order_by="starts_at", limit=limit
    )
