"""Invariants of the log itself: each id once, order per aggregate, offsets, partitions, causes."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from tests.checker.reading import Event
from tests.checker.report import Report

# A copy lies elsewhere in the log; all else of it must be the same.
_PLACE = frozenset({"logoffset"})


def check_offsets(events: Iterable[Event], report: Report) -> None:
    """`offset`: per topic and partition 0, 1, 2 …; `partition`: one subject, one partition."""
    following: dict[tuple[str, int], int] = defaultdict(int)
    homes: dict[tuple[str, str], int] = {}
    for event in events:
        place = event.topic, event.partition
        if event.offset != following[place]:
            what = f"offset {event.offset} follows {following[place] - 1} in {place}"
            report.violation("offset", str(event), what)
        following[place] = event.offset + 1
        home = homes.setdefault((event.topic, event.subject), event.partition)
        if home != event.partition:
            report.violation("partition", str(event), f"{event.subject} began in partition {home}")


def each_once(events: Iterable[Event], report: Report, *, allow_redelivery: bool) -> list[Event]:
    """`once`: no id comes twice; return the first occurrences.

    With `allow_redelivery` a later copy is no violation if it says exactly the same.
    """
    first: dict[str, Event] = {}
    for event in events:
        known = first.setdefault(event.id, event)
        if known is event:
            continue
        if _content(known) != _content(event):
            report.violation("once", str(event), f"differs from line {known.line} of the same id")
        elif not allow_redelivery:
            report.violation("once", str(event), f"is a copy of line {known.line}")
    return list(first.values())


def check_order(events: Iterable[Event], report: Report) -> None:
    """`order`: per source and subject, aggregateversion is 1, 2, 3 … in log order."""
    versions: dict[tuple[str, str], int] = defaultdict(int)
    for event in events:
        aggregate = event.source, event.subject
        if event.version != versions[aggregate] + 1:
            what = f"aggregateversion {event.version} follows {versions[aggregate]}"
            report.violation("order", str(event), what)
        versions[aggregate] = event.version


def check_causes(events: Iterable[Event], report: Report) -> None:
    """`causation`: a causationid is the id of another event of the log."""
    listed = list(events)
    ids = {event.id for event in listed}
    for event in listed:
        if event.causation is not None and (
            event.causation not in ids or event.causation == event.id
        ):
            report.violation("causation", str(event), f"cause {event.causation} is not in the log")


def _content(event: Event) -> dict[str, Any]:
    return {key: value for key, value in event.raw.items() if key not in _PLACE}
