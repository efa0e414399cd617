"""Records of the bus as CloudEvents JSON, and files of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from shared.messaging.dead_letters import RawRecord
from shared.messaging.parsing import PermanentError, parse


def cloud_event(record: RawRecord) -> dict[str, Any] | None:
    """Return the record as CloudEvents JSON, or None if it holds no event of the contract.

    Where it stands on the log is told by the extensions logtopic, logpartition and logoffset.
    """
    try:
        envelope, _ = parse(record)
    except PermanentError:
        return None
    # The data as it was published, not as this version of the code reads it.
    event = envelope.to_cloudevent(orjson.loads(record.value or b"{}"))
    place = {
        "logtopic": record.topic,
        "logpartition": record.partition,
        "logoffset": record.offset,
    }
    return {**{key: value for key, value in event.items() if key != "data"}, **place} | {
        "data": event["data"]
    }


@contextmanager
def events_file(target: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Take events, each as one JSON line; the file appears whole at the end or not at all."""
    partial = target.with_name(target.name + ".part")
    with partial.open("wb") as file:

        def write(event: dict[str, Any]) -> None:
            file.write(orjson.dumps(event) + b"\n")

        try:
            yield write
            file.flush()
        except BaseException:
            partial.unlink()
            raise
    partial.replace(target)
