"""Reading the embedded event log from outside of the platform: export and tail."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from deploy.cloud_events import cloud_event, events_file
from shared.messaging.dead_letters import RawRecord
from shared.messaging.local_log import LocalLog
from shared.messaging.local_storage import StoredRecord
from shared.turns import in_turns

_TAIL_SECONDS = 0.3


def read_events(log: Path) -> Iterator[dict[str, Any]]:
    """Yield every event in log order."""
    with closing(LocalLog.reader(log)) as reader:
        for record in reader.export(after=0):
            event = cloud_event(_as_raw(record))
            if event is not None:
                yield event


async def follow_events(log: Path) -> AsyncGenerator[dict[str, Any], None]:
    """Yield every event in log order, then new ones for ever, until its task is cancelled.

    Whoever waits for Ctrl-C cancels: an exception out of the signal could come anywhere, and what
    it passed through on its way would make another one of it.
    """
    with closing(LocalLog.reader(log)) as reader:
        position = 0
        while True:
            async for part in in_turns(reader.export(after=position)):
                for record in part:
                    position = record.position
                    event = cloud_event(_as_raw(record))
                    if event is not None:
                        yield event
            await asyncio.sleep(_TAIL_SECONDS)


def export_events(log: Path, target: Path) -> int:
    """Write every event as one JSON line; return how many. The file appears whole or not at all."""
    count = 0
    with events_file(target) as write:
        for event in read_events(log):
            write(event)
            count += 1
    return count


def _as_raw(record: StoredRecord) -> RawRecord:
    return RawRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )
