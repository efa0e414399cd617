"""A consumer that is told its partitions: it joins no group, and nobody waits for it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from faststream.kafka.security import parse_security

from deploy.cluster.settings import KafkaSettings
from shared import cancellation

# Of each partition this much may be held, and as much is under way.
_FETCH_BYTES = 256 * 1024


@asynccontextmanager
async def reader(
    settings: KafkaSettings,
    partitions: Sequence[TopicPartition],
    *,
    client_id: str,
    lost: Literal["earliest", "latest"] = "earliest",
    group: str | None = None,
) -> AsyncIterator[AIOKafkaConsumer]:
    """Connect a consumer of these partitions; `group` is whose offsets it may set.

    `lost` is where it goes on in a partition whose next record was deleted meanwhile.
    Raises KafkaError.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=list(settings.servers),
        client_id=client_id,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset=lost,
        isolation_level="read_committed",
        request_timeout_ms=round(settings.request_timeout_seconds * 1000),
        max_partition_fetch_bytes=_FETCH_BYTES,
        **parse_security(settings.security()),
    )
    try:
        await consumer.start()
        consumer.assign(partitions)
        yield consumer
    finally:
        try:
            await consumer.stop()
        except asyncio.CancelledError:
            # A task inside of the client that ends may leak one: it must not hide what went wrong.
            if cancellation.ordered():
                raise
