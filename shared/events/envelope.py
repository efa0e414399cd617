"""The CloudEvents 1.0 envelope: what is in the headers of every record on the bus."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.clock import Instant

CONTENT_TYPE: Literal["application/json"] = "application/json"
_PREFIX = "ce_"

Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""A word of a vocabulary that may grow: a reader takes words it does not know as they are."""


class Event(BaseModel):
    """The data of one event: what happened, in the past tense, frozen.

    A subclass names its `name` (without prefix and version), `topic` and the field that holds the
    aggregate's id. Unknown fields are ignored, so that a newer producer can add some.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

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
    id: str = Field(min_length=1, max_length=64)
    source: str = Field(pattern=r"^/upward/[a-z0-9-]+/[a-z]+$")
    type: str = Field(pattern=r"^upward\.[a-z-]+\.v\d+$")
    subject: str = Field(min_length=1, max_length=200)
    time: Instant
    datacontenttype: Literal["application/json"] = CONTENT_TYPE
    dataschema: str
    program: str
    region: str
    aggregateversion: int = Field(ge=1)
    causationid: str | None = None
    correlationid: str | None = None
    traceparent: str | None = None

    def to_headers(self) -> dict[str, str]:
        """Return Kafka headers in CloudEvents' binary mode; absent attributes are left out."""
        attributes = self.model_dump(mode="json", exclude_none=True)
        content_type = attributes.pop("datacontenttype")
        return {"content-type": content_type} | {
            _PREFIX + key: str(value) for key, value in attributes.items()
        }

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, bytes | None]]) -> "Envelope":
        """Read the binary mode. Raises ValueError (pydantic's too) for anything else."""
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
        return cls.model_validate(attributes)

    def to_cloudevent(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return CloudEvents' JSON mode: the attributes and the data in one object."""
        return self.model_dump(mode="json", exclude_none=True) | {"data": dict(data)}


_ATTRIBUTES = {_PREFIX + name: name for name in Envelope.model_fields} | {
    "content-type": "datacontenttype"
}
"""The attribute that each header holds."""


def data_schema(event_type: str) -> str:
    """Return the name under which the schema of `event_type` is published."""
    return f"urn:upward:schema:{event_type}"
