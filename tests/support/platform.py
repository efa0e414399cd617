"""A running embedded platform for tests: clients by role, events in and out, a clock to move."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import httpx
import orjson

from deploy.local.folder import DataFolder
from deploy.local.platform import EmbeddedPlatform
from shared.clock import FileClock
from shared.events.envelope import Envelope, Event, data_schema
from shared.events.topics import TOPICS
from shared.http.auth import Role
from shared.ids import new_event_id
from shared.messaging.dead_letters import RawRecord
from shared.messaging.local_log import LocalLog
from shared.messaging.local_producer import LocalProducer
from shared.messaging.parsing import PermanentError, parse

E = TypeVar("E", bound=Event)

START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
PROGRAM = "reverse-mentoring"


@dataclass
class RunningPlatform:
    """What a test holds of a platform at run time."""

    platform: EmbeddedPlatform
    clock: FileClock
    folder: DataFolder
    _clients: AsyncExitStack
    _versions: dict[tuple[str, str], int] = field(default_factory=dict)

    def token(
        self, subject: str, roles: tuple[Role, ...], programs: tuple[str, ...] = (PROGRAM,)
    ) -> str:
        """Return a valid token."""
        return self.platform.issuer.issue(subject, roles, programs)

    async def client(
        self, subject: str, *roles: Role, programs: tuple[str, ...] = (PROGRAM,)
    ) -> httpx.AsyncClient:
        """Return a client that sends a token of these roles."""
        headers = {"Authorization": f"Bearer {self.token(subject, roles, programs)}"}
        return await self.anonymous(headers)

    async def person(self, person_id: str) -> httpx.AsyncClient:
        """Return a client of a participant."""
        return await self.client(person_id, "participant", programs=())

    async def anonymous(self, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
        """Return a client without a token."""
        return await self._clients.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(self.platform.app, raise_app_exceptions=False),
                base_url="http://upward.test",
                headers=headers,
            )
        )

    async def publish(self, event: Event, *, version: int | None = None) -> str:
        """Put an event on the log as its owner would; return its id.

        Versions count up by themselves for each subject unless `version` says otherwise.
        """
        owner = TOPICS[event.topic].owner
        stream = (owner, event.subject)
        if version is None:
            version = self._versions.get(stream, 0) + 1
        self._versions[stream] = max(version, self._versions.get(stream, 0))
        envelope = Envelope(
            id=new_event_id(),
            source=f"/upward/local/{owner}",
            type=event.type(),
            subject=event.subject,
            time=self.clock.now(),
            dataschema=data_schema(event.type()),
            program=event.program_id,
            region="local",
            aggregateversion=version,
        )
        await self.publish_raw(
            event.topic, event.subject, event.model_dump_json().encode(), envelope.to_headers()
        )
        return envelope.id

    async def publish_raw(
        self, topic: str, key: str | None, value: bytes | None, headers: dict[str, str]
    ) -> None:
        """Put bytes on the log."""
        await self.publish_record(
            topic, key, value, [(name, text.encode()) for name, text in headers.items()]
        )

    async def publish_record(
        self,
        topic: str,
        key: str | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> None:
        """Put a record on the log with headers of any bytes, or none."""
        producer = LocalProducer(self.platform.log)
        await producer.start()
        await producer.send_and_wait(
            topic, value, key=None if key is None else key.encode(), headers=headers
        )
        await producer.stop()

    async def settle(self, seconds: float = 20.0) -> None:
        """Wait until every outbox is empty, every lag is zero and every job has run up to now."""
        async with asyncio.timeout(seconds):
            quiet = 0
            while quiet < 2:
                quiet = quiet + 1 if await self._quiet() else 0
                await asyncio.sleep(0.01)

    async def _quiet(self) -> bool:
        for service in self.platform.services:
            flow = await service.flow()
            if flow.stopped_because is None and (flow.outbox_pending or flow.lag):
                return False
            if flow.scheduled_until < self.clock.now():
                return False
        return True

    def records(self) -> list[tuple[Envelope, Event]]:
        """Return every readable event of the log, in its order."""
        found = []
        reader = LocalLog.reader(self.folder.log)
        try:
            for record in reader.export():
                raw = RawRecord(
                    record.topic,
                    record.partition,
                    record.offset,
                    record.key,
                    record.value,
                    record.headers,
                )
                try:
                    found.append(parse(raw))
                except PermanentError:
                    continue
        finally:
            reader.close()
        return found

    def events(self, kind: type[E]) -> list[E]:
        """Return the events of one type, in the log's order."""
        return [event for _, event in self.records() if isinstance(event, kind)]


@asynccontextmanager
async def running_platform(
    path: Path, services: Sequence[str] | None = None, start: datetime = START
) -> AsyncIterator[RunningPlatform]:
    """Run services (all by default) on a data folder, in simulated time from `start`."""
    folder = DataFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    clock = FileClock(folder.clock, start)
    async with (
        AsyncExitStack() as clients,
        EmbeddedPlatform(folder, services=services) as platform,
    ):
        yield RunningPlatform(platform, clock, folder, clients)


def json_of(response: httpx.Response, status: int = 200) -> dict[str, object]:
    """Return the body of a response that must have this status."""
    assert response.status_code == status, response.text
    body = orjson.loads(response.content)
    assert isinstance(body, dict)
    return body
