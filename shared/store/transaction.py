"""A transaction's unit of work: what it reads over its own writes, and what it wants written."""

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

from shared.clock import Clock, format_instant
from shared.counts import without_zeros
from shared.errors import StaleWriteError, TooLargeError, UnavailableError, raise_not_found
from shared.events.envelope import Envelope, Event, data_schema
from shared.events.topics import MAX_EVENT_BYTES
from shared.ids import new_event_id
from shared.store.conditions import meets, parameter, sort_key
from shared.store.port import (
    NO_CONDITIONS,
    Counters,
    Document,
    Reader,
    Scalar,
    Where,
)
from shared.tracing import current_trace
from shared.turns import in_turns

D = TypeVar("D", bound=Document)

ATTEMPTS = 30
"""How often a transaction runs before a stale write reaches its caller."""

_UNREAD = object()
_AGGREGATE_VERSION = "ce_aggregateversion"


class AskAgainError(Exception):
    """An attempt failed that took for granted what may not be so: the next one asks."""


def pause_before_rerun(attempt: int) -> float:
    """Return the seconds to wait after this attempt, the first being 0; jittered, at most 0.5."""
    return random.uniform(0, min(0.5, 0.002 * 2 ** min(attempt, 8)))  # noqa: S311


@dataclass(frozen=True)
class Origin:
    """What the envelopes of a store's events have in common."""

    source: str
    region: str
    clock: Clock


@dataclass
class Outgoing:
    """A record for the outbox; the commit gives it its place, and its version in its subject."""

    topic: str
    key: str
    value: bytes | None
    headers: list[tuple[str, str]]
    event_id: str
    emitted_at: str
    subject: str | None  # None: a raw record, outside of any aggregate's version sequence

    def versioned(self, version: int) -> list[tuple[str, str]]:
        """Return the headers of an event that is its subject's `version`th."""
        return [*self.headers, (_AGGREGATE_VERSION, str(version))]


