"""Consumer lag in records and in seconds, from offsets alone."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from aiokafka import TopicPartition

from shared import cancellation
from shared.clock import monotonic

_SAMPLES = 720


class Lag:
    """How far a consumer group is behind.

    Seconds are measured from when this process first saw the oldest uncommitted record's offset, so
    they need no clock but its own, grow while a consumer stands still, and are exact to the time
    between two looks. Long histories are thinned by half: the older a sample, the less a few
    seconds matter.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self.records = 0
        self.seconds = 0.0
        self._now = now
        self._seen: dict[TopicPartition, deque[tuple[int, float]]] = {}
        self._since = now()  # when what waits now was first seen; else the last look

    def see(
        self, ends: Mapping[TopicPartition, int], committed: Mapping[TopicPartition, int]
    ) -> None:
        """Take a look: each partition's end and the offset that its group reads next."""
        now = oldest = self._now()
        for partition, end in ends.items():
            samples = self._seen.setdefault(partition, deque())
            if not samples or samples[-1][0] < end:
                samples.append((end, now))
            # A sample tells that all offsets below its end were there at its time.
            while samples and samples[0][0] <= committed[partition]:
                samples.popleft()
            if samples:
                oldest = min(oldest, samples[0][1])
            if len(samples) > _SAMPLES:
                self._seen[partition] = deque(list(samples)[::2])
        self.records = sum(end - committed[partition] for partition, end in ends.items())
        self.seconds = now - oldest
        self._since = oldest

    def miss(self) -> None:
        """Note that no look was possible: something may have waited since the last.

        So an alert on the seconds speaks while the bus is away.
        """
        self.seconds = self._now() - self._since


_Found = tuple[dict[TopicPartition, int], dict[TopicPartition, int]]


class _Client(Protocol):
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def committed(self, partition: TopicPartition) -> int | None: ...
    async def end_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]: ...


class Offsets:
    """Looks at a group's offsets through a client of its own, which consumes nothing.

    A consumer's own connection is no good for it: a broker answers one connection's requests in
    their order, and most of the time a fetch is waiting there for records.
    """

    def __init__(self, build: Callable[[], object]) -> None:
        """Take what builds the client, which is asked to at the first look."""
        self._build = build
        self._client: _Client | None = None
        self._starting = asyncio.Lock()
        self._late: asyncio.Task[_Found] | None = None

    async def look(self, partitions: Sequence[TopicPartition], seconds: float) -> _Found:
        """Return each partition's end, and what the group reads next.

        Raises KafkaError, and TimeoutError after so many seconds. The look goes on then, and nobody
        begins another before it ended: to cancel it would keep a connection that is dead.
        """
        if self._late is not None and not self._late.done():
            await asyncio.wait({self._late}, timeout=seconds)
            if not self._late.done():
                raise TimeoutError
        looking = asyncio.create_task(self._look(partitions))
        try:
            await asyncio.wait({looking}, timeout=seconds)
        finally:
            if not looking.done():
                looking.add_done_callback(_hear)
                self._late = looking
        if not looking.done():
            raise TimeoutError
        return looking.result()

    async def _look(self, partitions: Sequence[TopicPartition]) -> _Found:
        async with self._starting:
            if self._client is None:
                client = cast("_Client", self._build())
                try:
                    await client.start()
                except BaseException:
                    await client.stop()
                    raise
                self._client = client
        # Committed offsets first: what is committed meanwhile must not look like nothing to do.
        committed = await asyncio.gather(*map(self._client.committed, partitions))
        ends = await self._client.end_offsets(partitions)
        return ends, {tp: at or 0 for tp, at in zip(partitions, committed, strict=True)}

    async def close(self) -> None:
        """Leave the bus; safe without a look before."""
        await cancellation.end(self._late)
        client, self._client = self._client, None
        if client is not None:
            await client.stop()


def _hear(late: "asyncio.Task[_Found]") -> None:
    # Nobody waits for it any more: without this an error would be told as one never retrieved.
    if not late.cancelled():
        late.exception()
