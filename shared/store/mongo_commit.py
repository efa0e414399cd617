"""Writing what a transaction wants written, in MongoDB, in few round trips."""

import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from pymongo.operations import DeleteOne, InsertOne, ReplaceOne, UpdateOne

from shared.clock import format_instant
from shared.errors import StaleWriteError, UniqueViolationError
from shared.store.mongo_driver import Database, Row, Session, Write, Written
from shared.store.mongo_queries import INBOX, OUTBOX, STREAMS, inbox_id, to_row
from shared.store.port import Document
from shared.store.transaction import Commit, Outgoing, body_of

_RANDOM_BITS = 11


async def apply_commit(database: Database, session: Session, commit: Commit) -> None:
    """Write all that a transaction wants written.

    Raises StaleWriteError, UniqueViolationError and TooLargeError.
    """
    for kind in dict.fromkeys(key[0] for key in (*commit.deletes, *commit.puts)):
        await _write_kind(database, session, commit, kind)
    for kind in dict.fromkeys(kind for kind, _ in commit.adds):
        await _add_kind(database, session, commit, kind)
    rows: list[Write] = [
        InsertOne({"_id": inbox_id(group, event_id)})
        for group, event_ids in commit.inbox.items()
        for event_id in event_ids
    ]
    if rows:
        await database.write(INBOX, rows, session=session)
    if commit.outgoing:
        await _write_outgoing(database, session, commit.outgoing)


async def _write_kind(
    database: Database, session: Session, commit: Commit, kind: type[Document]
) -> None:
    deletes = [
        DeleteOne({"_id": document_id, "version": version})
        for (of, document_id), version in commit.deletes.items()
        if of is kind
    ]
    replaces: list[ReplaceOne[Row]] = []
    inserts: list[InsertOne[Row]] = []
    for (of, document_id), body in commit.bodies.items():
        if of is kind:
            row, base = to_row(document_id, body), commit.bases[of, document_id]
            if base:
                replaces.append(ReplaceOne({"_id": document_id, "version": base}, row))
            else:
                inserts.append(InsertOne(row))
    # In this order a unique value is free before another document takes it.
    written = await _write(database, session, kind, [*deletes, *replaces, *inserts])
    if written.deleted != len(deletes) or written.matched != len(replaces):
        raise StaleWriteError(f"some of {kind.collection} changed meanwhile")


async def _write(
    database: Database, session: Session, kind: type[Document], writes: Sequence[Write]
) -> Written:
    try:
        return await database.write(kind.collection, writes, session=session)
    except UniqueViolationError as error:
        detail = f"another {kind.__name__.lower()} already has the same value"
        raise UniqueViolationError(detail) from error


async def _add_kind(
    database: Database, session: Session, commit: Commit, kind: type[Document]
) -> None:
    updates: list[Write] = []
    for counters in (each for (of, _), each in commit.adds.items() if of is kind):
        row = to_row(counters.id, body_of(counters))
        where = {"_id": row.pop("_id")}
        amounts = {f"counts.{name}": amount for name, amount in row.pop("counts").items()}
        del row["version"]
        change: Row = {"$inc": amounts | {"version": 1}}
        if row:
            change["$setOnInsert"] = row
        updates.append(UpdateOne(where, change, upsert=True))
    await _write(database, session, kind, updates)


def _position_now() -> int:
    """Return a position by this process's wall clock: microseconds, then some random bits."""
    return (time.time_ns() // 1000 << _RANDOM_BITS) | random.getrandbits(_RANDOM_BITS)


async def _write_outgoing(
    database: Database, session: Session, outgoing: Sequence[Outgoing]
) -> None:
    events = Counter(record.subject for record in outgoing if record.subject is not None)
    if len(events) == 1:
        first, versions = await _advance_one(database, session, events, len(outgoing))
    elif events:
        first, versions = await _advance(database, session, events, len(outgoing))
    else:
        first, versions = _position_now(), {}
    committed_at = format_instant(datetime.now(UTC))
    rows: list[Write] = []
    for position, record in zip(itertools.count(first), outgoing, strict=False):
        headers = record.headers
        if record.subject is not None:
            versions[record.subject] += 1
            headers = record.versioned(versions[record.subject])
        row = {
            "_id": position,
            "event_id": record.event_id,
            "topic": record.topic,
            "key": record.key,
            "value": record.value,
            "headers": json.dumps(headers, ensure_ascii=False),
            "emitted_at": record.emitted_at,
            "committed_at": committed_at,
            "sent": False,
        }
        rows.append(InsertOne(row))
    await database.write(OUTBOX, rows, session=session)


async def _advance(
    database: Database, session: Session, events: Counter[str], records: int
) -> tuple[int, dict[str, int]]:
    """Take places in the outbox behind all of these subjects' earlier events.

    Returns the first of `records` places in a row, and each subject's version so far. The clocks
    of two replicas may differ: what keeps a subject's order is its stream, which every transaction
    that tells of it writes.
    """
    known = await database.find(STREAMS, {"_id": {"$in": list(events)}}, session=session)
    first = max((_position_now(), *(stream["position"] + 1 for stream in known)))
    versions = dict.fromkeys(events, 0) | {stream["_id"]: stream["version"] for stream in known}
    last = first + records - 1
    old: list[Write] = [
        UpdateOne(
            {"_id": subject},
            {"$set": {"version": versions[subject] + events[subject], "position": last}},
        )
        for subject in (stream["_id"] for stream in known)
    ]
    new: list[Write] = [
        InsertOne({"_id": subject, "version": number, "position": last})
        for subject, number in events.items()
        if not versions[subject]
    ]
    await database.write(STREAMS, [*old, *new], session=session)
    return first, versions


async def _advance_one(
    database: Database, session: Session, events: Counter[str], records: int
) -> tuple[int, dict[str, int]]:
    """Do as `_advance` in one request: nearly every command tells of one subject."""
    ((subject, number),) = events.items()
    first = {"$max": [_position_now(), {"$add": ["$position", 1]}]}
    change = {
        "version": {"$add": [{"$ifNull": ["$version", 0]}, number]},
        "position": {"$add": [first, records - 1]},
    }
    stream = await database.find_and_update(
        STREAMS, {"_id": subject}, [{"$set": change}], upsert=True, session=session
    )
    assert stream is not None
    return stream["position"] - records + 1, {subject: stream["version"] - number}