@dataclass
class Commit:
    """What a transaction wants written; applied as a whole or not at all."""

    puts: dict[tuple[type[Document], str], Document] = field(default_factory=dict)
    deletes: dict[tuple[type[Document], str], int] = field(default_factory=dict)
    # No other write of the transaction is of one of these documents.
    adds: dict[tuple[type[Document], str], Counters] = field(default_factory=dict)
    # The version each written document had when this transaction began: 0 for a new one.
    bases: dict[tuple[type[Document], str], int] = field(default_factory=dict)
    # Ids of events, in order, by consumer group.
    inbox: defaultdict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    outgoing: list[Outgoing] = field(default_factory=list)
    bodies: dict[tuple[type[Document], str], str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(
            self.puts or self.deletes or self.adds or any(self.inbox.values()) or self.outgoing
        )

    async def encode(self) -> None:
        """Make the bodies. Raises ValueError for a document that could not be read back."""
        async for part in in_turns(self.puts.items()):
            for key, document in part:
                self.bodies[key] = body_of(document)


def body_of(document: Document) -> str:
    """Return a document's JSON. Raises ValueError if it could not be read back."""
    # As `model_dump_json` does, without its own part of each call.
    return document.__pydantic_serializer__.to_json(document, warnings="error").decode()


def _check_names(counters: Counters) -> None:
    for name in counters.counts:
        if not name or "." in name or "\0" in name or name.startswith("$"):
            raise ValueError(f"{type(counters).__name__} can't have a counter named {name!r}")


class SnapshotReads(Reader, Protocol):
    """What an adapter reads for a transaction: one snapshot, without the transaction's writes."""

    async def get_many(self, kind: type[D], document_ids: Collection[str]) -> list[D]:
        """Return those of the documents that there are, in any order."""
        ...

    async def seen(self, group: str, event_ids: Collection[str]) -> set[str]:
        """Return which of these events the group has applied."""
        ...


class BufferedTransaction:
    """One attempt: reads from a snapshot, writes kept until the commit."""

    def __init__(self, origin: Origin, reads: SnapshotReads, *, assume_new: bool) -> None:
        """With `assume_new`, no event is looked up in the inbox; the commit then finds out."""
        self._origin = origin
        self._reads = reads
        self._assume_new = assume_new
        self._assumed = False  # whether that came to be
        self._loaded: defaultdict[type[Document], dict[str, object]] = defaultdict(dict)
        self.commit = Commit()

    @contextmanager
    def asking_again(self) -> Iterator[None]:
        """Raise AskAgainError for what may have failed for taking an old event for new."""
        try:
            yield
        except (UnavailableError, StaleWriteError):
            raise
        except Exception as error:
            if self._assumed:
                raise AskAgainError from error
            raise

    async def get(self, kind: type[D], document_id: str) -> D | None:
        key = (kind, document_id)
        await self._settle(kind)
        if key in self.commit.deletes:
            return None
        known = self.commit.puts.get(key) or self._loaded[kind].get(document_id, _UNREAD)
        if known is _UNREAD:
            return await self._reads.get(kind, document_id)
        return cast("D | None", known)

    async def _settle(self, kind: type[Document]) -> None:
        """Write what was added to counters of a kind as any other document, for they are read."""
        wanted = [key for key in self.commit.adds if key[0] is kind]
        if not wanted:
            return
        of_kind, ids = cast("type[Counters]", kind), [document_id for _, document_id in wanted]
        stored = {each.id: each for each in await self._reads.get_many(of_kind, ids)}
        for key in wanted:
            if (more := self.commit.adds.get(key)) is not None:
                known = stored.get(more.id)
                self.put(more if known is None else known.plus(more))

    async def require(self, kind: type[D], document_id: str) -> D:
        document = await self.get(kind, document_id)
        if document is None:
            raise_not_found(kind.__name__.lower(), document_id)
        return document

    async def get_many(self, kind: type[D], document_ids: Collection[str]) -> dict[str, D]:
        await self._settle(kind)
        wanted = tuple(dict.fromkeys(document_ids))
        if not wanted:
            return {}
        found = {document.id: document for document in await self._reads.get_many(kind, wanted)}
        loaded = self._loaded[kind]
        loaded.update(dict.fromkeys(wanted))
        loaded.update(found)
        for document_id in wanted:
            key = (kind, document_id)
            if (own := self.commit.puts.get(key)) is not None:
                found[document_id] = cast("D", own)
            elif key in self.commit.deletes:
                found.pop(document_id, None)
        return found

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
        await self._settle(kind)
        own = {key[1]: doc for key, doc in self.commit.puts.items() if key[0] is kind}
        gone = {key[1] for key in self.commit.deletes if key[0] is kind}
        stored = await self._reads.find(
            kind,
            where,
            order_by=order_by,
            descending=descending,
            after=after,
            limit=limit + len(own) + len(gone),
        )
        if not own and not gone:
            return stored
        found = [doc for doc in stored if doc.id not in own and doc.id not in gone]
        found += [
            doc
            for doc in own.values()
            if isinstance(doc, kind) and meets(doc.model_dump(mode="json"), where)
        ]
        found.sort(key=lambda doc: sort_key(doc, order_by), reverse=descending)
        if after is not None:
            value = parameter(after[0])
            mark = (value is not None, value if value is not None else 0, after[1])
            if order_by == "id":
                mark = (True, after[1], after[1])
            found = [
                doc
                for doc in found
                if (sort_key(doc, order_by) < mark) == descending
                and sort_key(doc, order_by) != mark
            ]
        return found[:limit]

    async def count(self, kind: type[D], where: Where = NO_CONDITIONS) -> int:
        await self._settle(kind)
        total = await self._reads.count(kind, where)
        touched = [key[1] for key in (*self.commit.puts, *self.commit.deletes) if key[0] is kind]
        for document_id in touched:
            before = await self._reads.get(kind, document_id)
            if before is not None and meets(before.model_dump(mode="json"), where):
                total -= 1
            after = self.commit.puts.get((kind, document_id))
            if after is not None and meets(after.model_dump(mode="json"), where):
                total += 1
        return total

    def put(self, document: D, **fields: object) -> D:
        commit = self.commit
        key = (type(document), document.id)
        if isinstance(document, Counters):
            document, fields = document.changed(**fields), {}
            _check_names(document)
            document = document.changed(counts=without_zeros(document.counts))
            commit.adds.pop(key, None)
        if commit.deletes:
            commit.deletes.pop(key, None)
        base = commit.bases.setdefault(key, document.version)
        # What is deleted and made anew in one transaction goes on counting.
        stored = document.changed(**fields, version=max(base, document.version) + 1)
        commit.puts[key] = stored
        return stored

    def delete(self, document: Document) -> None:
        key = (type(document), document.id)
        base = self.commit.bases.setdefault(key, document.version)
        self.commit.adds.pop(key, None)
        self.commit.puts.pop(key, None)
        if base:
            self.commit.deletes[key] = base

    def add(self, counters: Counters) -> None:
        _check_names(counters)
        counters = counters.changed(version=0)  # whatever is stored: an addition has no base
        key = (type(counters), counters.id)
        known = self.commit.puts.get(key)
        if isinstance(known, Counters):
            self.put(known.plus(counters))
        elif key in self.commit.deletes:
            self.put(counters)
        else:
            before = self.commit.adds.get(key)
            self.commit.adds[key] = counters if before is None else before.plus(counters)

    def emit(self, event: Event, *, unlinked: bool = False) -> None:
        trace = current_trace()
        value = event.model_dump_json().encode()
        if len(value) > MAX_EVENT_BYTES:
            detail = f"{event.type()} of {event.subject} has {len(value)} bytes, too many to tell."
            raise TooLargeError(detail)
        envelope = Envelope(
            id=new_event_id(),
            source=self._origin.source,
            type=event.type(),
            subject=event.subject,
            time=self._origin.clock.now(),
            dataschema=data_schema(event.type()),
            program=event.program_id,
            region=self._origin.region,
            aggregateversion=1,  # the commit puts the real one in its place
            causationid=None if unlinked else trace.causation_id,
            correlationid=None if unlinked else trace.correlation_id,
            traceparent=None if unlinked else trace.traceparent,
        )
        headers = envelope.to_headers()
        del headers[_AGGREGATE_VERSION]
        self.commit.outgoing.append(
            Outgoing(
                topic=event.topic,
                key=event.subject,
                value=value,
                headers=list(headers.items()),
                event_id=envelope.id,
                emitted_at=format_instant(envelope.time),
                subject=event.subject,
            )
        )

    def emit_raw(
        self, topic: str, key: str, value: bytes | None, headers: Sequence[tuple[str, str]]
    ) -> None:
        self.commit.outgoing.append(
            Outgoing(
                topic=topic,
                key=key,
                value=value,
                headers=list(headers),
                event_id=new_event_id(),
                emitted_at=format_instant(self._origin.clock.now()),
                subject=None,
            )
        )

    async def first_times(self, group: str, event_ids: Sequence[str]) -> list[bool]:
        if not event_ids:
            return []
        seen: set[str] = set()
        if self._assume_new:
            self._assumed = True
        else:
            seen = await self._reads.seen(group, event_ids)
        inbox = self.commit.inbox[group]
        found: list[bool] = []
        for event_id in event_ids:
            new = event_id not in seen and event_id not in inbox
            if new:
                inbox[event_id] = None
            found.append(new)
        return found
