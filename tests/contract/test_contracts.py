"""The published contract: golden events, schemas, the AsyncAPI document, and their drift."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from pydantic import BaseModel, Field, create_model

from deploy.compatibility import Schema, breaking_changes, structure
from deploy.contracts import (
    CONTRACT_ROOT,
    ContractBreakError,
    asyncapi,
    check_contracts,
    contract_schemas,
    export_contracts,
)
from shared.events.envelope import Code, Envelope, Event, data_schema
from shared.events.registry import EVENT_CLASSES, EVENTS_BY_TYPE
from shared.events.topics import SERVICES, TOPICS
from shared.messaging.dead_letters import RawRecord, bury
from shared.store.port import Document, Transaction
from tests.support.golden import (
    GOLDEN_FOLDER,
    golden,
    golden_envelope,
    golden_event,
    golden_record,
)

PERSONAL = re.compile(
    r"(^|_)(name|names|surname|email|mail|phone|mobile|street|address|birth\w*|age|gender|sex|"
    r"ethnicity|race|religion|disability|nationality|pronouns|salary|photo|generation|traits?|"
    r"comments?|notes?|message|answers?|employee_id|external_id|user|login|ip)($|_)"
)

every_event = pytest.mark.parametrize("kind", EVENT_CLASSES, ids=lambda kind: kind.name)


def test_every_type_has_one_golden_event_and_every_golden_event_a_type() -> None:
    assert len(EVENTS_BY_TYPE) == len(EVENT_CLASSES)
    assert {path.stem for path in GOLDEN_FOLDER.iterdir()} == EVENTS_BY_TYPE.keys()


@every_event
def test_a_golden_event_is_what_its_class_reads_and_writes(kind: type[Event]) -> None:
    written = golden(kind.type())
    key, value, headers = golden_record(kind)

    assert Envelope.from_headers(headers).to_cloudevent(json.loads(value)) == written
    assert key.decode() == written["subject"] == golden_event(kind).subject


@every_event
def test_a_golden_event_is_complete_and_in_its_place(kind: type[Event]) -> None:
    envelope, event = golden_envelope(kind), golden_event(kind)

    assert golden(kind.type())["data"].keys() == kind.model_fields.keys()
    assert envelope.type == kind.type()
    assert envelope.dataschema == data_schema(kind.type())
    assert envelope.program == event.program_id
    assert envelope.source.rpartition("/")[2] == TOPICS[kind.topic].owner


@every_event
def test_a_golden_event_satisfies_the_committed_schemas(kind: type[Event]) -> None:
    written = golden(kind.type())
    data, envelope = _committed(kind.type()), _committed("envelope")

    _validator(data).validate(written["data"])
    _validator(envelope).validate(written)
    assert data["$id"] == written["dataschema"]


@every_event
def test_a_schema_lets_a_newer_producer_add_a_field(kind: type[Event]) -> None:
    newer = golden(kind.type())["data"] | {"added_later": 1}

    _validator(_committed(kind.type())).validate(newer)
    assert kind.model_validate(newer) == golden_event(kind)


@every_event
def test_a_schema_refuses_an_event_without_a_required_field(kind: type[Event]) -> None:
    schema, data = _committed(kind.type()), golden(kind.type())["data"]
    validator = _validator(schema)

    for name in schema["required"]:
        without = {key: value for key, value in data.items() if key != name}
        assert not validator.is_valid(without), name


def test_a_schema_refuses_a_time_that_would_not_sort_as_text() -> None:
    validator = _validator(_committed("upward.paused.v1"))
    data = golden("upward.paused.v1")["data"]

    assert validator.is_valid(data)
    for time in ("2026-03-16T09:00:00Z", "2026-03-16T10:00:00.000000+01:00", "yesterday"):
        assert not validator.is_valid(data | {"at": time}), time


def test_no_two_golden_events_share_an_id_or_a_place_in_their_aggregate() -> None:
    envelopes = [golden_envelope(kind) for kind in EVENT_CLASSES]

    assert len({envelope.id for envelope in envelopes}) == len(envelopes)
    places = {(each.source, each.subject, each.aggregateversion) for each in envelopes}
    assert len(places) == len(envelopes)


def test_aggregate_versions_follow_the_time_of_the_golden_events() -> None:
    by_aggregate: dict[tuple[str, str], list[Envelope]] = {}
    for envelope in sorted(map(golden_envelope, EVENT_CLASSES), key=lambda each: each.time):
        by_aggregate.setdefault((envelope.source, envelope.subject), []).append(envelope)

    assert max(map(len, by_aggregate.values())) > 1
    for story in by_aggregate.values():
        first = story[0].aggregateversion
        assert [each.aggregateversion for each in story] == [*range(first, first + len(story))]


def test_nothing_in_a_schema_is_named_like_personal_data() -> None:
    names = {
        name
        for document in contract_schemas().values()
        for part in _objects(document)
        for name in part.get("properties", {})
    }

    assert "participant_id" in names
    assert PERSONAL.search("mentor_email")
    # The one exception is a program's threshold: a number of people, and no text of theirs.
    assert [name for name in names if PERSONAL.search(name)] == ["comments"]
    published = structure(contract_schemas()["upward.program-published.v1"])
    thresholds = published["properties"]["thresholds"]["properties"]
    assert thresholds["comments"]["type"] == "integer"


# The committed files


def test_the_committed_contract_is_the_code_and_breaks_nothing_published() -> None:
    assert check_contracts() == []


def test_an_export_is_complete_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    written = export_contracts(tmp_path)

    assert check_contracts(tmp_path) == []
    assert sorted(written) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert all(path.read_text(encoding="utf-8").endswith("}\n") for path in written)
    assert export_contracts(tmp_path) == []


@pytest.mark.parametrize("name", ["schemas/upward.paired.v1.json", "asyncapi.json"])
def test_a_committed_file_that_differs_or_is_missing_is_reported(tmp_path: Path, name: str) -> None:
    export_contracts(tmp_path)
    (tmp_path / name).write_text("{}\n", encoding="utf-8")
    assert check_contracts(tmp_path) == [
        f"{name}: differs from the code; run `upward contracts export`"
    ]
    (tmp_path / name).unlink()
    assert check_contracts(tmp_path) == [f"{name}: missing; run `upward contracts export`"]


def test_a_file_of_no_type_is_reported(tmp_path: Path) -> None:
    export_contracts(tmp_path)
    (tmp_path / "schemas" / "upward.unknown.v1.json").write_text("{}\n", encoding="utf-8")

    assert check_contracts(tmp_path) == [
        "schemas/upward.unknown.v1.json: the code has no such type"
    ]


def test_a_compatible_change_becomes_the_next_of_the_history(tmp_path: Path) -> None:
    export_contracts(tmp_path)
    history = tmp_path / "schemas/history/upward.session-held.v1"
    older = json.loads((history / "1.json").read_text(encoding="utf-8"))
    del older["properties"]["tags"]
    (history / "1.json").write_text(json.dumps(older), encoding="utf-8")

    (problem,) = check_contracts(tmp_path)
    assert problem.startswith("schemas/history/upward.session-held.v1: lacks the present schema")
    assert export_contracts(tmp_path) == [history / "2.json"]
    assert check_contracts(tmp_path) == []


def test_new_words_in_a_schema_are_no_new_version(tmp_path: Path) -> None:
    export_contracts(tmp_path)
    first = tmp_path / "schemas/history/upward.paired.v1/1.json"
    older = json.loads(first.read_text(encoding="utf-8")) | {"description": "In other words."}
    first.write_text(json.dumps(older), encoding="utf-8")

    assert export_contracts(tmp_path) == []
    assert check_contracts(tmp_path) == []


def test_a_break_with_any_schema_ever_published_is_reported_and_not_exported(
    tmp_path: Path,
) -> None:
    export_contracts(tmp_path)
    history = tmp_path / "schemas/history/upward.withdrawn.v1"
    latest = (history / "1.json").read_text(encoding="utf-8")
    first = json.loads(latest)
    first["properties"]["cause"] = {"type": "string"}
    (history / "1.json").write_text(json.dumps(first), encoding="utf-8")
    for number in range(2, 12):
        (history / f"{number}.json").write_text(latest, encoding="utf-8")
    problem = (
        "upward.withdrawn.v1: cause: field removed or renamed "
        "(against schemas/history/upward.withdrawn.v1/1.json)"
    )

    assert check_contracts(tmp_path) == [problem]
    (tmp_path / "asyncapi.json").unlink()
    with pytest.raises(ContractBreakError, match="cause: field removed") as caught:
        export_contracts(tmp_path)
    assert caught.value.problems == [problem]
    assert not (tmp_path / "asyncapi.json").exists()


def test_a_type_that_was_published_and_is_gone_is_reported(tmp_path: Path) -> None:
    export_contracts(tmp_path)
    paired = tmp_path / "schemas/history/upward.paired.v1"
    paired.with_name("upward.matched.v1").mkdir()

    assert check_contracts(tmp_path) == ["upward.matched.v1: type removed or renamed"]


def test_a_gap_in_the_history_is_reported(tmp_path: Path) -> None:
    export_contracts(tmp_path)
    history = tmp_path / "schemas/history/upward.paired.v1"
    (history / "1.json").rename(history / "2.json")

    assert check_contracts(tmp_path) == [
        "schemas/history/upward.paired.v1/2.json: 1.json is missing before it"
    ]


# Compatibility, rule by rule


class Inner(BaseModel):
    level: int
    region: str | None = None


class Before(BaseModel):
    pair_id: str
    score: int = Field(ge=0, le=100)
    kind: Literal["start", "end"]
    reason: Code
    mentor: Inner
    mentees: tuple[Inner, ...] = Field(min_length=1)
    counts: dict[str, int]
    weights: dict[Literal["a", "b"], int] = Field(default_factory=dict)
    note: str | None
    minutes: int = 30


def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(mode="serialization")


def _after(**fields: Any) -> Schema:
    return _schema(create_model("After", __base__=Before, **fields))


def _without(name: str) -> Schema:
    fields: dict[str, Any] = {
        key: (field.annotation, field) for key, field in Before.model_fields.items() if key != name
    }
    return _schema(create_model("After", **fields))


class InnerWithText(BaseModel):
    level: str
    region: str | None = None


class InnerWithoutRegion(BaseModel):
    level: int


class InnerWithDepartment(Inner):
    department: str


@pytest.mark.parametrize(
    ("after", "problems"),
    [
        (_without("score"), ["score: field removed or renamed"]),
        (_without("minutes"), ["minutes: field removed or renamed"]),
        (
            _after(program_id=(str, ...)),
            ["program_id: new field without a default, which old events lack"],
        ),
        (_after(pair_id=(int, ...)), ["pair_id: type changed from string to integer"]),
        (
            _after(score=(float, Field(ge=0, le=100))),
            ["score: type changed from integer to number"],
        ),
        (
            _after(pair_id=(int | str, ...)),
            ["pair_id: type changed from string to a union"],
        ),
        (_after(pair_id=(str | None, ...)), ["pair_id: may now be null"]),
        (
            _after(note=(str, ...)),
            ["note: may no longer be null, as it is in old events"],
        ),
        (
            _after(pair_id=(str, "none")),
            ["pair_id: required field became optional, and old readers count on it"],
        ),
        (
            _after(minutes=(int, ...)),
            ["minutes: optional field became required, and old events may lack it"],
        ),
        (_after(minutes=(int, 60)), ["minutes: default changed from 30 to 60"]),
        (
            _after(kind=(Literal["start"], ...)),
            ['kind: value "end" removed, which old events have'],
        ),
        (
            _after(kind=(Literal["start", "mid", "end"], ...)),
            ['kind: value "mid" added, which old readers refuse'],
        ),
        (_after(kind=(str, ...)), ["kind: enumeration dropped"]),
        (_after(note=(Literal["x"] | None, ...)), ["note: enumeration introduced"]),
        (
            _after(score=(int, Field(ge=1, le=100))),
            ["score: minimum tightened from 0 to 1"],
        ),
        (
            _after(score=(int, Field(ge=-1, le=100))),
            ["score: minimum loosened from 0 to -1"],
        ),
        (
            _after(score=(int, Field(ge=0, le=99))),
            ["score: maximum tightened from 100 to 99"],
        ),
        (
            _after(score=(int, Field(ge=0))),
            ["score: maximum loosened from 100 to null"],
        ),
        (
            _after(pair_id=(str, Field(max_length=9))),
            ["pair_id: maxLength tightened from null to 9"],
        ),
        (
            _after(mentees=(tuple[Inner, ...], ...)),
            ["mentees: minItems loosened from 1 to null"],
        ),
        (
            _after(reason=(str, Field(pattern="^[a-z]+$"))),
            ['reason: pattern changed from "^[a-z][a-z0-9_]*$" to "^[a-z]+$"'],
        ),
        (
            _after(pair_id=(datetime, ...)),
            ['pair_id: format changed from null to "date-time"'],
        ),
        (
            _after(mentor=(InnerWithText, ...)),
            ["mentor.level: type changed from integer to string"],
        ),
        (
            _after(mentees=(tuple[InnerWithoutRegion, ...], Field(min_length=1))),
            ["mentees[].region: field removed or renamed"],
        ),
        (
            _after(mentor=(InnerWithDepartment, ...)),
            ["mentor.department: new field without a default, which old events lack"],
        ),
        (
            _after(counts=(dict[str, str], ...)),
            ["counts{}: type changed from integer to string"],
        ),
        (
            _after(weights=(dict[Literal["a"], int], Field(default_factory=dict))),
            ['weights{key}: value "b" removed, which old events have'],
        ),
        (
            _schema(Before) | {"x-topic": "upward.other.v1"},
            ['event: x-topic changed from null to "upward.other.v1"'],
        ),
    ],
    ids=lambda value: re.sub(r"\W+", "-", value[0]) if isinstance(value, list) else None,
)
def test_a_breaking_change_is_reported_with_its_field_and_rule(
    after: Schema, problems: list[str]
) -> None:
    assert breaking_changes(_schema(Before), after) == problems


class Described(Inner):
    """Other words."""


@pytest.mark.parametrize(
    "after",
    [
        _schema(Before),
        _after(added=(int, 0)),
        _after(added=(tuple[Inner, ...], Field(default_factory=tuple))),
        _after(score=(int, Field(ge=0, le=100, title="Score", description="Points."))),
        _after(kind=(Literal["end", "start"], ...)),
        _after(mentor=(Described, ...)),
    ],
)
def test_an_additive_change_or_other_words_break_nothing(after: Schema) -> None:
    assert breaking_changes(_schema(Before), after) == []


def test_a_renamed_field_is_reported_under_both_names() -> None:
    after = _without("score")
    after["properties"]["points"] = {"type": "integer"}
    after["required"].append("points")

    assert breaking_changes(_schema(Before), after) == [
        "points: new field without a default, which old events lack",
        "score: field removed or renamed",
    ]


def test_the_structure_keeps_fields_that_are_named_like_annotations() -> None:
    fields: dict[str, Any] = {"title": (str, ...), "description": (str, "")}

    kept = structure(_schema(create_model("Titled", **fields)))

    assert kept["properties"].keys() == {"title", "description"}


# The AsyncAPI document, against the members that AsyncAPI 3.0 requires and allows

ALLOWED = {
    "root": {"asyncapi", "id", "info", "defaultContentType", "channels", "operations"}
    | {"components"},
    "channel": {"address", "messages", "bindings"},
    "operation": {"action", "channel", "messages"},
    "message": {"name", "title", "summary", "contentType", "headers", "payload"}
    | {"correlationId", "bindings"},
}


def _plain(document: Schema) -> set[str]:
    return {key for key in document if not key.startswith("x-")}


def test_the_document_has_the_members_that_asyncapi_requires_and_no_others() -> None:
    document = asyncapi()

    assert document["asyncapi"] == "3.0.0"
    assert document["info"].keys() >= {"title", "version"}
    assert _plain(document) <= ALLOWED["root"]
    for channel in document["channels"].values():
        assert _plain(channel) <= ALLOWED["channel"]
        assert channel["messages"]
    for operation in document["operations"].values():
        assert _plain(operation) <= ALLOWED["operation"]
        assert operation["action"] in ("send", "receive")
        assert operation["channel"].keys() == {"$ref"}
    for message in document["components"]["messages"].values():
        assert _plain(message) <= ALLOWED["message"]
    for components in document["components"].values():
        assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", key) for key in components)


def test_every_reference_of_the_document_resolves() -> None:
    document = json.loads((CONTRACT_ROOT / "asyncapi.json").read_text(encoding="utf-8"))
    references = [part["$ref"] for part in _objects(document) if "$ref" in part]

    assert {reference[0] for reference in references} == {"#", "."}
    for reference in references:
        if reference.startswith("#/"):
            target = document
            for step in reference.removeprefix("#/").split("/"):
                target = target[step]
        else:
            assert (CONTRACT_ROOT / reference).is_file()


def test_an_operation_names_messages_of_its_own_channel() -> None:
    document = asyncapi()
    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"]
        address = channel.removeprefix("#/channels/")
        assert [message["$ref"] for message in operation["messages"]] == [
            f"{channel}/messages/{name}" for name in document["channels"][address]["messages"]
        ]


def test_every_topic_has_its_channel_with_access_readers_and_partitions() -> None:
    channels = asyncapi()["channels"]

    assert channels.keys() == TOPICS.keys()
    for topic in TOPICS.values():
        channel = channels[topic.name]
        assert channel["address"] == topic.name
        assert (channel["x-access"], channel["x-owner"]) == (topic.access, topic.owner)
        assert channel["x-readers"] == list(topic.readers)
        assert channel["bindings"]["kafka"]["partitions"] == topic.partitions


def test_dead_letters_expire_and_events_stay() -> None:
    for name, channel in asyncapi()["channels"].items():
        retention = channel["bindings"]["kafka"]["topicConfiguration"]["retention.ms"]
        assert retention == (30 * 86_400_000 if ".dlq." in name else -1)


def test_every_type_is_a_message_of_exactly_its_own_topic() -> None:
    placed = [
        (name, address)
        for address, channel in asyncapi()["channels"].items()
        for name in channel["messages"]
        if name != "dead-letter"
    ]

    assert sorted(placed) == sorted((kind.type(), kind.topic) for kind in EVENT_CLASSES)


def test_a_service_sends_what_it_owns_and_receives_what_it_reads() -> None:
    operations = asyncapi()["operations"].values()
    acts = {
        (each["x-service"], each["action"], each["channel"]["$ref"].removeprefix("#/channels/"))
        for each in operations
    }

    assert len(acts) == len(operations)
    assert {service for service, _, _ in acts} == set(SERVICES)
    assert acts == {(topic.owner, "send", topic.name) for topic in TOPICS.values()} | {
        (reader, "receive", topic.name) for topic in TOPICS.values() for reader in topic.readers
    }


@every_event
def test_the_headers_of_a_golden_record_satisfy_the_document(kind: type[Event]) -> None:
    document = asyncapi()
    message = document["components"]["messages"][kind.type()]
    shared_headers, own_headers = message["headers"]["allOf"]
    assert shared_headers == {"$ref": "#/components/schemas/headers"}
    headers = {name: value.decode() for name, value in golden_record(kind)[2]}

    for schema in (document["components"]["schemas"]["headers"], own_headers):
        assert headers.keys() - {"content-type"} >= {"ce_id"}
        _validator(schema).validate(headers)
    assert not _validator(own_headers).is_valid(headers | {"ce_type": "upward.other.v1"})
    assert headers.keys() <= document["components"]["schemas"]["headers"]["properties"].keys()


class RecordingTransaction:
    """Takes the dead letter and keeps the record that would be published."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    async def get(self, kind: type[Document], document_id: str) -> None:
        return None

    def put(self, document: Document) -> Document:
        return document

    def emit_raw(
        self, topic: str, key: str, value: bytes | None, headers: list[tuple[str, str]]
    ) -> None:
        self.headers = dict(headers)


async def test_a_dead_letter_has_the_headers_that_the_document_describes() -> None:
    schema = asyncapi()["components"]["messages"]["dead-letter"]["headers"]
    tx = RecordingTransaction()

    await bury(
        cast(Transaction, tx),
        RawRecord("upward.pairs.v1", 3, 17, b"key", b"{", (("ce_id", None),)),
        service="reporting",
        group="reporting",
        reason="data: not JSON",
        attempts=1,
        now=datetime(2026, 1, 5, tzinfo=UTC),
    )

    _validator(schema).validate(tx.headers)
    assert tx.headers.keys() == schema["properties"].keys()


def _committed(name: str) -> Schema:
    path = CONTRACT_ROOT / "schemas" / f"{name}.json"
    schema: Schema = json.loads(path.read_text(encoding="utf-8"))
    return schema


def _validator(schema: Schema) -> Draft202012Validator:
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FormatChecker())


def _objects(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from _objects(value)
