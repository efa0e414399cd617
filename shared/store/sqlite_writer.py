"""The one thread that writes a SQLite store, with group commit."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shared.errors import StoreUnavailableError
from shared.failpoints import failpoint

T = TypeVar("T")

# The fault of one statement: a value that can't be bound, a constraint. All other errors of SQLite
# say that the file or its disk is in trouble, which heals.
STATEMENT_ERRORS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
    sqlite3.ProgrammingError,
)

# About as many as fill the write-ahead log by SQLite's own measure of 1,000 pages.
_ROWS_UNTIL_CHECKPOINT = 1000


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection as all of the store's are. Raises sqlite3.Error."""
    # One thread at a time uses a connection; the module's own check would forbid handing it over.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    # Of a new file. A backlog takes a tenth less time to write than in pages of 4 KiB.
    connection.execute("PRAGMA page_size = 8192")
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: a commit that was answered survives a power cut, not only a crash of the process.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -16384")
    # In pages; the writer itself sees to it sooner.
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    return connection


@dataclass
class _Job:
    run: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop

    def finish(self, result: Any, error: BaseException | None) -> None:
        def settle() -> None:
            if not self.done.done():
                if error is None:
                    self.done.set_result(result)
                else:
                    self.done.set_exception(error)

        # A closed loop has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(settle)


class Writer:
    """The one thread that writes: it commits together whatever waits, with one sync to disk."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._rows_checkpointed = 0
        self._thread = threading.Thread(target=self._work, name=f"store-{name}", daemon=True)
        self._thread.start()

    def hand_over(self, run: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        # Behind the end mark nobody would ever take it from the queue.
        if self._closed or not self.alive:
            raise StoreUnavailableError("The store is closed.")
        loop = asyncio.get_running_loop()
        job = _Job(run, loop.create_future(), loop)
        self._queue.put(job)
        return job.done

    async def submit(self, run: Callable[[sqlite3.Connection], T]) -> T:
        # A cancelled caller must not leave a half-known outcome: the commit goes on regardless.
        return await asyncio.shield(self.hand_over(run))

    async def close(self) -> None:
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _work(self) -> None:
        connection = self._connection
        try:
            while (first := self._queue.get()) is not None:
                group, last = [first], False
                while not self._queue.empty():
                    job = self._queue.get()
                    if job is None:
                        last = True
                        break
                    group.append(job)
                self._commit(connection, group)
                if last:
                    break
                self._checkpoint(connection)
        finally:
            connection.close()

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Copy what was committed from the log to the file, if it has become much.

        SQLite would do it at the end of a commit, for whose answer somebody waits.
        """
        # SQLite's count begins anew after two billions.
        if abs(connection.total_changes - self._rows_checkpointed) >= _ROWS_UNTIL_CHECKPOINT:
            # As SQLite's own, it may fail: all is in the log, and the next one tries again.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._rows_checkpointed = connection.total_changes

    @staticmethod
    def _commit(connection: sqlite3.Connection, group: list[_Job]) -> None:
        outcomes: list[tuple[_Job, Any, BaseException | None]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in group:
                connection.execute("SAVEPOINT job")
                try:
                    outcomes.append((job, job.run(connection), None))
                except Exception as error:
                    if isinstance(error, sqlite3.Error) and not isinstance(error, STATEMENT_ERRORS):
                        raise
                    # What one job can't write is no reason to refuse those that came with it.
                    connection.execute("ROLLBACK TO job")
                    outcomes.append((job, None, error))
                connection.execute("RELEASE job")
            failpoint("store.before_commit")
            connection.execute("COMMIT")
            failpoint("store.after_commit")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            unavailable = StoreUnavailableError(f"The store did not commit: {error}")
            outcomes = [(job, None, unavailable) for job in group]
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            outcomes = [(job, None, error) for job in group]
        for job, result, failure in outcomes:
            job.finish(result, failure)
