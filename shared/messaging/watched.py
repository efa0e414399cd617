"""FastStream's KafkaBroker whose consumers say since when their polls have failed."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from faststream.kafka import KafkaBroker

from shared.clock import monotonic

_log = logging.getLogger(__name__)


class WatchedConsumer(AIOKafkaConsumer):
    """aiokafka's consumer, watched from where its errors pass by.

    An error of a heartbeat that aiokafka does not take for a passing one, as of a right that was
    taken away for a moment, ends its heartbeats for good: each poll raises the same again, and
    FastStream polls on for ever.
    """

    failing_since: float | None = None
    """By the monotonic clock, in seconds; None while polls succeed."""

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> "dict[TopicPartition, list[ConsumerRecord[Any, Any]]]":
        """Poll as aiokafka does. Raises KafkaError."""
        try:
            records = await super().getmany(
                *partitions, timeout_ms=timeout_ms, max_records=max_records
            )
        except KafkaError as error:
            # That of a topic passes with its reason, and other topics' polls succeed meanwhile.
            if self.failing_since is None and not isinstance(error, TopicAuthorizationFailedError):
                self.failing_since = monotonic()
            # FastStream's own word of it goes to a logger that services don't have.
            _log.warning("A poll failed: %r", error)
            raise
        self.failing_since = None
        return records


class WatchedKafkaBroker(KafkaBroker):
    """A KafkaBroker that makes WatchedConsumers."""

    async def _connect(self) -> Callable[..., AIOKafkaConsumer]:
        made = await super()._connect()
        assert isinstance(made, partial)
        config = self.config.broker_config
        config.builder = partial(WatchedConsumer, **made.keywords)
        return config.builder
