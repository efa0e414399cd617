"""The store port: documents with versions, transactions, an outbox and an inbox.

Two adapters stand behind it, SQLite (embedded) and MongoDB (cluster), under one contract suite;
services never know which one they run on.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, ClassVar, Concatenate, ParamSpec, Protocol, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.counts import merge, without_zeros
from shared.events.envelope import Event
from shared.frozen import of_checked


@dataclass(frozen=True)
class Index:
    """An index that a document declares; `many` indexes every item of one list field.

    A unique index compares known values: any number of documents may have null.
    """

    fields: tuple[str, ...]
    unique: bool = False
    many: bool = False


class Document(BaseModel):
    """What a service keeps: frozen, changed by `model_copy` or a domain method, then `tx.put`.

    `version` counts the writes; 0 means never stored. Only declared indexes make a query cheap.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    collection: ClassVar[str]
    indexes: ClassVar[tuple[Index, ...]] = ()

    id: str
    version: int = 0

    def changed(self, **fields: object) -> Self:
        """Return a copy with these fields; validated when it is stored and read back."""
        return of_checked(type(self), self.__dict__ | fields)


class Counters(Document):
    """A document with counters by name, to which `Transaction.add` adds without reading it.

    A counter of zero is as good as none: neither is seen in `counts`. A name has no dot, and no $
    before it: MongoDB's updates would take it for a path.
    """

    counts: Annotated[dict[str, int], AfterValidator(without_zeros)] = Field(default_factory=dict)

    def plus(self, other: Self) -> Self:
        """Return these counters with those of the other added."""
        return self.changed(counts=merge(self.counts, other.counts))


Scalar = str | int | float | bool | datetime | None


@dataclass(frozen=True)
class In:
    """The field equals one of these."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class AtMost:
    """The field is known and at most this (a time: at this moment or before)."""

    value: str | int | float | datetime


@dataclass(frozen=True)
class MoreThan:
    """The field is known and more than this (a time: later)."""

    value: str | int | float | datetime


@dataclass(frozen=True)
class Contains:
    """The list field holds this item."""

    value: str


Condition = Scalar | In | AtMost | MoreThan | Contains
Where = Mapping[str, Condition]
"""Conditions by field, all of which hold; a plain value means equality."""
NO_CONDITIONS: Where = MappingProxyType({})


@dataclass(frozen=True)
class OutboxRecord:
    """A record to publish, as it goes on the wire. `position` is its place in commit order."""

    position: int
    event_id: str
    topic: str
    key: str
    value: bytes | None
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class OutboxDepth:
    """How much waits to be published, and since when the oldest does (wall-clock time)."""

    pending: int
    oldest: datetime | None


D = TypeVar("D", bound=Document)
T = TypeVar("T")
P = ParamSpec("P")


class Reader(Protocol):
    """Reads that both a store and a transaction offer."""

    async def get(self, kind: type[D], document_id: str) -> D | None:
        """Return the document, or None."""
        ...

    async def require(self, kind: type[D], document_id: str) -> D:
        """Return the document; raise NotFoundError without one."""
        ...

    async def find(
        self,
        kind: type[D],
        where: Where = NO_CONDITIONS,
        *,
        order_by: str = "id",
        descending: bool = False,
        after: tuple[Scalar, str] | None = None,
        limit: int = 1000,
    ) -> list[D]:
        """Return the documents that meet all conditions, by `order_by`, then `id`.

        `after` is the (order_by value, id) of the last one already seen: the cursor of a page.
        A document whose `order_by` field is null sorts before all others.
        """
        ...

    async def count(self, kind: type[D], where: Where = NO_CONDITIONS) -> int:
        """Return how many documents meet all conditions."""
        ...


class Transaction(Reader, Protocol):
    """All or nothing: reads see one snapshot and this transaction's own writes."""

    def put(self, document: D, **fields: object) -> D:
        """Write the document, with these fields changed, at commit; return it as it is written.

        The commit fails with StaleWriteError if the stored version is not the one that was loaded.
        """
        ...

    def delete(self, document: Document) -> None:
        """Remove the document at commit; version-checked as `put` is."""
        ...

    def add(self, counters: Counters) -> None:
        """Add to the counters stored under this id at commit; store these where there are none.

        Fields beside `counts` are written with the first of them only. Nobody's version is checked,
        for additions have no order. Raises ValueError for a name that no counter can have.
        """
        ...

    def emit(self, event: Event, *, unlinked: bool = False) -> None:
        """Publish the event if, and only if, the transaction commits.

        `unlinked` leaves out causation and correlation where they would tell who did it. Raises
        TooLargeError for an event that every consumer would refuse.
        """
        ...

    def emit_raw(
        self, topic: str, key: str, value: bytes | None, headers: Sequence[tuple[str, str]]
    ) -> None:
        """Publish bytes as they are (a dead letter) if the transaction commits."""
        ...

    async def first_times(self, group: str, event_ids: Sequence[str]) -> list[bool]:
        """Record that `group` applies these events (the inbox).

        Returns for each of them, in their order, whether it was not applied before.
        """
        ...

    async def get_many(self, kind: type[D], document_ids: Collection[str]) -> dict[str, D]:
        """Return, by id, those of the documents that there are.

        They are read at once, and `get` asks the store for none of these ids again.
        """
        ...


