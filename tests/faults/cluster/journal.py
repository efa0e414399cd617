"""What the workload asked for and what it was answered, kept outside of the system under test."""

import asyncio
import base64
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from deploy.client import Answer, ApiError, Json, UnreachableError
from tests.support.cluster import ClusterClient

Outcome = Literal["ok", "fail", "info"]

_PATIENCE_SECONDS = 150.0
_PAUSE_SECONDS = 0.25
# A replica that stands still is given up by whoever asks long before it is by the kernel.
_ANSWER_SECONDS = 15.0
_UNKNOWN = frozenset({429, 502, 503, 504})
"""After these it is open whether the command was carried out, or it is worth asking again."""


@dataclass(frozen=True)
class Command:
    """One line of the journal: a command's sending, or what became of it.

    `what` tells the same command of two runs: who asked, which route, with which key.
    """

    cmd_id: str
    what: str
    key: str | None
    at: float
    outcome: Outcome | None = None
    attempts: int = 0


class Journal:
    """An append-only file; a line is on the disk before its command is sent."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, line: Command) -> None:
        """Append the line and wait until it is on the disk."""
        os.write(self._handle, json.dumps(asdict(line)).encode() + b"\n")
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def commands(self) -> dict[str, Command]:
        """Return each command's last line by its id; one that never ended is `info`."""
        found: dict[str, Command] = {}
        for line in self._lines():
            known = found.get(line.cmd_id)
            if known is None or known.outcome is None:
                found[line.cmd_id] = line
        return {
            cmd_id: line if line.outcome else Command(**{**asdict(line), "outcome": "info"})
            for cmd_id, line in found.items()
        }

    def _lines(self) -> Iterator[Command]:
        with self._file.open() as lines:
            for line in lines:
                yield Command(**json.loads(line))


class JournaledClient(ClusterClient):
    """A client that journals every command and repeats it, with its key, until it is answered.

    A command's id travels as its correlation id, so its events name it. Raises UnreachableError
    for what is not answered within its patience; the journal then says `info`.
    """

    def __init__(self, addresses: Mapping[str, Iterable[str]], journal: Journal) -> None:
        super().__init__(addresses)
        self._journal = journal
        self.repeated = 0

    async def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
        again: bool = False,
    ) -> Json:
        if method == "GET":
            return await self._until_answered(method, path, headers, content, query)
        key = headers.get("Idempotency-Key")
        line = Command(
            cmd_id=uuid.uuid4().hex,
            what=f"{_subject(headers)} {method} {path} {key}",
            key=key,
            at=time.time(),
        )
        self._journal.write(line)
        outcome: Outcome = "info"
        before = self.repeated
        try:
            body = await self._until_answered(
                method, path, {**headers, "X-Correlation-ID": line.cmd_id}, content, query
            )
            outcome = "ok"
            return body
        except ApiError as error:
            outcome = "info" if error.status in _UNKNOWN else "fail"
            raise
        finally:
            ended = {"at": time.time(), "outcome": outcome, "attempts": self.repeated - before + 1}
            self._journal.write(Command(**{**asdict(line), **ended}))

    async def _once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | None,
        query: Mapping[str, str | int],
    ) -> Answer:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await super()._once(method, path, headers, content, query)
        except TimeoutError as error:
            raise UnreachableError(f"{method} {path} was not answered in time") from error

    async def _until_answered(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | None,
        query: Mapping[str, str | int] | None,
    ) -> Json:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                answer = await self._once(method, path, headers, content, query or {})
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
            else:
                if answer.status not in _UNKNOWN or time.monotonic() > deadline:
                    return _body(f"{method} {path}", answer)
            self.repeated += 1
            await asyncio.sleep(_PAUSE_SECONDS)


def _body(where: str, answer: Answer) -> Json:
    if not 200 <= answer.status < 300:
        raise ApiError(where, answer)
    body: Json = json.loads(answer.content)
    return body


def _subject(headers: Mapping[str, str]) -> str:
    payload = headers["Authorization"].split(".")[1]
    claims: Json = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return str(claims["sub"])
