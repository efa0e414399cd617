"""Feedback on the embedded platform: surveys fall due, are answered, and stay their person's."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.events.envelope import Envelope, Event
from shared.events.feedback import FeedbackSubmitted, SurveyCompleted, SurveyDue
from shared.events.pairs import Paired
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.ids import derived_id
from tests.support.golden import golden, golden_event
from tests.support.platform import RunningPlatform, json_of, running_platform
from tests.unit.feedback.builders import PULSE, held, paired, participant_of, published

SURVEYS = "/feedback/v1/surveys"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningPlatform]:
    async with running_platform(tmp_path / "data", services=["feedback"]) as platform:
        yield platform


@pytest.fixture
async def told(running: RunningPlatform) -> RunningPlatform:
    """Kim and Lou are a pair in two programs and met twice in the first, once in the second."""
    for program, pair in (("alpha", "pr_1"), ("beta", "pr_2")):
        await running.publish(published(program))
        await running.publish(paired(program, pair, "p_kim", "p_lou"))
    await running.publish(held("alpha", "pr_1", "se_1", "p_kim", "p_lou"))
    await running.publish(held("alpha", "pr_1", "se_2", "p_kim", "p_lou"))
    await running.publish(held("beta", "pr_2", "se_3", "p_kim", "p_lou"))
    await running.settle()
    return running


def survey_id(session: str, person: str, program: str = "alpha") -> str:
    return derived_id("su", session, participant_of(program, person))


async def answer(
    client: httpx.AsyncClient,
    survey: str,
    answers: object,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    return await client.post(
        f"{SURVEYS}/{survey}/responses", json={"answers": answers}, headers=headers
    )


def problem(response: httpx.Response, status: int) -> tuple[str, list[str]]:
    """Return the code and the offending fields of a refusal."""
    body: dict[str, Any] = json_of(response, status)
    return body["code"], [error["field"] for error in body["errors"]]


async def test_the_golden_events_make_the_golden_surveys_due(running: RunningPlatform) -> None:
    for kind in (ProgramPublished, Paired, SessionHeld):
        await running.publish(golden_event(kind))
    await running.settle()

    due = {event.participant_id: event for event in running.events(SurveyDue)}

    expected = golden_event(SurveyDue)
    found = due[expected.participant_id]
    assert found.model_copy(update={"survey_id": expected.survey_id}) == expected
    assert due.keys() == set(golden_event(SessionHeld).attended)


async def test_a_person_finds_their_due_surveys_and_answers_one(told: RunningPlatform) -> None:
    kim = await told.person("p_kim")
    listed = json_of(await kim.get(SURVEYS, params={"state": "due"}))
    assert isinstance(listed["items"], list)
    assert {item["survey_id"] for item in listed["items"]} == {
        survey_id("se_1", "p_kim"),
        survey_id("se_2", "p_kim"),
        survey_id("se_3", "p_kim", "beta"),
    }

    asked: dict[str, Any] = json_of(await kim.get(f"{SURVEYS}/{survey_id('se_1', 'p_kim')}"))
    assert asked["survey"]["due_on"] == "2026-02-12"
    assert [(item["item_id"], item["minimum"], item["maximum"]) for item in asked["items"]] == [
        ("satisfaction", 1, 5)
    ]

    given = json_of(await answer(kim, survey_id("se_1", "p_kim"), {"satisfaction": 4}), 201)
    assert given["scores"] == {"satisfaction": 4.0}
    assert given["submitted_on"] == told.clock.now().date().isoformat()
    assert json_of(await kim.get(f"/feedback/v1/responses/{given['response_id']}")) == given

    completed = json_of(await kim.get(SURVEYS, params={"state": "completed"}))
    assert isinstance(completed["items"], list)
    (item,) = completed["items"]
    assert (item["state"], item["response_id"]) == ("completed", given["response_id"])


async def test_surveys_are_paged_the_longest_due_first(running: RunningPlatform) -> None:
    known = golden_event(SessionHeld).held_at
    await running.publish(published("alpha"))
    await running.publish(paired("alpha", "pr_1", "p_kim", "p_lou"))
    for number in range(5):
        at = known.replace(day=20 - number)
        await running.publish(held("alpha", "pr_1", f"se_{number}", "p_kim", at=at))
    await running.settle()
    kim = await running.person("p_kim")

    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2"} | ({} if cursor is None else {"cursor": cursor})
        body: dict[str, Any] = json_of(await kim.get(SURVEYS, params=params))
        seen += [item["session_id"] for item in body["items"]]
        cursor = body["next_cursor"]
        if cursor is None:
            break

    assert seen == ["se_4", "se_3", "se_2", "se_1", "se_0"]


async def test_an_answer_stands_and_its_repetition_changes_nothing(told: RunningPlatform) -> None:
    kim, survey = await told.person("p_kim"), survey_id("se_1", "p_kim")
    key = {"Idempotency-Key": "first"}

    first = await answer(kim, survey, {"satisfaction": 2}, key)
    with_key = await answer(kim, survey, {"satisfaction": 2}, key)
    without_key = await answer(kim, survey, {"satisfaction": 2})

    assert json_of(first, 201) == json_of(with_key, 201) == json_of(without_key, 201)
    assert problem(await answer(kim, survey, {"satisfaction": 3}), 409)[0] == "already_answered"
    reused = await answer(kim, survey, {"satisfaction": 3}, key)
    assert problem(reused, 422) == ("idempotency_key_reused", ["Idempotency-Key"])
    await told.settle()
    assert [event.scores for event in told.events(FeedbackSubmitted)] == [{"satisfaction": 2.0}]
    assert len(told.events(SurveyCompleted)) == 1


async def test_a_wrong_answer_is_refused_with_its_field_and_rule(told: RunningPlatform) -> None:
    kim, item = await told.person("p_kim"), "answers.satisfaction"
    wrong: list[tuple[dict[str, object], str, str]] = [
        ({"satisfaction": 0}, "out_of_scale", item),
        ({"satisfaction": 6}, "out_of_scale", item),
        ({"satisfaction": 4, "mood": 4}, "unknown_item", "answers.mood"),
        ({"mood": 4}, "unknown_item", "answers.mood"),
        ({"satisfaction": 4.5}, "invalid_input", item),
        ({"satisfaction": "4"}, "invalid_input", item),
        ({"satisfaction": True}, "invalid_input", item),
        ({}, "invalid_input", "answers"),
    ]

    for answers, rule, field in wrong:
        refused = await answer(kim, survey_id("se_1", "p_kim"), answers)
        assert problem(refused, 422) == (rule, [field])

    await told.settle()
    assert told.events(FeedbackSubmitted) == []


async def test_a_field_that_nobody_asked_for_is_refused(told: RunningPlatform) -> None:
    kim = await told.person("p_kim")

    refused = await kim.post(
        f"{SURVEYS}/{survey_id('se_1', 'p_kim')}/responses",
        json={"answers": {"satisfaction": 4}, "comment": "hello"},
    )

    assert problem(refused, 422) == ("invalid_input", ["comment"])


async def test_nobody_else_reads_or_answers_a_survey_or_reads_a_response(
    told: RunningPlatform,
) -> None:
    kim, survey = await told.person("p_kim"), survey_id("se_1", "p_kim")
    given = json_of(await answer(kim, survey, {"satisfaction": 1}), 201)
    unanswered, response = survey_id("se_2", "p_kim"), given["response_id"]
    partner = await told.person("p_lou")
    stranger = await told.person("p_stranger")
    coordinator = await told.client("co", "coordinator", programs=("alpha", "beta"))
    both = await told.client("co", "coordinator", "participant", programs=("alpha", "beta"))
    namesake = await told.client("p_kim", "coordinator", programs=("alpha", "beta"))

    for client in (partner, stranger, coordinator, both, namesake):
        for path in (
            f"{SURVEYS}/{survey}",
            f"{SURVEYS}/{unanswered}",
            f"/feedback/v1/responses/{response}",
        ):
            hidden = await client.get(path)
            absent = await client.get(path[:-1] + "!")
            assert problem(hidden, 404) == problem(absent, 404) == ("not_found", [])
            assert hidden.json()["title"] == absent.json()["title"]
    for client in (partner, stranger, both):
        for not_theirs in (survey, unanswered, "su_absent"):
            refused = await answer(client, not_theirs, {"satisfaction": 1})
            assert problem(refused, 404)[0] == "not_found"
    for client in (coordinator, namesake):
        refused = await answer(client, unanswered, {"satisfaction": 1})
        assert problem(refused, 403)[0] == "forbidden"
        assert problem(await client.get(SURVEYS), 403)[0] == "forbidden"
    for client, own in ((partner, 3), (stranger, 0), (both, 0)):
        body: dict[str, Any] = json_of(await client.get(SURVEYS))
        assert len(body["items"]) == own
        assert "p_kim" not in str(body)


async def test_other_roles_get_nothing(told: RunningPlatform) -> None:
    client = await told.client("x", "analyst", "hr", "operator", programs=("alpha", "beta"))
    survey = survey_id("se_1", "p_kim")

    for path in (SURVEYS, f"{SURVEYS}/{survey}", "/feedback/v1/responses/re_1"):
        assert problem(await client.get(path), 403)[0] == "forbidden"
    assert problem(await answer(client, survey, {"satisfaction": 5}), 403)[0] == "forbidden"


async def _all_answered(told: RunningPlatform) -> list[tuple[Envelope, Event]]:
    for person, session, program in (
        ("p_kim", "se_1", "alpha"),
        ("p_kim", "se_2", "alpha"),
        ("p_kim", "se_3", "beta"),
        ("p_lou", "se_1", "alpha"),
    ):
        client = await told.person(person)
        headers = {
            "X-Correlation-Id": f"from-{person}",
            "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01",
            "Idempotency-Key": f"{session}-{person}",
        }
        survey = survey_id(session, person, program)
        sent = await answer(client, survey, {"satisfaction": 5}, headers)
        assert sent.status_code == 201
    await told.settle()
    return told.records()


async def test_what_is_submitted_has_the_golden_shape_and_its_public_counterpart(
    told: RunningPlatform,
) -> None:
    await _all_answered(told)
    submitted = told.events(FeedbackSubmitted)

    for kind in (SurveyDue, FeedbackSubmitted, SurveyCompleted):
        for event in told.events(kind):
            assert event.model_dump().keys() == golden(kind.type())["data"].keys()
    assert {(e.instrument, e.instrument_version, e.kind) for e in submitted} == {
        ("pulse", 1, "pulse")
    }
    assert [(e.role, e.department, e.region) for e in submitted] == [
        ("mentor", "Digital", "europe"),
        ("mentor", "Digital", "europe"),
        ("mentor", "Digital", "europe"),
        ("mentee", "Finance", "europe"),
    ]
    # Each topic keeps its own order: the two are compared as counts.
    assert sorted((e.program_id, e.kind, e.role, e.submitted_on) for e in submitted) == sorted(
        (e.program_id, e.kind, e.role, e.completed_on) for e in told.events(SurveyCompleted)
    )


async def test_what_is_submitted_tells_nobody_who_said_it(told: RunningPlatform) -> None:
    records = await _all_answered(told)
    anonymous = [
        (envelope, event)
        for envelope, event in records
        if isinstance(event, FeedbackSubmitted | SurveyCompleted)
    ]
    known = {"p_kim", "p_lou", "pr_1", "pr_2", "se_1", "se_2", "se_3", "alpha", "beta"}
    known |= {participant_of(program, who) for program in ("alpha", "beta") for who in known}
    known |= {event.survey_id for event in told.events(SurveyDue)}
    known |= {envelope.id for envelope, event in records if (envelope, event) not in anonymous}
    computable = {
        derived_id(prefix, *parts)
        for prefix in ("r", "re", "su", "p", "pt", "response", "respondent", "answer")
        for count in (1, 2)
        for parts in itertools.permutations(sorted(known), count)
    }
    public = {"alpha", "beta", "pulse", "mentor", "mentee", "Digital", "Finance", "europe"}

    assert len(anonymous) == 8
    for envelope, event in anonymous:
        assert (envelope.causationid, envelope.correlationid, envelope.traceparent) == (None,) * 3
        data = event.model_dump(mode="json")
        said = {str(value) for value in data.values()} | set(envelope.to_headers().values())
        assert not said & (known - public)
        assert not said & computable
        assert not any(secret in text for text in said for secret in known - public)


async def test_a_survey_that_falls_due_is_traced_to_its_session(told: RunningPlatform) -> None:
    held_ids = {envelope.id for envelope, event in told.records() if isinstance(event, SessionHeld)}

    causes = {e.causationid for e, event in told.records() if isinstance(event, SurveyDue)}

    assert causes == held_ids


async def test_a_respondent_is_stable_in_a_program_and_nowhere_else(told: RunningPlatform) -> None:
    await _all_answered(told)
    submitted = told.events(FeedbackSubmitted)
    mentors = {
        program: [
            event.respondent
            for event in submitted
            if event.program_id == program and event.role == "mentor"
        ]
        for program in ("alpha", "beta")
    }
    (mentee,) = [event.respondent for event in submitted if event.role == "mentee"]

    assert len(mentors["alpha"]) == 2
    assert len(set(mentors["alpha"])) == 1
    assert not {*mentors["alpha"], mentee} & {*mentors["beta"]}
    assert mentee not in mentors["alpha"]
    assert len({event.response_id for event in submitted}) == 4


async def test_two_installations_give_the_same_person_other_pseudonyms(tmp_path: Path) -> None:
    found: list[FeedbackSubmitted] = []
    for name in ("here", "there"):
        async with running_platform(tmp_path / name, services=["feedback"]) as running:
            await running.publish(published("alpha"))
            await running.publish(paired("alpha", "pr_1", "p_kim", "p_lou"))
            await running.publish(held("alpha", "pr_1", "se_1", "p_kim"))
            await running.settle()
            kim = await running.person("p_kim")
            await answer(kim, survey_id("se_1", "p_kim"), {"satisfaction": 3})
            await running.settle()
            found += running.events(FeedbackSubmitted)

    here, there = found
    assert here.respondent != there.respondent
    assert here.response_id != there.response_id


async def test_sessions_wait_for_a_program_whose_instrument_is_unknown(
    running: RunningPlatform,
) -> None:
    unknown = PULSE.model_copy(update={"instrument": "unheard-of"})
    await running.publish(published("alpha", plans=[unknown]))
    await running.publish(paired("alpha", "pr_1", "p_kim", "p_lou"))
    await running.publish(held("alpha", "pr_1", "se_1", "p_kim", "p_lou"))
    await running.settle()

    (service,) = running.platform.services
    assert (await service.flow()).dead_letters_open == 1
    assert running.events(SurveyDue) == []

    await running.publish(published("alpha", version=2))
    await running.settle()

    assert len(running.events(SurveyDue)) == 2
