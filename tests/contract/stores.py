"""The stores under the contract suite: what a test may ask of any of them, and what they keep."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pymongo
import pytest
from pymongo.errors import OperationFailure

from shared.clock import Clock, Instant
from shared.events.programs import ProgramClosed
from shared.store.mongo import MongoStore
from shared.store.port import Counters, Document, Index, Store, Transaction
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


class Votes(Counters):
    """Counters to which many add."""

    collection: ClassVar[str] = "votes"
    indexes: ClassVar[tuple[Index, ...]] = (Index(("motion",), unique=True),)

    motion: str | None = None


KINDS: tuple[type[Document], ...] = (Card, Tally, Votes)


class OpenStores(Protocol):
    """How a test gets at stores on the same documents."""

    @property
    def address(self) -> str:
        """Where they are, for `stores_at` in another process."""

    def unusable(self) -> "Sequence[OpenStores]":
        """Return stores that no `open` can open."""

    async def open(self, kinds: Sequence[type[Document]] = KINDS) -> Store:
        """Return an open store; a second one sees the first one's documents."""

    async def fill_up(self, store: Store) -> None:
        """Leave the store no space."""

    async def make_room(self, store: Store) -> None:
        """Give the space back."""

    async def end_transactions(self) -> None:
        """End those of a process that was killed, which a server would keep for a minute."""

    async def close(self) -> None:
        """Close what is open."""


class SqliteStores:
    """SQLite files."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._open: list[SqliteStore] = []

    @property
    def address(self) -> str:
        return str(self._path)

    def unusable(self) -> Sequence[OpenStores]:
        corrupt = self._path.with_name("corrupt.db")
        corrupt.write_bytes(b"this is no database" * 1000)
        return [
            SqliteStores(corrupt, self._clock),
            SqliteStores(corrupt / "below-a-file.db", self._clock),
        ]

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

    async def end_transactions(self) -> None:
        """The file's locks ended with the process."""

    def _limit_pages(self, store: Store, pages: int) -> None:
        assert isinstance(store, SqliteStore)
        store._open.writer._connection.execute(f"PRAGMA max_page_count = {pages}")

    async def close(self) -> None:
        for store in self._open:
            await store.close()


_DISK_IS_FULL = 14031
_NO_SUCH_COMMAND = 59


class MongoStores:
    """One database of a MongoDB-compatible server, migrated for the kinds it is opened with."""

    def __init__(self, uri: str, clock: Clock, database: str | None = None) -> None:
        self.uri = uri
        self.database = database or f"test_{uuid.uuid4().hex[:12]}"
        self._clock = clock
        self._open: list[MongoStore] = []
        self.client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)

    @property
    def address(self) -> str:
        return f"{self.database}@{self.uri}"

    def unusable(self) -> Sequence[OpenStores]:
        return [MongoStores("mongodb://127.0.0.1:1/?replicaSet=nobody", self._clock, "none")]

    def store(self, uri: str | None = None) -> MongoStore:
        """Return one that is neither migrated nor open."""
        return MongoStore(
            uri or self.uri,
            database=self.database,
            service="matching",
            region="local",
            clock=self._clock,
        )

    async def open(self, kinds: Sequence[type[Document]] = KINDS) -> MongoStore:
        store = self.store()
        await store.migrate(kinds)
        await store.open(kinds)
        self._open.append(store)
        return store

    async def fill_up(self, store: Store) -> None:
        commands = ["insert", "update", "delete", "findAndModify"]
        self.fail(commands, "alwaysOn", errorCode=_DISK_IS_FULL)

    async def make_room(self, store: Store) -> None:
        self.heal()

    def fail(self, commands: Sequence[str], mode: object, **how: object) -> None:
        """Have the server fail these commands of a store. Skips where it has no such switch."""
        data = {"failCommands": list(commands), "appName": "upward-matching", **how}
        try:
            self.client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
        except OperationFailure as error:
            if error.code != _NO_SUCH_COMMAND:
                raise
            pytest.skip("the server was started without test commands, so it can't be made to fail")

    def heal(self) -> None:
        """End what `fail` began."""
        self.client.admin.command("configureFailPoint", "failCommand", mode="off")

    async def end_transactions(self) -> None:
        self.client.admin.command("killAllSessions", [])

    async def close(self) -> None:
        for store in self._open:
            await store.close()
        self.client.drop_database(self.database)
        self.client.close()


def stores_at(address: str, clock: Clock) -> OpenStores:
    """Return the stores that another process's `address` names."""
    database, at, uri = address.partition("@mongodb://")
    return (
        MongoStores(f"mongodb://{uri}", clock, database)
        if at
        else SqliteStores(Path(address), clock)
    )


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
