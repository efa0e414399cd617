"""The golden events: one complete record per type, which its producer emits and readers parse."""

import json
from pathlib import Path
from typing import Any, TypeVar

from shared.events.envelope import Envelope, Event

GOLDEN_FOLDER = Path(__file__).parents[1] / "contract" / "golden"

E = TypeVar("E", bound=Event)


def golden(type_name: str) -> dict[str, Any]:
    """Return the golden CloudEvent of a type such as `upward.paired.v1`: attributes and data."""
    path = GOLDEN_FOLDER / f"{type_name}.json"
    cloudevent: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return cloudevent


def golden_event(kind: type[E]) -> E:
    """Return the golden data of an event class."""
    return kind.model_validate(golden(kind.type())["data"])


def golden_envelope(kind: type[Event]) -> Envelope:
    """Return the golden attributes of an event class."""
    return Envelope.model_validate(golden(kind.type()))


def golden_record(kind: type[Event]) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Return key, value and headers as they stand on the bus."""
    envelope = golden_envelope(kind)
    headers = [(name, text.encode()) for name, text in envelope.to_headers().items()]
    return envelope.subject.encode(), golden_event(kind).model_dump_json().encode(), headers
