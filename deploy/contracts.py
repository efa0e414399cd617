"""The published contract: JSON Schemas and an AsyncAPI 3 document, written and checked.

Everything is derived from `shared.events`. Beside the current schema of each type, the repository
keeps every one that was ever published (`schemas/history/<type>/<n>.json`, from 1 upwards); a
type must stay compatible with all of them, by the rules of `deploy.compatibility`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import CoreSchema

import shared.events
from deploy.compatibility import Schema, breaking_changes, structure
from shared.events.envelope import CONTENT_TYPE, Envelope, Event, data_schema
from shared.events.registry import EVENT_CLASSES
from shared.events.topics import MAX_EVENT_BYTES, TOPICS, Topic

CONTRACT_ROOT = Path(shared.events.__path__[0])
ENVELOPE = "envelope"

_ASYNCAPI = "asyncapi.json"
_SCHEMAS = "schemas"
_HISTORY = "history"
_DEAD_LETTER = "dead-letter"
_KAFKA_BINDING = "0.5.0"
_DAY_MS = 24 * 60 * 60 * 1000


class ContractBreakError(Exception):
    """The code breaks what is published; `problems` names each field and rule."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class _Generator(GenerateJsonSchema):
    def generate(self, schema: CoreSchema, mode: JsonSchemaMode = "validation") -> Schema:
        return {"$schema": self.schema_dialect, **super().generate(schema, mode)}

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False


def event_schema(event: type[Event]) -> Schema:
    """Return the JSON Schema of the data of `event`, as it is written.

    Unknown fields are allowed: newer producers add some. A field that is not required has a
    default, which is what it means where it is missing.
    """
    return event.model_json_schema(mode="serialization", schema_generator=_Generator) | {
        "$id": data_schema(event.type()),
        "x-topic": event.topic,
        "x-subject": event.subject_field,
    }


def envelope_schema() -> Schema:
    """Return the JSON Schema of the CloudEvents attributes in JSON mode, without `data`."""
    schema = Envelope.model_json_schema(mode="serialization", schema_generator=_Generator)
    properties = {name: _when_present(part) for name, part in schema["properties"].items()}
    always = [name for name, part in properties.items() if "default" in part]
    return schema | {
        "$id": data_schema(ENVELOPE),
        "properties": properties,
        "required": sorted({*schema["required"], *always}),
    }


def contract_schemas() -> dict[str, Schema]:
    """Return every schema by the name of its file: the types, and the envelope."""
    types = {event.type(): event_schema(event) for event in EVENT_CLASSES}
    return types | {ENVELOPE: envelope_schema()}


def asyncapi() -> Schema:
    """Return the AsyncAPI 3.0 document: channels, messages, and who sends and receives what.

    Payloads refer to the schema files by paths relative to the document.
    """
    return {
        "asyncapi": "3.0.0",
        "id": "urn:upward:events",
        "info": {
            "title": "Upward events",
            "version": "1",
            "description": (
                "CloudEvents 1.0 on Kafka in binary mode: attributes in ce_* headers, JSON in the "
                "value, the aggregate's id as the key. Each type carries its own version; within "
                "one, fields are only ever added, so ignore those you do not know. Delivery is at "
                "least once: tell repeats by ce_id, order by ce_aggregateversion."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {topic.name: _channel(topic) for topic in TOPICS.values()},
        "operations": {
            f"{service}.{action}.{topic.name}": _operation(service, action, topic)
            for topic in TOPICS.values()
            for action, services in (("send", (topic.owner,)), ("receive", topic.readers))
            for service in services
        },
        "components": {
            "messages": {event.type(): _message(event) for event in EVENT_CLASSES}
            | {_DEAD_LETTER: _dead_letter()},
            "schemas": {"headers": _headers()},
        },
    }


def export_contracts(root: Path = CONTRACT_ROOT) -> list[Path]:
    """Write the contract under `root` and return the files that changed.

    A schema whose structure changed also becomes the next of its history. Raises
    ContractBreakError, with nothing written, where the code breaks a published schema. Blocks on
    the disk.
    """
    problems = list(_breaks(root))
    if problems:
        raise ContractBreakError(problems)
    files = _files(root)
    for name, schema in contract_schemas().items():
        versions = _versions(root, name)
        if not versions or structure(_load(versions[-1])) != structure(schema):
            files[_version_path(root, name, len(versions) + 1)] = _dump(schema)
    changed = [path for path, text in files.items() if _read(path) != text]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    return changed


def check_contracts(root: Path = CONTRACT_ROOT) -> list[str]:
    """Return what is wrong with the contract under `root`; nothing is written.

    Files that differ from the code, gaps in the history, and every incompatibility of a schema
    with any one of its history. Raises ValueError for a history that is not JSON. Blocks on the
    disk.
    """
    return [*_drift(root), *_breaks(root)]


def _drift(root: Path) -> Iterator[str]:
    files = _files(root)
    for path, text in files.items():
        committed = _read(path)
        if committed is None:
            yield f"{path.relative_to(root)}: missing; run `upward contracts export`"
        elif committed != text:
            yield f"{path.relative_to(root)}: differs from the code; run `upward contracts export`"
    for stray in sorted((root / _SCHEMAS).glob("*.json")):
        if stray not in files:
            yield f"{stray.relative_to(root)}: the code has no such type"
    for name, schema in contract_schemas().items():
        versions = _versions(root, name)
        if not versions or structure(_load(versions[-1])) != structure(schema):
            folder = _version_path(root, name, 1).parent.relative_to(root)
            yield f"{folder}: lacks the present schema; run `upward contracts export`"


def _breaks(root: Path) -> Iterator[str]:
    schemas = contract_schemas()
    for folder in sorted((root / _SCHEMAS / _HISTORY).glob("*")):
        name, versions = folder.name, _versions(root, folder.name)
        for number, path in enumerate(versions, start=1):
            if path.stem != str(number):
                yield f"{path.relative_to(root)}: {number}.json is missing before it"
                break
        if name not in schemas:
            yield f"{name}: type removed or renamed"
            continue
        for path in versions:
            for problem in breaking_changes(_load(path), schemas[name]):
                yield f"{name}: {problem} (against {path.relative_to(root)})"


def _files(root: Path) -> dict[Path, str]:
    schemas = {
        root / _SCHEMAS / f"{name}.json": _dump(schema)
        for name, schema in contract_schemas().items()
    }
    return schemas | {root / _ASYNCAPI: _dump(asyncapi())}


def _versions(root: Path, name: str) -> list[Path]:
    folder = _version_path(root, name, 1).parent
    return sorted(folder.glob("*.json"), key=lambda path: int(path.stem))


def _version_path(root: Path, name: str, number: int) -> Path:
    return root / _SCHEMAS / _HISTORY / name / f"{number}.json"


def _dump(document: Schema) -> str:
    return json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def _load(path: Path) -> Schema:
    schema: Schema = json.loads(path.read_text(encoding="utf-8"))
    return schema


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _when_present(schema: Schema) -> Schema:
    # CloudEvents leaves out an attribute that has no value; it is never null.
    if "anyOf" not in schema:
        return schema
    present: Schema = next(branch for branch in schema["anyOf"] if branch != {"type": "null"})
    return present


def _channel(topic: Topic) -> Schema:
    retention = -1 if topic.retention_days is None else topic.retention_days * _DAY_MS
    return {
        "address": topic.name,
        "messages": {
            name: {"$ref": f"#/components/messages/{name}"} for name in _message_names(topic)
        },
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {"retention.ms": retention},
                "bindingVersion": _KAFKA_BINDING,
            }
        },
        "x-access": topic.access,
        "x-owner": topic.owner,
        "x-readers": list(topic.readers),
    }


