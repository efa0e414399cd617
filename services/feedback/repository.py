"""What feedback keeps, and the queries that need a name."""

from collections.abc import AsyncIterator
from typing import Literal

from services.feedback.domain import HeldSession, Pair, Program, Response, Survey
from shared.store.port import Document, Transaction

_PAGE = 500

DOCUMENTS: tuple[type[Document], ...] = (Program, Pair, HeldSession, Survey, Response)


async def waiting_sessions(
    tx: Transaction, waits_for: Literal["pair", "program"], document_id: str
) -> AsyncIterator[HeldSession]:
    """Yield the sessions that wait for this pair or program, by id."""
    where = {f"{waits_for}_id": document_id, "waits_for": waits_for}
    after: tuple[str, str] | None = None
    while sessions := await tx.find(HeldSession, where, after=after, limit=_PAGE):
        for session in sessions:
            yield session
        after = (sessions[-1].id, sessions[-1].id)
