"""What every service's HTTP interface does alike, shown on enrollment and feedback."""

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.errors import RuleViolationError, StoreUnavailableError
from shared.events.envelope import Envelope
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.http import limits
from shared.http.limits import DEFAULT_BODY_BYTES, MAX_IN_FLIGHT, MAX_OUTBOX
from shared.messaging.dead_letters import DeadLetter
from shared.store.port import Transaction
from tests.support.golden import golden_event, golden_record
from tests.support.platform import PROGRAM, RunningPlatform, json_of, running_platform

SPEC = golden_event(ProgramPublished).model_dump(mode="json", exclude={"program_id", "version"})
PROGRAM_PATH = f"/enrollment/v1/programs/{PROGRAM}"
SECRET = "Zaphod Beeblebrox"


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[RunningPlatform]:
    async with running_platform(tmp_path, ["enrollment"]) as running:
        yield running


@pytest.fixture
async def office(platform: RunningPlatform) -> httpx.AsyncClient:
    return await platform.client("office", "coordinator", "hr", "operator")


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem document that the response must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-correlation-id"]
    document: dict[str, Any] = response.json()
    assert document.keys() == {"type", "title", "status", "detail", "code", "errors"}
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"] == f"urn:upward:problem:{code}"
    assert SECRET not in response.text
    return document


# Refusals ------------------------------------------------------------------------------------


async def test_a_stranger_learns_only_that_a_token_is_needed(platform: RunningPlatform) -> None:
    client = await platform.anonymous({"content-type": "application/json"})
    for authorization in (None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer x.y.z", "x.y.z"):
        headers = {} if authorization is None else {"authorization": authorization}
        for body in (b"", b"{", b"\xff", b'{"unknown": 1}', b"[" * 5000):
            for method, path in (
                ("PUT", PROGRAM_PATH),
                ("POST", "/enrollment/v1/roster/imports"),
                ("GET", "/enrollment/v1/nowhere"),
            ):
                response = await client.request(method, path, content=body, headers=headers)
                problem(response, 401, "unauthenticated")
                assert response.headers["www-authenticate"] == "Bearer"


async def test_a_huge_body_without_a_token_is_not_read(platform: RunningPlatform) -> None:
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b"x" * 65536

    client = await platform.anonymous({"content-type": "text/csv"})
    response = await client.post("/enrollment/v1/roster/imports", content=body())
    problem(response, 401, "unauthenticated")
    assert taken <= 1


async def test_a_role_that_may_not_is_forbidden(platform: RunningPlatform) -> None:
    client = await platform.client("a", "analyst")
    problem(await client.put(PROGRAM_PATH, json=SPEC), 403, "forbidden")
    other = await platform.client("b", "coordinator", programs=("other",))
    problem(await other.put(PROGRAM_PATH, json=SPEC), 403, "forbidden")


async def test_unknown_paths_methods_and_objects(office: httpx.AsyncClient) -> None:
    problem(await office.get("/enrollment/v1/nowhere"), 404, "not_found")
    response = await office.delete(PROGRAM_PATH)
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"]
    problem(await office.get("/enrollment/v1/participants/none"), 404, "not_found")
    problem(await office.get(PROGRAM_PATH), 404, "not_found")


async def test_a_refusal_by_the_object_s_state(office: httpx.AsyncClient) -> None:
    json_of(await office.put(PROGRAM_PATH, json=SPEC))
    json_of(await office.post(f"{PROGRAM_PATH}/close"))
    problem(await office.put(PROGRAM_PATH, json=SPEC | {"title": "x"}), 409, "program_closed")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"{", "1"),
        (b"NaN", "body"),
        (b'{"title": NaN}', "body"),
        (b'{"title": "\\ud800"}', "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b"", "body"),
        (json.dumps(SPEC | {SECRET[:3] + "x": SECRET}).encode(), "Zapx"),
        (json.dumps(SPEC | {"starts_on": SECRET}).encode(), "starts_on"),
        (json.dumps(SPEC | {"title": {SECRET: SECRET}}).encode(), "title"),
        (json.dumps(SPEC | {"thresholds": {"score": 9}}).encode(), "thresholds.score"),
        (json.dumps(SPEC | {"ends_on": SPEC["starts_on"]}).encode(), "body"),
    ],
)
async def test_a_field_that_breaks_a_rule_is_named_and_never_quoted(
    office: httpx.AsyncClient, content: bytes, field: str
) -> None:
    response = await office.put(
        PROGRAM_PATH, content=content, headers={"content-type": "application/json"}
    )
    document = json_of(response, 422)
    assert response.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in problem(response, 422, str(document["code"]))["errors"]][
        :1
    ] == [field]


