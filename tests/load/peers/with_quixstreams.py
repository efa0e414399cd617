"""Quix Streams: validated in a streaming dataframe, written by a batching sink at checkpoints."""

import tempfile
from typing import Any

from quixstreams import Application  # type: ignore[import-not-found]  # in the peer's environment
from quixstreams.sinks import (  # type: ignore[import-not-found]  # the same
    BatchingSink,
    SinkBatch,
)

from tests.load.peers.work import TOPIC, Item, Ledger, Task, read


class LedgerSink(BatchingSink):  # type: ignore[misc]  # not installed where mypy runs
    """Writes each checkpoint's records of a partition in one transaction."""

    def __init__(self, task: Task, ledger: Ledger) -> None:
        super().__init__()
        self._task = task
        self._ledger = ledger

    def write(self, batch: SinkBatch) -> None:
        items: list[Item] = [item.value for item in batch]
        self._ledger.apply(items)
        self._task.count(len(items))


def _read(value: bytes, _key: Any, _timestamp: int, headers: list[tuple[str, bytes]]) -> Item:
    return read(headers, value)


def main() -> None:
    """Run until all expected records are counted."""
    task = Task()
    application = Application(
        task.kafka,
        consumer_group=task.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        commit_every=task.batch,
        loglevel="ERROR",
        # By default it would leave a folder where it was started.
        state_dir=tempfile.gettempdir(),
    )
    topic = application.topic(TOPIC, value_deserializer="bytes", key_deserializer="bytes")
    frame = application.dataframe(topic).apply(_read, metadata=True)
    frame.sink(LedgerSink(task, task.ledger()))
    application.run(count=task.expected, collect=False)
    task.report()


if __name__ == "__main__":
    main()
