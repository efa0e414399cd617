"""Reading the exported lines: every CloudEvents attribute and every field, or a violation."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from typing import Any

from tests.checker.contract import CODES, EVENT_TYPES, PARTS, fields_of
from tests.checker.report import Report

# The values of JSON: only a check at run time can say what they are.
Json = Any

Check = Callable[[Json], str | None]

_TYPE = re.compile(r"upward\.([a-z-]+)\.v1")
_SOURCE = re.compile(r"/upward/[a-z0-9-]+/([a-z]+)")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class MalformedError(ValueError):
    """A line is no event of the contract."""


@dataclass(frozen=True)
class Event:
    """One line of the log."""

    line: int
    id: str
    source: str
    name: str
    subject: str
    time: datetime
    program: str
    version: int
    causation: str | None
    correlation: str | None
    trace: str | None
    topic: str
    partition: int
    offset: int
    data: dict[str, Json]
    raw: dict[str, Json]

    def __str__(self) -> str:
        return f"line {self.line} {self.name} {self.subject} ({self.id})"

    def instant(self, field: str) -> datetime:
        """Return a time of the data."""
        return instant(self.data[field])


def read(lines: Iterable[str], report: Report) -> list[Event]:
    """Return the events in the lines' order; what is malformed is reported and left out."""
    events = []
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            events.append(_event(number, json.loads(text)))
        except json.JSONDecodeError as error:
            report.violation("envelope", f"line {number}", f"is not JSON: {error}")
        except MalformedError as error:
            report.violation("envelope", f"line {number}", str(error))
    return events


def instant(value: Json) -> datetime:
    """Read an RFC 3339 time in UTC. Raises MalformedError."""
    if not isinstance(value, str):
        msg = f"{value!r} is not a time with offset"
        raise MalformedError(msg)
    return _instant(value)


@cache
def _instant(value: str) -> datetime:
    if not _INSTANT.fullmatch(value):
        msg = f"{value!r} is not a time with offset"
        raise MalformedError(msg)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        msg = f"{value!r} is not a time: {error}"
        raise MalformedError(msg) from error
    if moment.utcoffset() != timedelta(0):
        msg = f"{value!r} is not in UTC"
        raise MalformedError(msg)
    return moment.astimezone(UTC)


def _event(number: int, raw: Json) -> Event:
    if not isinstance(raw, dict):
        msg = "is not an object"
        raise MalformedError(msg)
    if raw.get("specversion") != "1.0" or raw.get("datacontenttype") != "application/json":
        msg = "specversion is not 1.0 or datacontenttype is not application/json"
        raise MalformedError(msg)
    kind = _TYPE.fullmatch(_text(raw, "type"))
    if kind is None or kind[1] not in EVENT_TYPES:
        msg = f"unknown type {raw['type']}"
        raise MalformedError(msg)
    name = kind[1]
    known = EVENT_TYPES[name]
    source = _SOURCE.fullmatch(_text(raw, "source"))
    if source is None or source[1] != known.owner:
        msg = f"{name}: source {raw['source']} is not {known.owner}'s"
        raise MalformedError(msg)
    if raw.get("logtopic") != known.topic:
        msg = f"{name}: on topic {raw.get('logtopic')}, not {known.topic}"
        raise MalformedError(msg)
    problem = _DATA_CHECKS[name](raw.get("data"))
    if problem is not None:
        raise MalformedError(name + problem)
    data: dict[str, Json] = raw["data"]
    if raw.get("subject") != data[known.subject]:
        msg = f"{name}: subject {raw.get('subject')} is not the data's {known.subject}"
        raise MalformedError(msg)
    if raw.get("program") != data["program_id"]:
        msg = f"{name}: program {raw.get('program')} is not the data's"
        raise MalformedError(msg)
    if raw["type"] not in _text(raw, "dataschema"):
        msg = f"{name}: dataschema {raw['dataschema']} does not name the type"
        raise MalformedError(msg)
    _text(raw, "region")
    return Event(
        line=number,
        id=_text(raw, "id"),
        source=raw["source"],
        name=name,
        subject=_text(raw, "subject"),
        time=instant(raw.get("time")),
        program=_text(raw, "program"),
        version=_whole(raw, "aggregateversion", least=1),
        causation=_text(raw, "causationid") if raw.get("causationid") is not None else None,
        correlation=_text(raw, "correlationid") if raw.get("correlationid") is not None else None,
        trace=_trace(raw),
        topic=raw["logtopic"],
        partition=_whole(raw, "logpartition"),
        offset=_whole(raw, "logoffset"),
        data=data,
        raw=raw,
    )


def _text(raw: dict[str, Json], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value:
        msg = f"{key} is missing or not a string"
        raise MalformedError(msg)
    return value


def _whole(raw: dict[str, Json], key: str, least: int = 0) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        msg = f"{key} is not an integer from {least}"
        raise MalformedError(msg)
    return value


def _trace(raw: dict[str, Json]) -> str | None:
    if raw.get("traceparent") is None:
        return None
    match = _TRACE.fullmatch(_text(raw, "traceparent"))
    if match is None:
        msg = f"traceparent {raw['traceparent']} is malformed"
        raise MalformedError(msg)
    return match[1]


def _fields_check(fields: Iterable[tuple[str, str]]) -> Check:
    checks = [(name, _check(kind.removesuffix("?")), kind.endswith("?")) for name, kind in fields]

    def problem(value: Json) -> str | None:
        if not isinstance(value, dict):
            return " is not an object"
        for name, check, optional in checks:
            item = value.get(name)
            if item is None and optional:
                continue
            found = check(item)
            if found is not None:
                return f".{name}{found}"
        return None

    return problem


@cache
def _check(kind: str) -> Check:
    """Return what tells a problem of a value, with the path to it, or None."""
    if kind.endswith("*"):
        return partial(_list_problem, _check(kind[:-1]))
    if kind.endswith("%"):
        return partial(_object_problem, _check(kind[:-1]))
    if kind in PARTS:
        return _fields_check(fields_of(PARTS[kind]))
    if kind in CODES:
        return partial(_code_problem, CODES[kind])
    return partial(_scalar_problem, kind, SCALARS[kind])


def _list_problem(check: Check, value: Json) -> str | None:
    if not isinstance(value, list):
        return " is not a list"
    return next((found for item in value if (found := check(item)) is not None), None)


def _object_problem(check: Check, value: Json) -> str | None:
    if not isinstance(value, dict):
        return " is not an object"
    return next((found for item in value.values() if (found := check(item)) is not None), None)


def _code_problem(codes: frozenset[str], value: Json) -> str | None:
    if isinstance(value, str) and value in codes:
        return None
    return f": {value!r} is none of {sorted(codes)}"


def _scalar_problem(kind: str, accepts: Callable[[Json], bool], value: Json) -> str | None:
    return None if accepts(value) else f": {value!r} is no {kind}"


def _is_int(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_instant(value: Json) -> bool:
    try:
        instant(value)
    except MalformedError:
        return False
    return True


def _is_date(value: Json) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


SCALARS: dict[str, Callable[[Json], bool]] = {
    "id": lambda value: isinstance(value, str) and value != "",
    "text": lambda value: isinstance(value, str),
    "int": _is_int,
    "number": lambda value: _is_int(value) or isinstance(value, float),
    "bool": lambda value: isinstance(value, bool),
    "time": _is_instant,
    "date": _is_date,
    "clock": lambda value: isinstance(value, str) and bool(_CLOCK.fullmatch(value)),
}

_DATA_CHECKS: dict[str, Check] = {
    name: _fields_check(kind.fields) for name, kind in EVENT_TYPES.items()
}
