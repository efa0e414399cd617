"""Reading the embedded event log from outside of the platform: export and tail."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.cloud_events import cloud_event, events_file
from shared.messaging.dead_letters import RawRecord
from shared.messaging.local_log import LocalLog
from shared.messaging.local_storage import StoredRecord

_TAIL_SECONDS = 0.3


def read_events(log: Path, *, follow: bool = False) -> Iterator[dict[str, Any]]:
    """Yield every event in log order; with `follow`, go on with new ones for ever."""
    reader = LocalLog.reader(log)
    try:
        position = 0
        while True:
            for record in reader.export(after=position):
                position = record.position
                event = cloud_event(_as_raw(record))
                if event is not None:
                    yield event
            if not follow:
                return
            time.sleep(_TAIL_SECONDS)
    finally:
        reader.close()


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
