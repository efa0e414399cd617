"""From a record's bytes to an event of the contract, or to the reason why it is none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from shared.events.envelope import Envelope, Event
from shared.events.registry import EVENTS_BY_TYPE
from shared.events.topics import MAX_EVENT_BYTES
from shared.messaging.dead_letters import ReceivedRecord

_N, _I = b"NI"  # found in a tenth of the time that the words take


@dataclass(frozen=True, slots=True)
class _Contract:
    """What must hold of a class' records: looking it up there takes five times as long."""

    topic: str
    mirrored: str  # a mirrored topic carries its region in front of the name
    subject_field: str
    read: Callable[[bytes], Any]  # `model_validate_json`'s own work would be a third of it


_CONTRACTS = {
    kind: _Contract(
        topic=kind.topic,
        mirrored=f".{kind.topic}",
        subject_field=kind.subject_field,
        read=kind.__pydantic_validator__.validate_json,
    )
    for kind in EVENTS_BY_TYPE.values()
}


class PermanentError(Exception):
    """The record can never be processed as it is; the message says why and quotes no content."""


def parse(record: ReceivedRecord) -> tuple[Envelope, Event]:
    """Return the event of a record. Raises PermanentError with a reason that quotes no content."""
    envelope, kind = parse_envelope(record)
    return envelope, parse_data(record, envelope, kind)


def parse_envelope(record: ReceivedRecord) -> tuple[Envelope, type[Event]]:
    """Return the envelope and the class of the data, which is not read yet. Raises as above."""
    if record.value is None:
        raise PermanentError("tombstone: the record has no value")
    if len(record.value) > MAX_EVENT_BYTES:
        reason = f"too large: {len(record.value)} bytes, the contract allows {MAX_EVENT_BYTES}"
        raise PermanentError(reason)
    try:
        envelope = Envelope.from_headers(record.headers)
    except ValidationError as error:
        raise PermanentError(f"envelope: {_rules(error)}") from error
    except ValueError as error:
        raise PermanentError(f"envelope: {error}") from error
    kind = EVENTS_BY_TYPE.get(envelope.type)
    if kind is None:
        raise PermanentError(f"unknown type {envelope.type}")
    contract = _CONTRACTS[kind]
    if not (record.topic == contract.topic or record.topic.endswith(contract.mirrored)):
        raise PermanentError(f"{envelope.type} does not belong on {record.topic}")
    return envelope, kind


def parse_data(record: ReceivedRecord, envelope: Envelope, kind: type[Event]) -> Event:
    """Return the data of a record whose envelope was read. Raises as above."""
    value, contract = record.value or b"", _CONTRACTS[kind]
    # What reads JSON for pydantic takes NaN and Infinity for numbers; JSON has neither.
    if (_N in value or _I in value) and (b"NaN" in value or b"Infinity" in value):
        _check_json(value)
    try:
        event: Event = contract.read(value)
    except ValidationError as error:
        _check_json(value)
        raise PermanentError(f"data: {_rules(error)}") from error
    if (
        getattr(event, contract.subject_field) != envelope.subject
        or event.program_id != envelope.program
    ):
        raise PermanentError("envelope and data name different subjects or programs")
    return event


def _check_json(value: bytes) -> None:
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise PermanentError("data: not JSON") from error


def _rules(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False, include_context=False)[:5]
    )
