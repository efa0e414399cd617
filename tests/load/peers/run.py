"""Running the peers, each in a process and an environment of its own, on the same topic."""

import asyncio
import json
import sqlite3
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo

from shared.store.mongo import MongoStore
from shared.store.sqlite import SqliteStore
from tests.load.backlog import Drained
from tests.support.servers.process import TOOLS

_ROOT = TOOLS.parent
_SECONDS = 900.0


@dataclass(frozen=True)
class Peer:
    """A program that does the peers' work; `environment` of None is the project's own.

    One that takes its messages one at a time is as fast with a `part` of them, and ends sooner.
    """

    name: str
    module: str
    environment: str | None = None
    part: float = 1.0

    @property
    def python(self) -> Path:
        """The interpreter that runs it."""
        if self.environment is None:
            return Path(sys.executable)
        return TOOLS / "peers" / self.environment / "bin" / "python"


UPWARD = Peer("Upward's consumer chain", "with_upward")
PEERS = (
    Peer("plain FastStream, one message and one write at a time", "plain_faststream", part=0.05),
    Peer("Quix Streams", "with_quixstreams", "quixstreams"),
    Peer("Arroyo", "with_arroyo", "arroyo"),
)


class PeerError(Exception):
    """A peer could not be run, or did not count right; the text says why."""


async def run_peer(
    peer: Peer, folder: Path, kafka: str, mongodb: str | None, events: int
) -> Drained:
    """Have a peer count its part of `events` records into an empty store. Raises PeerError."""
    events = round(events * peer.part)
    if not peer.python.exists():
        raise PeerError("it is not installed; `make bench` does that")
    name = f"peer_{uuid.uuid4().hex[:12]}"
    store = str(folder / f"{name}.db") if mongodb is None else f"{mongodb}|{name}"
    at_once = (SqliteStore if mongodb is None else MongoStore).events_at_once
    process = await asyncio.create_subprocess_exec(
        *(str(peer.python), "-W", "ignore", "-m", f"tests.load.peers.{peer.module}"),
        *(kafka, name, store, str(events), str(at_once)),
        cwd=_ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, failed = await asyncio.wait_for(process.communicate(), _SECONDS)
    except TimeoutError:
        raise PeerError(f"it did not finish within {_SECONDS:.0f} seconds") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise PeerError(f"it ended with {process.returncode}: {failed.decode()[-500:]}")
    result: dict[str, Any] = json.loads(said.decode().rstrip().rpartition("\n")[2])
    counted = await asyncio.to_thread(_counted, store)
    if counted != events:
        raise PeerError(f"it counted {counted} of {events} records")
    return Drained(**result)


def _counted(store: str) -> int:
    uri, _, name = store.rpartition("|")
    if uri:
        client: pymongo.MongoClient[dict[str, Any]]
        with pymongo.MongoClient(uri) as client:
            rows: list[dict[str, Any]] = client[name]["buckets"].find().to_list()
            return sum(row["count"] if "count" in row else row["counts"]["pulses"] for row in rows)
    with sqlite3.connect(store) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "buckets" in tables:
            ((count,),) = connection.execute("SELECT sum(count) FROM buckets")
        else:
            query = "SELECT sum(json_extract(body, '$.counts.pulses')) FROM d_buckets"
            ((count,),) = connection.execute(query)
    return int(count or 0)
