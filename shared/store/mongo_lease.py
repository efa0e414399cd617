"""Leases in MongoDB, by the server's clock."""

import contextlib
from collections.abc import Callable
from typing import Any

from pymongo.operations import UpdateOne

from shared.clock import monotonic
from shared.errors import LeaseLostError, StoreUnavailableError
from shared.store.mongo_driver import Database, Row, Session
from shared.store.mongo_queries import LEASES

# By the server's clock a lease lasts this long; the holder believes in it for less, by its own.
_LEASE_SECONDS = 15
_MARGIN_SECONDS = 5.0
# The server's clock, in milliseconds: numbers compare alike on every server that speaks MongoDB.
_NOW = {"$toLong": "$$NOW"}


class MongoLease:
    """One document, which whoever holds the lease renews by the server's clock."""

    def __init__(self, name: str, owner: str, database: Callable[[], Database]) -> None:
        self.epoch = 0
        self._name = name
        self._owner = owner
        self._database = database
        self._renewed_at = float("-inf")
        self._held = False
        self._note: str | None = None

    def held(self) -> bool:
        """Return whether this process may still act, with a margin before the lease expires."""
        return self._held and self._age() < _LEASE_SECONDS - _MARGIN_SECONDS

    def _age(self) -> float:
        return monotonic() - self._renewed_at

    async def hold(self, note: str | None = None) -> bool:
        """Take or renew the lease; ask the server only when it is time or the note is new."""
        news = note is not None and note != self._note
        if self.held() and not news and self._age() < _LEASE_SECONDS / 3:
            return True
        row = await self._take(note)
        if row is None and await self._make():
            row = await self._take(note)
        if row is not None and news:
            self._note = note
        return self.held()

    async def _take(self, note: str | None) -> Row | None:
        asked_at = monotonic()
        row = await self._database().find_and_update(
            LEASES,
            {
                "_id": self._name,
                "$or": [{"owner": self._owner}, {"$expr": {"$lt": ["$expires", _NOW]}}],
            },
            [{"$set": self._renewal() | ({} if note is None else {"note": {"$literal": note}})}],
        )
        self._held = row is not None
        if row is not None:
            self.epoch, self._renewed_at = row["epoch"], asked_at
        return row

    def _renewal(self) -> dict[str, Any]:
        mine = {"$eq": ["$owner", self._owner]}
        return {
            "owner": self._owner,
            "epoch": {"$cond": [mine, "$epoch", {"$add": ["$epoch", 1]}]},
            "expires": {"$add": [_NOW, _LEASE_SECONDS * 1000]},
        }

    async def _make(self) -> bool:
        """Store the lease, expired, where there is none yet; return whether there was none."""
        row = {"owner": "", "epoch": 0, "expires": 0, "note": ""}
        made = await self._database().write(
            LEASES, [UpdateOne({"_id": self._name}, {"$setOnInsert": row}, upsert=True)]
        )
        return not made.matched

    async def fence(self, session: Session) -> None:
        """Renew the lease inside a transaction. Raises LeaseLostError if it is another's."""
        mine = {"_id": self._name, "owner": self._owner, "epoch": self.epoch}
        row = await self._database().find_and_update(
            LEASES, mine, [{"$set": self._renewal()}], session=session
        )
        if row is None:
            self._held = False
            raise LeaseLostError(f"Another process holds the lease {self._name!r} now.")

    def fenced(self, asked_at: float) -> None:
        """Take note that a transaction which began then has committed with its `fence`."""
        self._renewed_at = max(self._renewed_at, asked_at)

    async def note(self) -> str:
        """Return what the last holder noted; empty before there was one."""
        rows = await self._database().find(LEASES, {"_id": self._name}, limit=1)
        return str(rows[0]["note"]) if rows else ""

    async def release(self) -> None:
        """Let the lease expire now, if it is still ours; never raises."""
        self._held = False
        with contextlib.suppress(StoreUnavailableError):
            await self._database().write(
                LEASES,
                [
                    UpdateOne(
                        {"_id": self._name, "owner": self._owner, "epoch": self.epoch},
                        {"$set": {"expires": 0}},
                    )
                ],
            )
