"""Sentry's Arroyo: validate, batch, write the batch, commit its offsets."""

import signal
from collections.abc import Mapping

from arroyo.backends.kafka import (  # type: ignore[import-not-found]  # in the peer's environment
    KafkaConsumer,
    KafkaPayload,
    build_kafka_consumer_configuration,
)
from arroyo.processing import StreamProcessor  # type: ignore[import-not-found]  # the same
from arroyo.processing.strategies import (  # type: ignore[import-not-found]  # the same
    BatchStep,
    CommitOffsets,
    ProcessingStrategy,
    ProcessingStrategyFactory,
    RunTask,
)
from arroyo.types import (  # type: ignore[import-not-found]  # the same
    Commit,
    Message,
    Partition,
    Topic,
)

from tests.load.peers.work import TOPIC, Item, Ledger, Task, read

_BATCH_SECONDS = 0.2


class CountPulses(ProcessingStrategyFactory):  # type: ignore[misc]  # not installed with mypy
    """The strategy of all partitions."""

    def __init__(self, task: Task, ledger: Ledger) -> None:
        self._task = task
        self._ledger = ledger

    def create_with_partitions(
        self, commit: Commit, partitions: Mapping[Partition, int]
    ) -> ProcessingStrategy:
        write = RunTask(self._write, CommitOffsets(commit))
        return RunTask(_read, BatchStep(self._task.batch, _BATCH_SECONDS, write))

    def _write(self, message: Message) -> None:
        items: list[Item] = [each.payload for each in message.payload]
        self._ledger.apply(items)
        if self._task.count(len(items)):
            signal.raise_signal(signal.SIGTERM)


def _read(message: Message) -> Item:
    payload: KafkaPayload = message.payload
    return read(payload.headers, payload.value)


def main() -> None:
    """Run until all expected records are counted."""
    task = Task()
    consumer = KafkaConsumer(
        build_kafka_consumer_configuration(
            {}, group_id=task.group, auto_offset_reset="earliest", bootstrap_servers=[task.kafka]
        )
    )
    processor = StreamProcessor(consumer, Topic(TOPIC), CountPulses(task, task.ledger()))
    signal.signal(signal.SIGTERM, lambda *_: processor.signal_shutdown())
    processor.run()
    task.report()


if __name__ == "__main__":
    main()