def _message_names(topic: Topic) -> list[str]:
    return [event.type() for event in EVENT_CLASSES if event.topic == topic.name] or [_DEAD_LETTER]


def _operation(service: str, action: str, topic: Topic) -> Schema:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "messages": [
            {"$ref": f"#/channels/{topic.name}/messages/{name}"} for name in _message_names(topic)
        ],
        "x-service": service,
    }


def _message(event: type[Event]) -> Schema:
    schema, owner = event_schema(event), TOPICS[event.topic].owner
    return {
        "name": event.type(),
        "title": schema["title"],
        "summary": schema["description"],
        "contentType": CONTENT_TYPE,
        "headers": {
            "allOf": [
                {"$ref": "#/components/schemas/headers"},
                {
                    "type": "object",
                    "properties": {
                        "ce_type": {"const": event.type()},
                        "ce_source": {"pattern": f"/{owner}$"},
                        "ce_dataschema": {"const": data_schema(event.type())},
                    },
                },
            ]
        },
        "payload": {"$ref": f"./{_SCHEMAS}/{event.type()}.json"},
        "correlationId": {"location": "$message.header#/ce_correlationid"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": f"The event's {event.subject_field}."},
                "bindingVersion": _KAFKA_BINDING,
            }
        },
        "x-max-bytes": MAX_EVENT_BYTES,
    }


def _headers() -> Schema:
    schema = envelope_schema()
    names = {
        name: "content-type" if name == "datacontenttype" else f"ce_{name}"
        for name in schema["properties"]
    }
    return {
        "type": "object",
        "properties": {
            names[name]: _as_text(part) for name, part in sorted(schema["properties"].items())
        },
        "required": [names[name] for name in schema["required"]],
    }


def _as_text(schema: Schema) -> Schema:
    # A Kafka header is text: CloudEvents writes its integers in decimal.
    return {"type": "string", "pattern": "^[1-9][0-9]*$"} if schema["type"] == "integer" else schema


def _dead_letter() -> Schema:
    whole = {"type": "string", "pattern": "^[0-9]+$"}
    instant = envelope_schema()["properties"]["time"]
    base64 = {"type": "string", "contentEncoding": "base64"}
    headers = {
        "dlq_reason": {"type": "string"},
        "dlq_topic": {"type": "string"},
        "dlq_partition": whole,
        "dlq_offset": whole,
        "dlq_group": {"type": "string"},
        "dlq_attempts": whole,
        "dlq_first_at": instant,
        "dlq_last_at": instant,
        "dlq_key": base64 | {"description": "The key as received; empty where it was null."},
        "dlq_headers": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "The headers as received: a list of name and base64 value or null.",
        },
    }
    return {
        "name": _DEAD_LETTER,
        "title": "DeadLetter",
        "summary": "A record that its reader could not process: the value as received, and why.",
        "contentType": "application/octet-stream",
        "headers": {"type": "object", "properties": headers, "required": sorted(headers)},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": "The dead letter's id."},
                "bindingVersion": _KAFKA_BINDING,
            }
        },
    }
