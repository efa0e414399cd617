"""What reporting keeps: facts, the people seen, and the buckets that answers are made of."""

from functools import lru_cache
from typing import ClassVar

from services.reporting.domain import (
    PairFact,
    ParticipantFact,
    PersonFact,
    ProgramFact,
    RespondentFact,
    RosterFact,
)
from services.reporting.kpis.bucket import Bucket, Cell, Kind
from shared.ids import derived_id
from shared.store.port import Counters, Document, Index, Reader, Store

_PAGE = 1000


class StoredBucket(Counters):
    """One bucket: small, so that an event rewrites little however many values a dimension has."""

    collection: ClassVar[str] = "buckets"
    indexes: ClassVar[tuple[Index, ...]] = (Index(("program_id", "kind")),)

    program_id: str
    kind: Kind
    value: str


@lru_cache(maxsize=10_000)
def bucket_id(program_id: str, cell: Cell) -> str:
    """Return the id of a cell's bucket; names of departments are no ids."""
    return derived_id("b", program_id, *cell)


DOCUMENTS: tuple[type[Document], ...] = (
    ProgramFact,
    RosterFact,
    ParticipantFact,
    PairFact,
    PersonFact,
    RespondentFact,
    StoredBucket,
)


async def buckets(reader: Reader, program_id: str, kind: Kind) -> dict[str, Bucket]:
    """Return a program's buckets of one dimension, by value, but those in which nothing counts."""
    found: dict[str, Bucket] = {}
    after: tuple[str, str] | None = None
    where = {"program_id": program_id, "kind": kind}
    while True:
        page = await reader.find(StoredBucket, where, after=after, limit=_PAGE)
        found |= {bucket.value: bucket.counts for bucket in page if bucket.counts}
        if len(page) < _PAGE:
            return found
        after = (page[-1].id, page[-1].id)


async def rebuild(store: Store, group: str) -> None:
    """Forget everything that was learned from events, and that it was learned.

    The consumer of `group` must be stopped before, and read its topics from their beginning after:
    the figures are then the same again. Dead letters and their history are kept.
    """
    await store.clear(DOCUMENTS, inbox_group=group)
