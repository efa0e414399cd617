"""The CloudEvents 1.0 envelope: what is in the headers of every record on the bus."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from shared.clock import Instant
from shared.frozen import of_checked

CONTENT_TYPE: Literal["application/json"] = "application/json"
_PREFIX = "ce_"
_MAX_ID = 64
_MAX_SUBJECT = 200

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_Headers = Sequence[tuple[str, bytes | None]]
_Texts = Mapping[str, bytes]  # a null among them is found where it is read

Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""A word of a vocabulary that may grow: a reader takes words it does not know as they are."""


class Event(BaseModel):
    """The data of one event: what happened, in the past tense, frozen.

    A subclass names its `name` (without prefix and version), `topic` and the field that holds the
    aggregate's id. Unknown fields are ignored, so that a newer producer can add some.
    """

    # JSON has no infinity and no NaN, though some readers of it do.
    model_config = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False
    )

    name: ClassVar[str]
    topic: ClassVar[str]
    subject_field: ClassVar[str]

    program_id: str

    @classmethod
    def type(cls) -> str:
        """Return the CloudEvents type, such as `upward.paired.v1`."""
        return f"upward.{cls.name}.v1"

    @property
    def subject(self) -> str:
        """The aggregate's id: the record's key, so one aggregate's events stay in order."""
        return str(getattr(self, self.subject_field))


class Envelope(BaseModel):
    """CloudEvents attributes and our extensions, as they stand in `ce_*` headers."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(min_length=1, max_length=_MAX_ID)
    source: str = Field(pattern=r"^/upward/[a-z0-9-]+/[a-z]+$")
    type: str = Field(pattern=r"^upward\.[a-z-]+\.v\d+$")
    subject: str = Field(min_length=1, max_length=_MAX_SUBJECT)
    time: Instant
    datacontenttype: Literal["application/json"] = CONTENT_TYPE
    dataschema: str
    program: str
    region: str
    aggregateversion: int = Field(ge=1)
    causationid: str | None = None
    correlationid: str | None = None
    traceparent: str | None = None

    @field_validator("id")
    @classmethod
    def _no_control_characters(cls, value: str) -> str:
        # CloudEvents 1.0, type String. A store may end a text at the first of them, and take two
        # events for one.
        if _CONTROL.search(value):
            raise ValueError("has a control character")
        return value

    def to_headers(self) -> dict[str, str]:
        """Return Kafka headers in CloudEvents' binary mode; absent attributes are left out."""
        attributes = self.model_dump(mode="json", exclude_none=True)
        content_type = attributes.pop("datacontenttype")
        return {"content-type": content_type} | {
            _PREFIX + key: str(value) for key, value in attributes.items()
        }

    @classmethod
    def from_headers(cls, headers: _Headers) -> "Envelope":
        """Read the binary mode. Raises ValueError (pydantic's too) for anything else."""
        return _read_plain(headers) or cls.model_validate(_attributes(headers))

    def to_cloudevent(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return CloudEvents' JSON mode: the attributes and the data in one object."""
        return self.model_dump(mode="json", exclude_none=True) | {"data": dict(data)}


_ATTRIBUTES = {_PREFIX + name: name for name in Envelope.model_fields} | {
    "content-type": "datacontenttype"
}
"""The attribute that each header holds."""


_OF_MANY = (
    "ce_specversion",
    "ce_source",
    "ce_type",
    "content-type",
    "ce_dataschema",
    "ce_program",
    "ce_region",
)
_OF_ONE = ("ce_id", "ce_subject", "ce_time", "ce_aggregateversion")
_LINKS = ("ce_causationid", "ce_correlationid", "ce_traceparent")
_OF_THE_BROKER = "correlation_id"  # FastStream sends it along
_texts_of_many: Callable[[_Texts], tuple[bytes, ...]] = itemgetter(*_OF_MANY)
_texts_of_one: Callable[[_Texts], tuple[bytes, ...]] = itemgetter(*_OF_ONE)
_is_time = re.compile(rb"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z").fullmatch
_MAX_DIGITS = 9
_ZERO = b"0"[0]
_REQUIRED = len(_OF_MANY) + len(_OF_ONE)


def _read_plain(headers: Sequence[tuple[str, Any]]) -> Envelope | None:
    """Return what pydantic would make of headers as our own producers write them, else None.

    Most of what they say is the same in all records of a producer, and is checked once. It takes
    three fifths of the time, which is much of what a consumer has to do with an event.
    """
    try:
        texts: _Texts = dict(headers)
        common = _common(_texts_of_many(texts))
        if common is None:
            return None
        own_id, own_subject, own_time, version = _texts_of_one(texts)
        event_id, subject = own_id.decode(), own_subject.decode()
        if not (
            _is_time(own_time)
            and version.isdigit()
            and len(version) <= _MAX_DIGITS
            and version[0] != _ZERO
            and 0 < len(event_id) <= _MAX_ID
            and 0 < len(subject) <= _MAX_SUBJECT
            and event_id.isprintable()
        ):
            return None
        fields = common.copy()
        fields["id"] = event_id
        fields["subject"] = subject
        fields["time"] = datetime.fromisoformat(own_time.decode())
        fields["aggregateversion"] = int(version)
        read = _REQUIRED + (_OF_THE_BROKER in texts)
        for name in _LINKS:
            if name in texts:
                fields[_ATTRIBUTES[name]] = texts[name].decode()
                read += 1
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    # Others than these, and what comes twice, are looked at one by one.
    return of_checked(Envelope, fields) if read == len(headers) else None


@lru_cache(maxsize=4096)
def _common(of_many: tuple[bytes, ...]) -> dict[str, Any] | None:
    """Return an envelope's fields with what it has in common with others, if one can have it."""
    texts = {_ATTRIBUTES[name]: text.decode() for name, text in zip(_OF_MANY, of_many, strict=True)}
    own = {"id": "any", "subject": "any", "time": "2026-01-01T00:00Z", "aggregateversion": 1}
    try:
        return dict(Envelope.model_validate(texts | own))
    except ValueError:
        return None


def _attributes(headers: _Headers) -> dict[str, str]:
    """Return the attributes among headers. Raises ValueError for the first that can't be read."""
    attributes: dict[str, str] = {}
    for key, value in headers:
        name = _ATTRIBUTES.get(key)
        if name is None and not key.startswith(_PREFIX):
            continue
        if name in attributes:
            msg = f"header {key} comes twice"
            raise ValueError(msg)
        if value is None:
            msg = f"header {key} is null"
            raise ValueError(msg)
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            msg = f"header {key} is not UTF-8"
            raise ValueError(msg) from error
        # Others' extensions are none of ours, but whoever sends them broken is not understood.
        if name is not None:
            attributes[name] = text
    # Both have a default for our own producers; a foreign record must say them.
    for required in ("specversion", "datacontenttype"):
        if required not in attributes:
            msg = f"{required} is missing"
            raise ValueError(msg)
    return attributes


def data_schema(event_type: str) -> str:
    """Return the name under which the schema of `event_type` is published."""
    return f"urn:upward:schema:{event_type}"
