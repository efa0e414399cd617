"""What matching keeps, and the queries that need a name."""

from collections.abc import AsyncIterator
from typing import TypeVar

from services.matching.domain.pair import Pair
from services.matching.domain.pool import PoolMember
from services.matching.domain.preview import Preview
from services.matching.domain.program import Program
from services.matching.domain.round import Round, RoundPart, RoundProgress
from shared.errors import raise_not_found
from shared.store.port import NO_CONDITIONS, Contains, Document, In, Reader, Where
from shared.turns import in_turns

D = TypeVar("D", bound=Document)

DOCUMENTS: tuple[type[Document], ...] = (
    Program,
    PoolMember,
    Round,
    RoundPart,
    RoundProgress,
    Preview,
    Pair,
)

OPEN_STATUSES = In(("proposed", "active", "paused"))
LIVING_STATUSES = In(("active", "paused"))
TURN = 25
"""So many documents at once, for a little is done with each; then others have their turn."""
_PAGE = 200


async def every(
    reader: Reader,
    kind: type[D],
    where: Where = NO_CONDITIONS,
    order_by: str = "id",
    at_once: int = _PAGE,
) -> AsyncIterator[D]:
    """Yield all documents that meet the conditions, page by page of so many at once.

    It only goes forward: one that still meets them after its turn does not come again.
    """
    after = None
    while found := await reader.find(kind, where, order_by=order_by, after=after, limit=at_once):
        async for part in in_turns(found, TURN):
            for document in part:
                yield document
        after = (getattr(found[-1], order_by), found[-1].id)


def pool(reader: Reader, program_id: str) -> AsyncIterator[PoolMember]:
    """Yield everybody who is enrolled in a program, by id."""
    return every(reader, PoolMember, {"program_id": program_id, "status": "enrolled"})


async def free_in(reader: Reader, program_id: str) -> AsyncIterator[PoolMember]:
    """Yield everybody whom a round of the program could match, by id."""
    async for member in pool(reader, program_id):
        if member.free_roles:
            yield member


async def open_pairs_of(reader: Reader, participant_id: str) -> list[Pair]:
    """Return a participant's proposals and living pairs."""
    where: Where = {"participant_ids": Contains(participant_id), "status": OPEN_STATUSES}
    return await reader.find(Pair, where)


async def members_of(reader: Reader, pair: Pair) -> dict[str, PoolMember]:
    """Return the pair's members by participant id."""
    return {
        participant_id: await reader.require(PoolMember, participant_id)
        for participant_id in pair.participant_ids
    }


async def own_member(reader: Reader, program_id: str, person_id: str) -> PoolMember | None:
    """Return a person's place in a program's pool, or None."""
    found = await reader.find(
        PoolMember, {"person_id": person_id, "program_id": program_id}, limit=1
    )
    return found[0] if found else None


async def require_program(reader: Reader, program_id: str) -> Program:
    """Return a program whose configuration has arrived. Raises NotFoundError.

    A pair has such a program: it was proposed under its configuration.
    """
    program = await reader.get(Program, program_id)
    if program is None or program.published is None:
        raise_not_found("program", program_id)
    return program
