"""The stores under the contract suite: what a test may ask of any of them, and what they keep."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Protocol

from shared.clock import Clock, Instant
from shared.events.programs import ProgramClosed
from shared.store.port import Document, Index, Store, Transaction
from shared.store.sqlite import SqliteStore


class Card(Document):
    """A document with a field of every kind that a query may ask for."""

    collection: ClassVar[str] = "cards"
    indexes: ClassVar[tuple[Index, ...]] = (
        Index(("email",), unique=True),
        Index(("color", "rank")),
        Index(("rank",)),
        Index(("due",)),
        Index(("tags",), many=True),
    )

    email: str | None = None
    color: str | None = None
    rank: int | None = None
    due: Instant | None = None
    open: bool = True
    tags: tuple[str, ...] = ()


class Tally(Document):
    """A counter that many write."""

    collection: ClassVar[str] = "tallies"

    count: int = 0


KINDS: tuple[type[Document], ...] = (Card, Tally)


class OpenStores(Protocol):
    """How a test gets at stores on the same documents."""

    async def open(self, kinds: Sequence[type[Document]] = KINDS) -> Store:
        """Return an open store; a second one sees the first one's documents."""

    async def fill_up(self, store: Store) -> None:
        """Leave the store no space."""

    async def make_room(self, store: Store) -> None:
        """Give the space back."""

    async def close(self) -> None:
        """Close what is open."""


class SqliteStores:
    """SQLite files."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._open: list[SqliteStore] = []

    async def open(self, kinds: Sequence[type[Document]] = KINDS) -> Store:
        store = SqliteStore(self._path, service="matching", region="local", clock=self._clock)
        await store.open(kinds)
        self._open.append(store)
        return store

    async def fill_up(self, store: Store) -> None:
        # SQLite's own limit gives the same error as a full disk, on any machine and file system;
        # one page is fewer than there are, so the file may not grow at all.
        self._limit_pages(store, 1)

    async def make_room(self, store: Store) -> None:
        self._limit_pages(store, 2**30)

    def _limit_pages(self, store: Store, pages: int) -> None:
        assert isinstance(store, SqliteStore)
        store._open.writer._connection.execute(f"PRAGMA max_page_count = {pages}")

    async def close(self) -> None:
        for store in self._open:
            await store.close()


def closed(program_id: str, version: int = 1) -> ProgramClosed:
    """Return an event of a program."""
    return ProgramClosed(program_id=program_id, version=version)


async def put_cards(tx: Transaction, *cards: Card) -> list[Card]:
    """Write the cards."""
    return [tx.put(card) for card in cards]


async def add_one(tx: Transaction, tally_id: str, events: int = 0) -> int:
    """Count up, and tell it."""
    tally = await tx.get(Tally, tally_id) or Tally(id=tally_id)
    tally = tx.put(tally.changed(count=tally.count + 1))
    for _ in range(events):
        tx.emit(closed(tally_id, tally.count))
    return tally.count


START = datetime.fromisoformat("2026-01-05T08:00:00Z")
