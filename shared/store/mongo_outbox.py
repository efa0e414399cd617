"""The outbox in MongoDB."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from datetime import datetime

from pymongo.operations import UpdateMany

from shared.clock import format_instant, monotonic
from shared.errors import StoreUnavailableError
from shared.store.mongo_driver import Database, Row, Session
from shared.store.mongo_lease import MongoLease
from shared.store.mongo_queries import OUTBOX
from shared.store.port import Lease, OutboxDepth, OutboxRecord

_REPLAY_BATCH = 1000
_LISTEN_AGAIN_SECONDS = 5.0


class MongoOutbox:
    """The outbox of one store.

    A position says when its transaction committed by its replica's clock, but never less than the
    subject's last one: the order within a subject is that of the commits.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._committed = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    def notify(self) -> None:
        """Wake who waits for a commit of this process."""
        self._committed.set()

    async def pending(self, limit: int, *, after: int = 0) -> list[OutboxRecord]:
        """Return unsent records by position, those beyond `after`.

        Another replica's commit may land behind `after`: its subject's later events wait until
        somebody looks from the start, so that they don't overtake it.
        """
        self._committed.clear()
        return await self._database.transact(
            lambda session: self._page(session, limit, after=after)
        )

    async def _page(self, session: Session, limit: int, *, after: int) -> list[OutboxRecord]:
        cursor = after
        while True:
            rows = await self._database.find(
                OUTBOX,
                {"sent": False, "_id": {"$gt": cursor}},
                sort=[("sent", 1), ("_id", 1)],
                limit=limit,
                session=session,
            )
            overtaken = await self._waiting_behind(session, rows, after) if after else set()
            free = [row for row in rows if (row["topic"], row["key"]) not in overtaken]
            if free or len(rows) < limit:
                return [_record(row) for row in free]
            cursor = rows[-1]["_id"]

    async def _waiting_behind(
        self, session: Session, rows: Sequence[Row], after: int
    ) -> set[tuple[str, str]]:
        keys = sorted({row["key"] for row in rows})
        found = await self._database.aggregate(
            OUTBOX,
            [
                {"$match": {"sent": False, "key": {"$in": keys}, "_id": {"$lte": after}}},
                {"$group": {"_id": {"topic": "$topic", "key": "$key"}}},
            ],
            session=session,
        )
        return {(row["_id"]["topic"], row["_id"]["key"]) for row in found}

    async def mark_sent(self, positions: Sequence[int], *, lease: Lease | None = None) -> None:
        """Remember that the bus has acknowledged these, under the lease where there is one."""
        marks = [UpdateMany({"_id": {"$in": list(positions)}}, {"$set": {"sent": True}})]
        if lease is None:
            await self._database.write(OUTBOX, marks)
            return
        assert isinstance(lease, MongoLease)

        async def attempt(session: Session) -> float:
            began_at = monotonic()

            async def write() -> None:
                await lease.fence(session)
                await self._database.write(OUTBOX, marks, session=session)

            await session.commit(write)
            return began_at

        lease.fenced(await self._database.transact(attempt))

    async def wait(self, timeout: float) -> None:
        """Return when something was committed, or after `timeout` seconds.

        Of other replicas' commits a change stream tells. It only wakes: what is to be sent is read
        by its state, so nothing depends on what a stream may have missed.
        """
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._committed.wait(), timeout)

    async def _listen(self) -> None:
        while True:
            # Without a change stream the relay still looks at each end of its wait.
            with contextlib.suppress(StoreUnavailableError):
                async for _ in self._database.insertions(OUTBOX):
                    self._committed.set()
            await asyncio.sleep(_LISTEN_AGAIN_SECONDS)

    async def close(self) -> None:
        """Listen no more."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening

    async def depth(self) -> OutboxDepth:
        """Return how much waits."""
        pending = await self._database.count(OUTBOX, {"sent": False})
        oldest = await self._database.find(
            OUTBOX, {"sent": False}, sort=[("sent", 1), ("_id", 1)], limit=1
        )
        since = datetime.fromisoformat(oldest[0]["committed_at"]) if oldest else None
        return OutboxDepth(pending, since)

    async def replay(self, *, topic: str | None = None, since: datetime | None = None) -> int:
        """Mark sent records as unsent again; return how many.

        From the first to the last, a batch at a time: a relay may follow, but finds no event
        before those that come earlier.
        """
        newest = await self._database.find(OUTBOX, {}, sort=[("_id", -1)], limit=1)
        wanted: Row = {"sent": True}
        if topic is not None:
            wanted["topic"] = topic
        if since is not None:
            wanted["emitted_at"] = {"$gte": format_instant(since)}
        cursor, last, count = 0, newest[0]["_id"] if newest else 0, 0
        while cursor < last:
            rows = await self._database.find(
                OUTBOX,
                wanted | {"_id": {"$gt": cursor, "$lte": last}},
                sort=[("_id", 1)],
                limit=_REPLAY_BATCH,
                fields=["_id"],
            )
            if not rows:
                break
            count += await self._unmark([row["_id"] for row in rows])
            cursor = rows[-1]["_id"]
        self.notify()
        return count

    async def _unmark(self, positions: Sequence[int]) -> int:
        unmark = UpdateMany({"_id": {"$in": positions}}, {"$set": {"sent": False}})

        async def attempt(session: Session) -> int:
            async def write() -> int:
                return (await self._database.write(OUTBOX, [unmark], session=session)).modified

            return await session.commit(write)

        return await self._database.transact(attempt)


def _record(row: Row) -> OutboxRecord:
    return OutboxRecord(
        position=row["_id"],
        event_id=row["event_id"],
        topic=row["topic"],
        key=row["key"],
        value=row["value"],
        headers=tuple((name, text) for name, text in json.loads(row["headers"])),
    )
