"""Events, their envelope in headers, and the registry of types and topics."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.events.envelope import Envelope, Event, data_schema
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import Paired, PairPaused, RoundCompleted
from shared.events.participants import Enrolled, RosterCounted
from shared.events.registry import EVENT_CLASSES, EVENTS_BY_TYPE
from shared.events.sessions import GroundRulesAgreed, SessionHeld
from shared.events.topics import SERVICES, TOPICS, dead_letter_topic
from tests.support.golden import golden, golden_envelope, golden_event, golden_record

every_event = pytest.mark.parametrize("kind", EVENT_CLASSES, ids=lambda kind: kind.name)

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def _headers(**changed: bytes | None) -> list[tuple[str, bytes | None]]:
    headers: dict[str, bytes | None] = dict(golden_record(Paired)[2])
    return list((headers | changed).items())


def _without(name: str) -> list[tuple[str, bytes | None]]:
    return [header for header in _headers() if header[0] != name]


@given(words, words, st.integers(1, 2**31 - 1), st.none() | words)
@settings(max_examples=50)
def test_an_envelope_survives_its_headers(
    subject: str, region: str, version: int, correlation: str | None
) -> None:
    envelope = golden_envelope(Paired).model_copy(
        update={
            "subject": subject,
            "region": region,
            "aggregateversion": version,
            "correlationid": correlation,
        }
    )
    headers = [(name, text.encode()) for name, text in envelope.to_headers().items()]

    assert Envelope.from_headers(headers) == envelope


def test_attributes_stand_in_prefixed_headers_and_the_content_type_by_its_own_name() -> None:
    headers = golden_envelope(Paired).to_headers()

    assert headers.pop("content-type") == "application/json"
    assert all(name.startswith("ce_") for name in headers)
    assert headers["ce_specversion"] == "1.0"
    assert headers["ce_aggregateversion"] == "2"
    assert headers["ce_time"] == "2026-01-21T13:20:00.000000Z"


def test_an_absent_attribute_has_no_header_and_no_member() -> None:
    envelope = golden_envelope(Paired).model_copy(update={"causationid": None})

    assert "ce_causationid" not in envelope.to_headers()
    assert "causationid" not in envelope.to_cloudevent({})


def test_the_json_mode_holds_attributes_and_data_in_one_object() -> None:
    cloudevent = golden_envelope(Paired).to_cloudevent({"pair_id": "pr_1"})

    assert cloudevent["data"] == {"pair_id": "pr_1"}
    assert cloudevent["datacontenttype"] == "application/json"
    assert cloudevent["aggregateversion"] == 2


def test_headers_of_others_are_ignored() -> None:
    foreign = [("x-request-id", b"\xff"), ("kafka_replyTopic", None), ("ce_later", b"1")]

    assert Envelope.from_headers([*foreign, *_headers()]) == golden_envelope(Paired)


@pytest.mark.parametrize("name", ["ce_id", "ce_time", "ce_traceparent", "content-type"])
def test_a_null_header_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"header {name} is null"):
        Envelope.from_headers(_headers(**{name: None}))


@pytest.mark.parametrize("name", ["ce_id", "ce_subject", "content-type"])
def test_a_header_that_is_not_utf_8_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"header {name} is not UTF-8"):
        Envelope.from_headers(_headers(**{name: b"\xff\xfe"}))


@pytest.mark.parametrize(
    "attribute",
    ["id", "source", "type", "subject", "time", "dataschema", "program", "region"],
)
def test_a_missing_attribute_is_refused_by_name(attribute: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Envelope.from_headers(_without(f"ce_{attribute}"))
    assert [error["loc"] for error in caught.value.errors()] == [(attribute,)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_specversion", b"0.3"),
        ("ce_id", b""),
        ("ce_id", b"x" * 65),
        ("ce_id", b"a\0b"),
        ("ce_subject", b"x" * 201),
        ("ce_id", b"a\x7f"),
        ("ce_id", "a\x9f".encode()),
        ("ce_source", b"matching"),
        ("ce_source", b"/upward/eu/matching/"),
        ("ce_type", b"paired"),
        ("ce_type", b"upward.paired"),
        ("ce_time", b"2026-01-21T13:20:00"),
        ("ce_time", b"yesterday"),
        ("ce_aggregateversion", b"0"),
        ("ce_aggregateversion", b"two"),
        ("content-type", b"text/plain"),
    ],
)
def test_a_wrong_attribute_is_refused_by_name(name: str, value: bytes) -> None:
    attribute = "datacontenttype" if name == "content-type" else name.removeprefix("ce_")
    with pytest.raises(ValidationError) as caught:
        Envelope.from_headers(_headers(**{name: value}))
    assert [error["loc"] for error in caught.value.errors()] == [(attribute,)]


values = st.binary(max_size=70) | st.sampled_from(
    [value for _, value in _headers()]
    + [
        b"2026-W03-1T13:20:00.000000Z",
        b"2026-01-21T13:20:00,000000Z",
        b"2026-01-21T24:20:00.000000Z",
        b"1700000000",
        b"+7",
        b"007",
        b" 7",
        b"1_0",
        b"x" * 64,
        b"a\0b",
        "a\x85".encode(),
    ]
)


@given(
    st.lists(
        st.tuples(st.sampled_from([name for name, _ in _headers()]), st.none() | values), max_size=3
    ),
    st.lists(
        st.tuples(
            st.sampled_from(["ce_later", "ce_id", "x-other", "correlation_id"]), st.none() | values
        )
    ),
    st.sets(st.sampled_from([name for name, _ in _headers()]), max_size=2),
)
def test_however_headers_are_read_the_envelope_is_what_its_rules_make_of_them(
    changed: list[tuple[str, bytes | None]],
    more: list[tuple[str, bytes | None]],
    missing: set[str],
) -> None:
    headers = [each for each in _headers(**dict(changed)) if each[0] not in missing] + more
    # One that nobody knows has each attribute read by itself.
    careful = [*headers, ("x-other", None)]
    try:
        expected = Envelope.from_headers(careful)
    except ValueError as error:
        with pytest.raises(type(error)):
            Envelope.from_headers(headers)
    else:
        assert Envelope.from_headers(headers) == expected
        assert list(Envelope.from_headers(headers).to_headers()) == list(expected.to_headers())


def test_an_event_has_no_number_that_json_has_not() -> None:
    scores = golden("upward.feedback-submitted.v1")["data"] | {"scores": {"satisfaction": math.nan}}
    with pytest.raises(ValidationError, match="finite"):
        FeedbackSubmitted.model_validate(scores)


def test_a_refusal_quotes_nothing_of_the_input() -> None:
    with pytest.raises(ValidationError) as caught:
        Envelope.from_headers(_headers(ce_time=b"jane.doe@example.org"))
    assert "jane" not in str(caught.value)
    with pytest.raises(ValidationError) as caught:
        Paired.model_validate({"mentor": "jane.doe@example.org"})
    assert "jane" not in str(caught.value)


def test_the_time_of_an_envelope_is_converted_to_utc() -> None:
    envelope = Envelope.from_headers(_headers(ce_time=b"2026-01-21T22:20:00+09:00"))

    assert envelope.time == datetime(2026, 1, 21, 13, 20, tzinfo=UTC)
    assert envelope.to_headers()["ce_time"] == "2026-01-21T13:20:00.000000Z"


@every_event
def test_an_event_is_frozen(kind: type[Event]) -> None:
    event = golden_event(kind)
    with pytest.raises(ValidationError, match="frozen"):
        event.program_id = "another"  # type: ignore[misc]  # that it is refused is the point


@every_event
def test_a_type_is_named_after_what_happened_and_its_version(kind: type[Event]) -> None:
    assert kind.type() == f"upward.{kind.name}.v1"
    assert data_schema(kind.type()) == f"urn:upward:schema:upward.{kind.name}.v1"
    assert EVENTS_BY_TYPE[kind.type()] is kind
    # The envelope must be able to carry it.
    assert golden_envelope(kind).type == kind.type()


@every_event
def test_a_topic_of_events_is_declared(kind: type[Event]) -> None:
    assert kind.topic in TOPICS


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (Paired, "pair_id"),
        (Enrolled, "participant_id"),
        (RosterCounted, "program_id"),
        (RoundCompleted, "round_id"),
        (GroundRulesAgreed, "pair_id"),
        (SessionHeld, "session_id"),
    ],
)
def test_the_subject_is_the_id_of_the_aggregate(kind: type[Event], field: str) -> None:
    event = golden_event(kind)

    assert event.subject == event.model_dump()[field] == golden_envelope(kind).subject


def test_every_concrete_event_class_is_in_the_registry() -> None:
    pending, concrete = [Event], set()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if "name" in kind.__dict__ and kind.__module__.startswith("shared.events"):
            concrete.add(kind)

    assert concrete == set(EVENT_CLASSES)


@pytest.mark.parametrize("kind", [PairPaused, SessionHeld], ids=lambda kind: kind.name)
def test_a_word_that_a_reader_does_not_know_yet_is_read(kind: type[Event]) -> None:
    data = golden_event(kind).model_dump()
    words = {"reason": "sabbatical"} if kind is PairPaused else {"tags": ["on_site"]}

    read = kind.model_validate(data | words)

    assert read.model_dump(mode="json") == golden_event(kind).model_dump(mode="json") | words


@pytest.mark.parametrize("text", ["", "She was ill", "jane.doe@example.org", "9"])
def test_a_code_is_no_free_text(text: str) -> None:
    data = golden_event(PairPaused).model_dump()
    with pytest.raises(ValidationError, match="reason"):
        PairPaused.model_validate(data | {"reason": text})


def test_every_topic_has_an_owner_and_readers_that_exist() -> None:
    for name, topic in TOPICS.items():
        assert topic.name == name
        assert {topic.owner, *topic.readers} <= set(SERVICES)
        assert topic.partitions > 0


def test_every_service_has_dead_letters_of_its_own_that_only_it_reads() -> None:
    for service in SERVICES:
        topic = TOPICS[dead_letter_topic(service)]
        assert (topic.owner, topic.readers, topic.access) == (service, (service,), "restricted")


def test_what_could_tell_something_about_one_person_is_restricted() -> None:
    restricted = {name for name, topic in TOPICS.items() if topic.access == "restricted"}

    assert restricted == {
        "upward.participants.v1",
        "upward.feedback.v1",
        *(dead_letter_topic(service) for service in SERVICES),
    }
