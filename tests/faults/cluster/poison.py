"""Records that no service can process, or that come at the wrong time, made of real ones."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared.events.topics import MAX_EVENT_BYTES
from tests.faults.cluster.evidence import Record

Headers = list[tuple[str, bytes | None]]

FOREIGN = "foreign-"
"""What the ids of the harness's own events begin with."""


@dataclass(frozen=True)
class Made:
    """A record to publish. `reason` is in the dead letter of every group that must bury it.

    Where only the data is bad, groups that don't handle the type skip it unread.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    event_id: str
    reason: str = ""
    data_only: bool = False
    type: str = ""


def headers_of(record: Record, **changed: str) -> Headers:
    """Return the record's CloudEvents headers, some of them changed."""
    return [
        (name, changed[name.removeprefix("ce_")].encode())
        if name.removeprefix("ce_") in changed
        else (name, value)
        for name, value in record.headers
        if name.startswith("ce_") or name == "content-type"
    ]


def header(record: Record, name: str) -> str:
    """Return a header's text, empty where there is none."""
    return (dict(record.headers).get(f"ce_{name}") or b"").decode()


def poisons(record: Record, luck: random.Random) -> list[Made]:
    """Return one of each kind, under a new id each and with the record's key."""

    def make(
        what: str,
        reason: str,
        *,
        value: bytes | None = record.value,
        change: Callable[[Headers], Headers] = lambda headers: headers,
        data_only: bool = False,
    ) -> Made:
        event_id = f"{FOREIGN}{what}-{luck.getrandbits(48):x}"
        return Made(
            topic=record.topic,
            key=record.key,
            value=value,
            headers=change(headers_of(record, id=event_id)),
            event_id=event_id,
            reason=reason,
            data_only=data_only,
            type=header(record, "type"),
        )

    def with_header(name: str, value: bytes | None) -> Callable[[Headers], Headers]:
        return lambda headers: [*((n, v) for n, v in headers if n != name), (name, value)]

    return [
        make("not-json", "data: not JSON", value=b"{never", data_only=True),
        make("empty", "data: not JSON", value=b"", data_only=True),
        make("wrong-type", "data: ", value=b'{"program_id": 5}', data_only=True),
        make("null-header", "is null", change=with_header("ce_traceparent", None)),
        make("not-utf8", "is not UTF-8", change=with_header("ce_traceparent", b"\xff\xfe")),
        make("tombstone", "tombstone", value=None),
        make("too-large", "too large", value=b" " * (MAX_EVENT_BYTES + 1)),
        make("unknown-type", "unknown type", change=with_header("ce_type", b"upward.odd.v1")),
        make("no-envelope", "envelope", change=lambda _: []),
    ]


def drifted(record: Record, luck: random.Random) -> list[Made]:
    """Return an enrollment in another program as newer producers might publish it.

    A new field and a new optional word are read over; a renamed field, an unknown role and a
    second version of the type can't be.
    """
    data = json.loads(record.value or b"{}")
    tag = f"{luck.getrandbits(48):x}"
    subject = f"pt_{tag}"
    data |= {"program_id": f"drift-{tag}", "participant_id": subject, "person_id": f"p_{tag}"}

    def make(what: str, value: Mapping[str, object], reason: str = "", kind: str = "") -> Made:
        event_id = f"{FOREIGN}{what}-{tag}"
        changed = {
            "id": event_id,
            "subject": subject,
            "program": f"drift-{tag}",
            "aggregateversion": "1",
            "type": kind or header(record, "type"),
        }
        return Made(
            topic=record.topic,
            key=subject.encode(),
            value=json.dumps(value).encode(),
            headers=headers_of(record, **changed),
            event_id=event_id,
            reason=reason,
            data_only=not kind,
            type=header(record, "type"),
        )

    renamed = {("who" if name == "person_id" else name): value for name, value in data.items()}
    return [
        make("new-field", data | {"favorite_color": "blue"}),
        make("renamed-field", renamed, "data: person_id"),
        make("new-role", data | {"role": "observer"}, "data: role"),
        make("second-version", data, "unknown type", "upward.enrolled.v2"),
    ]


def stale(records: Sequence[Record], luck: random.Random) -> list[Made]:
    """Return copies of events in another order, and under new ids what newer versions replaced."""
    copies = luck.sample(list(records), min(60, len(records)))
    replaced = {_aggregate(r) for r in records if header(r, "aggregateversion") != "1"}
    made = [
        Made(r.topic, r.key, r.value, headers_of(r), header(r, "id"), type=header(r, "type"))
        for r in copies
    ]
    old = [r for r in records if header(r, "aggregateversion") == "1" and _aggregate(r) in replaced]
    for record in luck.sample(old, min(12, len(old))):
        event_id = f"{FOREIGN}stale-{luck.getrandbits(48):x}"
        made.append(
            Made(
                record.topic,
                record.key,
                record.value,
                headers_of(record, id=event_id),
                event_id,
                type=header(record, "type"),
            )
        )
    luck.shuffle(made)
    return made


def _aggregate(record: Record) -> tuple[str, str]:
    return header(record, "source"), header(record, "subject")
