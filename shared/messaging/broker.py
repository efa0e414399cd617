"""FastStream's KafkaBroker on a local log: the same subscribers, no cluster."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from faststream._internal.parser import DefaultCodec
from faststream.kafka import KafkaBroker

from shared.messaging.local_consumer import LocalConsumer
from shared.messaging.local_log import LocalLog
from shared.messaging.local_producer import LocalProducer


class EmbeddedKafkaBroker(KafkaBroker):
    """A KafkaBroker whose clients read and write a LocalLog instead of a cluster.

    Whoever opened the log closes it, after the broker's `stop`. Topics must exist: create them
    with `LocalLog.create_topics` before `start`.
    """

    def __init__(self, log: LocalLog, **kafka_broker_options: Any) -> None:
        """Take every option of KafkaBroker; those about the network change nothing."""
        # There is no admin client that could create a topic.
        super().__init__(**{**kafka_broker_options, "allow_auto_create_topics": False})
        self._log = log

    async def _connect(self) -> Callable[..., AIOKafkaConsumer]:
        config = self.config.broker_config
        if not config.consumer_only:
            await config.producer.connect(
                cast("AIOKafkaProducer", LocalProducer(self._log, **self._connection_kwargs)),
                serializer=config.fd_config._serializer,
                codec=config.broker_codec or DefaultCodec(),
            )
        config.builder = cast("Callable[..., AIOKafkaConsumer]", partial(LocalConsumer, self._log))
        return config.builder

    async def ping(self, timeout: float | None) -> bool:
        """Return whether the broker is connected and the log answers within `timeout` seconds."""
        if self._connection is None:
            return False
        try:
            async with asyncio.timeout(timeout):
                await self._log.check()
        except (KafkaError, TimeoutError):
            return False
        return True