class Outbox(Protocol):
    """Committed events on their way to the bus. Sent ones are kept: the service's own archive."""

    async def pending(self, limit: int, *, after: int = 0) -> list[OutboxRecord]:
        """Return unsent records in commit order, those beyond position `after`."""
        ...

    async def mark_sent(self, positions: Sequence[int], *, lease: "Lease | None" = None) -> None:
        """Remember that the bus has acknowledged these.

        With a lease, only while it is held: raises LeaseLostError, and marks nothing, where
        another holder has taken it over.
        """
        ...

    async def wait(self, timeout: float) -> None:
        """Return when something was committed, or after `timeout` seconds."""
        ...

    async def depth(self) -> OutboxDepth:
        """Return how much waits."""
        ...

    async def replay(self, *, topic: str | None = None, since: datetime | None = None) -> int:
        """Mark sent records as unsent again, in their order; return how many.

        `since` is compared with the time at which the service emitted them.
        """
        ...


class Lease(Protocol):
    """A right that one process of a service holds at a time, by the store's own clock.

    A lease is no mutual exclusion: a holder that slept may act after another took over. Whoever
    acts under it either repeats harmlessly or is fenced by `epoch`, which every taking over raises.
    """

    @property
    def epoch(self) -> int:
        """How often the lease changed hands, as this process knows it; 0 before it ever held it."""
        ...

    def held(self) -> bool:
        """Return whether this process may still act, with a margin before the lease expires."""
        ...

    async def hold(self, note: str | None = None) -> bool:
        """Take or renew the lease; return whether it is ours now.

        A holder's `note` is kept for everybody to read. Raises StoreUnavailableError.
        """
        ...

    async def note(self) -> str:
        """Return what the last holder noted; empty before there was one."""
        ...

    async def release(self) -> None:
        """Give the lease up, so that the next one need not wait for its expiry; never raises."""
        ...


class Store(Reader, Protocol):
    """A service's own documents. Nobody else reads them."""

    @property
    def events_at_once(self) -> int:
        """How many events a consumer should apply in one transaction where so many wait."""
        ...

    @property
    def outbox(self) -> Outbox:
        """The committed events."""
        ...

    def lease(self, name: str) -> Lease:
        """Return the service's lease of this name, not yet held."""
        ...

    async def open(self, kinds: Sequence[type[Document]]) -> None:
        """Connect to the store of these kinds. Raises StoreUnavailableError.

        An embedded store creates what is missing in it; a cluster's is migrated at deploy.
        """
        ...

    async def close(self) -> None:
        """Finish commits under way and disconnect; safe to call twice."""
        ...

    async def ping(self) -> bool:
        """Return whether the store answers; never raises."""
        ...

    async def transact(
        self,
        handler: Callable[Concatenate[Transaction, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `handler(tx, …)` and commit; on a stale write run it again from its start.

        The handler may run more than once, so it does no I/O but through `tx`. Raises what the
        handler raises (nothing is then committed), UniqueViolationError, StoreUnavailableError, or
        StaleWriteError after the last attempt.
        """
        ...

    async def clear(
        self, kinds: Sequence[type[Document]], *, inbox_group: str | None = None
    ) -> None:
        """Delete all documents of these kinds, and a group's inbox: the start of a rebuild."""
        ...