async def test_bytes_that_are_no_text_are_unreadable(office: httpx.AsyncClient) -> None:
    for content in (b'{"title": "\xff"}', b"[" * 100_000):
        response = await office.put(
            PROGRAM_PATH, content=content, headers={"content-type": "application/json"}
        )
        problem(response, 400, "unreadable")


async def test_no_number_of_errors_makes_a_large_answer(office: httpx.AsyncClient) -> None:
    many = {f"{'x' * 500}{number}": 1 for number in range(400)}
    response = await office.put(PROGRAM_PATH, json=SPEC | many)
    assert len(problem(response, 422, "invalid_input")["errors"]) == 50
    assert len(response.content) < 30_000


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/xml", "text/csv"])
async def test_a_body_of_another_type_is_refused(
    office: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = await office.put(PROGRAM_PATH, content=json.dumps(SPEC).encode(), headers=headers)
    problem(response, 415, "unsupported_media_type")


async def test_a_roster_is_csv(office: httpx.AsyncClient) -> None:
    problem(
        await office.post("/enrollment/v1/roster/imports", json={}), 415, "unsupported_media_type"
    )


async def test_a_service_whose_events_wait_for_the_bus_takes_no_commands_but_is_read_and_run(
    platform: RunningPlatform, office: httpx.AsyncClient
) -> None:
    service = platform.platform.services[0]
    service._admission.outbox_pending = MAX_OUTBOX
    refused = await office.put(PROGRAM_PATH, json=SPEC)
    problem(refused, 503, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    assert (await office.get("/enrollment/v1/programs")).json()["items"] == []
    # Measuring finds that nothing waits any more, as it does every few seconds by itself.
    assert (await office.get("/enrollment/v1/operations/flow")).status_code == 200
    assert (await office.put(PROGRAM_PATH, json=SPEC)).status_code == 200


async def test_more_requests_than_a_service_can_work_on_are_refused_at_once(
    platform: RunningPlatform, office: httpx.AsyncClient
) -> None:
    service = platform.platform.services[0]
    service._admission.in_flight += MAX_IN_FLIGHT
    refused = await office.get("/enrollment/v1/programs")
    problem(refused, 503, "overloaded")
    assert "retry-after" in refused.headers
    assert (await office.get("/livez")).status_code == 200
    service._admission.in_flight -= MAX_IN_FLIGHT
    assert (await office.get("/enrollment/v1/programs")).status_code == 200
    assert service._admission.in_flight == 0


async def test_a_body_is_limited_whether_declared_or_not(office: httpx.AsyncClient) -> None:
    large = b'"' + b"x" * DEFAULT_BODY_BYTES + b'"'
    headers = {"content-type": "application/json"}
    problem(await office.put(PROGRAM_PATH, content=large, headers=headers), 413, "too_large")
    taken = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b"x" * 65536

    problem(await office.put(PROGRAM_PATH, content=chunks(), headers=headers), 413, "too_large")
    assert taken < 10
    # A command without a body, and the roster's own limit.
    problem(await office.post(f"{PROGRAM_PATH}/close", content=chunks()), 413, "too_large")
    roster = b"employee_id,note\n" + (b"x," + b"n" * 50_000 + b"\n") * 6
    response = await office.post(
        "/enrollment/v1/roster/imports", content=roster, headers={"content-type": "text/csv"}
    )
    assert response.status_code == 201


async def test_a_command_without_a_body_takes_none(office: httpx.AsyncClient) -> None:
    json_of(await office.put(PROGRAM_PATH, json=SPEC))
    response = await office.post(f"{PROGRAM_PATH}/close", json={"reason": SECRET})
    problem(response, 422, "extra_forbidden")
    json_of(await office.post(f"{PROGRAM_PATH}/close", json={}))


async def test_a_store_that_is_away_is_said_and_worth_a_retry(
    platform: RunningPlatform, office: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_args: object, **_options: object) -> None:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(platform.platform.services[0].store, "get", away)
    monkeypatch.setattr(platform.platform.services[0].store, "require", away)
    response = await office.get(PROGRAM_PATH)
    problem(response, 503, "store_unavailable")
    assert response.headers["retry-after"] == "2"


async def test_a_request_that_outlasts_the_services_stop_is_worth_a_retry(
    platform: RunningPlatform, office: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_off(*_args: object, **_options: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(platform.platform.services[0].store, "require", cut_off)
    response = await office.get(PROGRAM_PATH)
    problem(response, 503, "unavailable")
    assert "retry-after" in response.headers


async def test_what_nobody_foresaw_is_told_without_details(
    platform: RunningPlatform, office: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: object, **_options: object) -> None:
        raise LookupError(SECRET)

    monkeypatch.setattr(platform.platform.services[0].store, "require", fail)
    response = await office.get(PROGRAM_PATH, headers={"x-correlation-id": "call-1"})
    problem(response, 500, "internal")
    assert response.headers["x-correlation-id"] == "call-1"


@pytest.mark.parametrize("cursor", ["x", "W10=", "a" * 500, "WyJcdWQ4MDAiLCJhIl0="])
async def test_a_cursor_that_is_not_ours_is_named(office: httpx.AsyncClient, cursor: str) -> None:
    response = await office.get("/enrollment/v1/programs", params={"cursor": cursor})
    document = json_of(response, 422)
    errors = problem(response, 422, str(document["code"]))["errors"]
    assert [error["field"] for error in errors] == ["cursor"]


@pytest.mark.parametrize("limit", [0, 201, -1, "all"])
async def test_a_page_has_a_size(office: httpx.AsyncClient, limit: object) -> None:
    response = await office.get("/enrollment/v1/programs", params={"limit": str(limit)})
    assert problem(response, 422, "invalid_input")["errors"][0]["field"] == "limit"


async def test_pages_follow_each_other_without_gap_or_repetition(
    platform: RunningPlatform,
) -> None:
    names = tuple(f"program-{number}" for number in range(7))
    client = await platform.client("office", "coordinator", programs=names)
    for name in names:
        json_of(await client.put(f"/enrollment/v1/programs/{name}", json=SPEC))
    seen: list[str] = []
    params: dict[str, str] = {"limit": "3"}
    while True:
        body = (await client.get("/enrollment/v1/programs", params=params)).json()
        seen += [item["program_id"] for item in body["items"]]
        if body["next_cursor"] is None:
            break
        params["cursor"] = body["next_cursor"]
    assert seen == sorted(names)


# Idempotency ---------------------------------------------------------------------------------


async def test_the_same_key_gives_the_same_answer_and_no_second_effect(
    platform: RunningPlatform, office: httpx.AsyncClient
) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = await office.put(PROGRAM_PATH, json=SPEC, headers=key)
    platform.clock.set(platform.clock.now().replace(hour=20))
    json_of(await office.put(PROGRAM_PATH, json=SPEC | {"title": "Another"}))
    again = await office.put(PROGRAM_PATH, json=SPEC, headers=key)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    await platform.settle()
    assert [event.version for event in platform.events(ProgramPublished)] == [1, 2]


async def test_concurrent_requests_with_one_key_have_one_effect(
    platform: RunningPlatform, office: httpx.AsyncClient
) -> None:
    json_of(await office.put(PROGRAM_PATH, json=SPEC))
    key = {"Idempotency-Key": "one"}
    answers = await asyncio.gather(
        *(office.post(f"{PROGRAM_PATH}/close", headers=key) for _ in range(8))
    )
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (200, answers[0].content)
    }
    await platform.settle()
    assert len(platform.events(ProgramClosed)) == 1


async def test_a_key_belongs_to_one_request_of_one_caller(
    platform: RunningPlatform, office: httpx.AsyncClient
) -> None:
    key = {"Idempotency-Key": "one"}
    json_of(await office.put(PROGRAM_PATH, json=SPEC, headers=key))
    for request in (
        office.put(PROGRAM_PATH, json=SPEC | {"title": "Another"}, headers=key),
        office.post(f"{PROGRAM_PATH}/close", headers=key),
        office.post(
            "/enrollment/v1/roster/imports",
            content=b"employee_id\nx\n",
            headers=key | {"content-type": "text/csv"},
        ),
    ):
        errors = problem(await request, 422, "idempotency_key_reused")["errors"]
        assert [error["field"] for error in errors] == ["Idempotency-Key"]
    colleague = await platform.client("colleague", "coordinator")
    json_of(await colleague.post(f"{PROGRAM_PATH}/close", headers=key))


async def test_a_refused_command_is_not_remembered(office: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "one"}
    problem(await office.post(f"{PROGRAM_PATH}/close", headers=key), 404, "not_found")
    json_of(await office.put(PROGRAM_PATH, json=SPEC))
    json_of(await office.post(f"{PROGRAM_PATH}/close", headers=key))


@pytest.mark.parametrize("key", [b"", b"a b", "é".encode(), b"x" * 201])
async def test_a_key_is_printable_and_not_too_long(office: httpx.AsyncClient, key: bytes) -> None:
    response = await office.put(PROGRAM_PATH, json=SPEC, headers={b"Idempotency-Key": key})
    errors = problem(response, 422, "bad_key")["errors"]
    assert [error["field"] for error in errors] == ["Idempotency-Key"]


async def test_an_import_with_the_same_key_is_the_same_import(office: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "one", "content-type": "text/csv"}
    path = "/enrollment/v1/roster/imports"
    first = await office.post(path, content=b"employee_id\nx\n", headers=headers)
    again = await office.post(path, content=b"employee_id\nx\n", headers=headers)
    assert (first.status_code, first.content) == (201, again.content)
    other = await office.post(path, content=b"employee_id\ny\n", headers=headers)
    problem(other, 422, "idempotency_key_reused")
    people = await office.get("/enrollment/v1/roster/people")
    assert [person["employee_id"] for person in people.json()["items"]] == ["x"]


async def test_answers_are_forgotten_after_a_week(
    platform: RunningPlatform, office: httpx.AsyncClient
) -> None:
    key = {"Idempotency-Key": "one"}
    json_of(await office.put(PROGRAM_PATH, json=SPEC, headers=key))
    platform.clock.set(platform.clock.now().replace(day=13))
    await platform.settle()
    json_of(await office.put(PROGRAM_PATH, json=SPEC | {"title": "Another"}, headers=key))


# Operations ----------------------------------------------------------------------------------


async def test_a_replay_with_the_same_key_is_one_replay(
    platform: RunningPlatform, office: httpx.AsyncClient
) -> None:
    json_of(await office.put(PROGRAM_PATH, json=SPEC))
    await platform.settle()
    path, key = "/enrollment/v1/operations/replay", {"Idempotency-Key": "one"}
    first = await office.post(path, json={"topic": "upward.programs.v1"}, headers=key)
    assert json_of(first) == {"events": 1}
    await platform.settle()
    again = await office.post(path, json={"topic": "upward.programs.v1"}, headers=key)
    assert again.content == first.content
    await platform.settle()
    assert len(platform.events(ProgramPublished)) == 2
    problem(await office.post(path, json={"topics": ["x"]}), 422, "invalid_input")


async def test_the_openapi_document_is_the_same_however_often_it_is_asked_for(
    tmp_path: Path,
) -> None:
    async with running_platform(tmp_path, ["enrollment"]) as platform:
        anybody = await platform.anonymous()
        first = await anybody.get("/enrollment/openapi.json")
        assert (await anybody.get("/enrollment/openapi.json")).content == first.content


async def test_a_bus_that_is_away_turns_readiness_off_only_when_no_event_may_wait_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_timeout: float | None) -> bool:
        return False

    async with running_platform(tmp_path, ["enrollment"]) as platform:
        (service,) = platform.platform.services
        monkeypatch.setattr(service._broker, "ping", away)
        anybody = await platform.anonymous()
        assert (await anybody.get("/readyz")).status_code == 200
        monkeypatch.setattr(limits, "MAX_OUTBOX", 0)
        ready = await anybody.get("/readyz")
        assert ready.status_code == 503
        assert ready.text == "enrollment: 0 events wait for a bus that does not answer\n"
        assert (await anybody.get("/livez")).status_code == 200


async def test_a_flood_turns_readiness_off_and_leaves_liveness_on(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ["feedback"]) as platform:
        anybody = await platform.anonymous()
        assert (await anybody.get("/readyz")).status_code == 200
        _, _, headers = golden_record(ProgramPublished)
        for _ in range(60):
            await platform.publish_record("upward.programs.v1", "k", b"{", headers)
        await platform.settle()
        ready = await anybody.get("/readyz")
        assert ready.status_code == 503
        assert ready.text.startswith("feedback: consumer stopped: 50 dead letters in a row")
        assert (await anybody.get("/livez")).status_code == 200
        metrics = (await anybody.get("/metrics")).text
        assert 'upward_consumer_stopped{service="feedback"} 1.0' in metrics


async def test_operators_retry_and_drop_dead_letters(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ["feedback"]) as platform:
        service = platform.platform.services[0]
        refusing = True
        original = service.consumer._handlers[ProgramPublished]

        async def refuse(tx: Transaction, event: ProgramPublished, envelope: Envelope) -> None:
            if refusing:
                raise RuleViolationError("not yet", code="not_yet")
            await original(tx, event, envelope)

        service.consumer._handlers[ProgramPublished] = refuse
        await platform.publish(golden_event(ProgramPublished))
        await platform.publish_raw("upward.programs.v1", "k", b"{", {})
        await platform.settle()
        operator = await platform.client("op", "operator")
        path = "/feedback/v1/operations/dead-letters"
        listed = (await operator.get(path)).json()["items"]
        by_reason = {letter["reason"]: letter["id"] for letter in listed}
        assert by_reason.keys() == {"not_yet: not yet", "envelope: specversion is missing"}
        good = by_reason["not_yet: not yet"]
        bad = by_reason["envelope: specversion is missing"]
        problem(await operator.post(f"{path}/{good}/retry"), 409, "still_dead")
        shown = json_of(await operator.get(f"{path}/{good}"))
        assert (shown["state"], shown["attempts"]) == ("open", 2)
        refusing = False
        key = {"Idempotency-Key": "one"}
        retried = await operator.post(f"{path}/{good}/retry", headers=key)
        assert json_of(retried)["state"] == "retried"
        assert (await operator.post(f"{path}/{good}/retry", headers=key)).content == (
            retried.content
        )
        problem(await operator.post(f"{path}/{good}/retry"), 409, "dead_letter_closed")
        assert json_of(await operator.post(f"{path}/{bad}/drop"))["state"] == "dropped"
        problem(await operator.post(f"{path}/{bad}/retry"), 409, "dead_letter_closed")
        problem(await operator.post(f"{path}/none/retry"), 404, "not_found")
        assert await service.store.count(DeadLetter, {"state": "open"}) == 0
        participant = await platform.person("p")
        problem(await participant.get(path), 403, "forbidden")


async def test_metrics_name_routes_and_not_objects(
    platform: RunningPlatform, office: httpx.AsyncClient
) -> None:
    await office.get("/enrollment/v1/participants/some-object")
    await office.request("BREW", "/enrollment/v1/participants/some-object")
    text = (await office.get("/metrics")).text
    assert "some-object" not in text
    assert "BREW" not in text
    assert re.search(r'method="GET",route="[^"]*/participants/{participant_id}"', text)


@pytest.mark.parametrize("sent", [b"", b"x" * 101, b"new\tline", "é".encode()])
async def test_a_correlation_id_that_could_harm_a_log_is_replaced(
    platform: RunningPlatform, sent: bytes
) -> None:
    client = await platform.anonymous()
    response = await client.get("/livez", headers={b"x-correlation-id": sent})
    assert response.status_code == 200
    given = (
        await client.get("/enrollment/openapi.json", headers={b"x-correlation-id": sent})
    ).headers["x-correlation-id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", given)
