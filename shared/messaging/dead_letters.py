"""Dead letters: what could not be processed, as received, with its reason, until somebody acts."""

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Literal, NamedTuple, Protocol

from shared.clock import Instant, format_instant
from shared.events.topics import dead_letter_topic
from shared.ids import derived_id
from shared.store.port import Document, Index, Transaction

_MAX_VALUE = 640 * 1024
_MAX_HEADERS = 256 * 1024

Headers = Sequence[tuple[str, bytes | None]]


class ReceivedRecord(Protocol):
    """What a record is read from, such as the client's own."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class RawRecord(NamedTuple):
    """A record as it came from the bus."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class DeadLetter(Document):
    """A record that the service could not process. Bytes are kept in base64."""

    collection: ClassVar[str] = "dead_letters"
    indexes: ClassVar[tuple[Index, ...]] = (Index(("state", "last_at")),)

    state: Literal["open", "retried", "dropped"] = "open"
    reason: str
    topic: str
    partition: int
    offset: int
    consumer_group: str
    attempts: int
    first_at: Instant
    last_at: Instant
    key: str | None
    value: str | None
    headers: tuple[tuple[str, str | None], ...]

    def raw(self) -> RawRecord:
        """Return the record as it was received."""
        return RawRecord(
            topic=self.topic,
            partition=self.partition,
            offset=self.offset,
            key=_decode(self.key),
            value=_decode(self.value),
            headers=tuple((name, _decode(value)) for name, value in self.headers),
        )


def _encode(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _decode(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)


async def bury(
    tx: Transaction,
    record: ReceivedRecord,
    *,
    service: str,
    group: str,
    reason: str,
    attempts: int,
    now: datetime,
) -> None:
    """Keep the record with its reason, and publish it on the service's dead-letter topic.

    The same record buried again (a redelivery) is left as it is.
    """
    place = f"{record.topic}/{record.partition}/{record.offset}"
    letter_id = derived_id("dl", group, place)
    if await tx.get(DeadLetter, letter_id) is not None:
        return
    letter = tx.put(
        DeadLetter(
            id=letter_id,
            reason=reason,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            consumer_group=group,
            attempts=attempts,
            first_at=now,
            last_at=now,
            key=_encode(record.key),
            value=_encode(record.value),
            headers=tuple((name, _encode(value)) for name, value in record.headers),
        )
    )
    headers, value, left_out = json.dumps(letter.headers), record.value, []
    # A bus takes some 1 MiB; what is larger would wait in the outbox for ever. The letter has all.
    if len(headers) > _MAX_HEADERS:
        headers = "[]"
        left_out.append("headers")
    if value is not None and len(value) > _MAX_VALUE:
        value = None
        left_out.append("value")
    tx.emit_raw(
        dead_letter_topic(service),
        key=letter.id,
        value=value,
        headers=[
            ("dlq_reason", reason),
            ("dlq_topic", record.topic),
            ("dlq_partition", str(record.partition)),
            ("dlq_offset", str(record.offset)),
            ("dlq_group", group),
            ("dlq_attempts", str(attempts)),
            ("dlq_first_at", format_instant(now)),
            ("dlq_last_at", format_instant(now)),
            # Received headers may be null or not UTF-8, which no client library agrees on how to
            # send: they travel whole, as JSON with base64 values.
            *([] if letter.key is None else [("dlq_key", letter.key)]),
            ("dlq_headers", headers),
            *([("dlq_left_out", " ".join(left_out))] if left_out else []),
        ],
    )
