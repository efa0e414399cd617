"""A MongoDB-compatible server for tests: the one that is named, installed, or in the tools."""

import os
import shutil
from pathlib import Path
from typing import Any, Self

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from tests.support.servers.process import TOOLS, ServerError, ServerProcess, free_ports

_SECANTUS = TOOLS / "tools" / "bin" / "secantusd-py"
_ALREADY_INITIALIZED = 23


class MongoServer:
    """A one-node replica set: the server of MONGODB_URI, else a `mongod`, else SecantusDB.

    Its methods block. What a server here has acknowledged survives its `kill`.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ServerError when there is no server to be had."""
        folder.mkdir(parents=True, exist_ok=True)
        self._given = os.environ.get("MONGODB_URI")
        self._process: ServerProcess | None = None
        self._replica_set = ""
        if self._given:
            self.uri = self._given
            return
        (self._port,) = free_ports(1)
        data = folder / "mongo"
        data.mkdir(exist_ok=True)
        command = self._mongod(data) or self._secantus(data)
        self.uri = f"mongodb://127.0.0.1:{self._port}/?replicaSet={self._replica_set}"
        self._process = ServerProcess("MongoDB", command, folder / "mongo.log", self._answers)

    @property
    def killable(self) -> bool:
        """Whether the server is ours to kill and to pause: the one of MONGODB_URI is not."""
        return self._process is not None

    @property
    def process(self) -> ServerProcess:
        """The server's process, to kill, pause, resume or terminate it.

        Raises ServerError when the server is the one of MONGODB_URI.
        """
        if self._process is None:
            msg = "the server of MONGODB_URI is not ours to kill"
            raise ServerError(msg)
        return self._process

    def start(self) -> None:
        """Start the server, on the data of its last run, and wait until it takes writes."""
        if self._process is not None:
            self._process.start()

    def kill(self) -> None:
        """End the server as a power cut would. Raises ServerError unless `killable`."""
        self.process.kill()

    def pause(self) -> None:
        """Let nothing answer while connections stay open. Raises ServerError unless `killable`."""
        self.process.pause()

    def resume(self) -> None:
        """Go on after `pause`. Raises ServerError unless `killable`."""
        self.process.resume()

    def terminate(self) -> None:
        """Ask the server to end. Raises ServerError unless `killable`."""
        self.process.terminate()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()

    def _mongod(self, data: Path) -> list[str]:
        program = shutil.which("mongod")
        if program is None:
            return []
        self._replica_set = "upward"
        return [
            *(program, "--replSet", self._replica_set, "--dbpath", str(data)),
            *("--bind_ip", "127.0.0.1", "--port", str(self._port)),
            *("--setParameter", "enableTestCommands=1"),
        ]

    def _secantus(self, data: Path) -> list[str]:
        if not _SECANTUS.exists():
            msg = "there is no MongoDB server: run `make test-cluster`, or set MONGODB_URI"
            raise ServerError(msg)
        self._replica_set = "secantus"
        return [
            *(str(_SECANTUS), "--storage-path", str(data)),
            *("--host", "127.0.0.1", "--port", str(self._port)),
            # Without it a kill loses the last acknowledged commits, which wait in the process.
            "--sync-on-commit",
            "--enable-test-commands",
            # Many replicas of every service, each with a pool of connections.
            *("--session-max", "4000"),
        ]

    def _answers(self) -> bool:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            "127.0.0.1", self._port, directConnection=True, serverSelectionTimeoutMS=200
        )
        with client:
            try:
                hello = client.admin.command("hello")
                if "setName" not in hello:
                    member = {"_id": 0, "host": f"127.0.0.1:{self._port}"}
                    config = {"_id": self._replica_set, "members": [member]}
                    client.admin.command("replSetInitiate", config)
                return bool(hello.get("isWritablePrimary"))
            except OperationFailure as error:
                if error.code != _ALREADY_INITIALIZED:
                    raise
                return False
            except PyMongoError:
                return False
