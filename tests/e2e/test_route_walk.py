"""Every route of every service with no token, bad tokens and each role: only who should gets in."""

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import orjson
import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp

from shared.events.topics import SERVICES
from shared.http.auth import ROLES, LocalIssuer, Role
from tests.support.platform import PROGRAM, RunningPlatform, running_platform
from tests.support.story import OTHER_PROGRAM, Story, live

pytestmark = pytest.mark.asyncio(loop_scope="module")

Route = tuple[str, str]
Allowed = frozenset[str] | None
"""The roles that pass the role check; None: everybody, without a token."""

PUBLIC: Allowed = None
EVERY_ROLE: Allowed = frozenset(ROLES)
PARTICIPANT: Allowed = frozenset({"participant"})
COORDINATOR: Allowed = frozenset({"coordinator"})
BOTH: Allowed = frozenset({"participant", "coordinator"})
ANALYSTS: Allowed = frozenset({"analyst", "coordinator"})
HR: Allowed = frozenset({"hr"})
OPERATOR: Allowed = frozenset({"operator"})

HEALTH: Mapping[Route, Allowed] = {
    ("GET", "/livez"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,
}

TABLE: Mapping[str, Mapping[Route, Allowed]] = {
    "enrollment": {
        ("POST", "/roster/imports"): HR,
        ("GET", "/roster/imports/{import_id}"): HR,
        ("GET", "/roster/people"): HR,
        ("PUT", "/programs/{program_id}"): COORDINATOR,
        ("GET", "/programs"): EVERY_ROLE,
        ("GET", "/programs/{program_id}"): EVERY_ROLE,
        ("POST", "/programs/{program_id}/close"): COORDINATOR,
        ("POST", "/programs/{program_id}/participants"): PARTICIPANT,
        ("GET", "/programs/{program_id}/participants"): BOTH,
        ("GET", "/participants/{participant_id}"): BOTH,
        ("PUT", "/participants/{participant_id}/profile"): PARTICIPANT,
        ("POST", "/participants/{participant_id}/training"): PARTICIPANT,
        ("POST", "/participants/{participant_id}/pause"): PARTICIPANT,
        ("POST", "/participants/{participant_id}/resume"): PARTICIPANT,
        ("POST", "/participants/{participant_id}/withdraw"): PARTICIPANT,
    },
    "matching": {
        ("POST", "/programs/{program_id}/rounds"): COORDINATOR,
        ("GET", "/programs/{program_id}/rounds"): COORDINATOR,
        ("GET", "/programs/{program_id}/waiting-list"): BOTH,
        ("GET", "/rounds/{round_id}"): COORDINATOR,
        ("POST", "/rounds/{round_id}/cancel"): COORDINATOR,
        ("GET", "/rounds/{round_id}/fairness"): COORDINATOR,
        ("POST", "/programs/{program_id}/preview"): COORDINATOR,
        ("GET", "/programs/{program_id}/preview"): COORDINATOR,
        ("GET", "/pairs"): BOTH,
        ("GET", "/pairs/{pair_id}"): BOTH,
        ("POST", "/pairs/{pair_id}/accept"): PARTICIPANT,
        ("POST", "/pairs/{pair_id}/decline"): PARTICIPANT,
    },
    "sessions": {
        ("GET", "/pairs"): BOTH,
        ("GET", "/pairs/{pair_id}"): BOTH,
        ("PUT", "/pairs/{pair_id}/ground-rules"): PARTICIPANT,
        ("POST", "/pairs/{pair_id}/sessions"): PARTICIPANT,
        ("GET", "/sessions"): BOTH,
        ("GET", "/sessions/{session_id}"): BOTH,
        ("PUT", "/sessions/{session_id}/agenda"): PARTICIPANT,
        ("POST", "/sessions/{session_id}/confirm"): PARTICIPANT,
        ("POST", "/sessions/{session_id}/move"): PARTICIPANT,
        ("POST", "/sessions/{session_id}/cancel"): PARTICIPANT,
        ("POST", "/sessions/{session_id}/miss"): PARTICIPANT,
        ("POST", "/sessions/{session_id}/hold"): PARTICIPANT,
        ("POST", "/sessions/{session_id}/notes"): PARTICIPANT,
    },
    "feedback": {
        ("GET", "/surveys"): PARTICIPANT,
        ("GET", "/surveys/{survey_id}"): BOTH,
        ("POST", "/surveys/{survey_id}/responses"): PARTICIPANT,
        ("GET", "/responses/{response_id}"): BOTH,
    },
    "reporting": {
        ("GET", "/programs"): ANALYSTS,
        ("GET", "/kpis"): ANALYSTS,
    },
}

OPERATIONS: Mapping[Route, Allowed] = {
    ("GET", "/operations/flow"): OPERATOR,
    ("GET", "/operations/dead-letters"): OPERATOR,
    ("GET", "/operations/dead-letters/{letter_id}"): OPERATOR,
    ("POST", "/operations/dead-letters/{letter_id}/retry"): OPERATOR,
    ("POST", "/operations/dead-letters/{letter_id}/drop"): OPERATOR,
    ("POST", "/operations/replay"): OPERATOR,
}

PAGE: Mapping[Route, Allowed] = {
    ("GET", f"/reporting/{name}"): PUBLIC for name in ("", "page.js", "page.css", "icon.svg")
}


def expected(service: str) -> dict[Route, Allowed]:
    """Return every route of a service but its probes."""
    versioned = {**TABLE[service], **OPERATIONS}
    routes = {(method, f"/{service}/v1{path}"): who for (method, path), who in versioned.items()}
    routes["GET", f"/{service}/openapi.json"] = PUBLIC
    return routes | dict(PAGE) if service == "reporting" else routes


def routes_of(app: FastAPI) -> set[Route]:
    """Return what the application serves, documented or not."""
    found = set()
    for route in iter_route_contexts(app.routes):
        assert route.path is not None
        # A route without methods (a mount, a websocket) is in no table, so the walk reports it.
        for method in (route.methods or {"any"}) - {"HEAD"}:
            found.add((method, route.path))
    return found


def platform_routes(running: RunningPlatform) -> set[Route]:
    """Return what the platform's application serves: its own routes and those of its services."""
    own: FastAPI = vars(running.platform.app)["_rest"]
    found = routes_of(own)
    for service in running.platform.services:
        found |= {route for route in routes_of(service.app) if route not in HEALTH}
    return found


@dataclass(frozen=True)
class Caller:
    """Somebody who tries; `roles` is None for who should be told to bring a valid token."""

    name: str
    authorization: str | None
    roles: frozenset[Role] | None


def callers(running: RunningPlatform, elsewhere: Path) -> list[Caller]:
    """Return everybody who tries every route."""

    def bearer(*roles: Role, programs: tuple[str, ...] = ()) -> str:
        return f"Bearer {running.token('somebody', roles, programs)}"

    issuer = running.platform.issuer
    stranger = LocalIssuer(elsewhere / "issuer.pem").issue("somebody", ROLES, (PROGRAM,))
    expired = issuer.issue("somebody", ROLES, (PROGRAM,), lifetime=timedelta(minutes=-5))
    head, claims, signature = bearer(*ROLES).split(".")
    return [
        Caller("no token", None, None),
        Caller("no bearer", "Basic c29tZWJvZHk6eA==", None),
        Caller("no token after the scheme", "Bearer ", None),
        Caller("garbage", "Bearer garbage", None),
        Caller("another issuer's key", f"Bearer {stranger}", None),
        Caller("expired", f"Bearer {expired}", None),
        Caller("broken signature", f"{head}.{claims}.{signature[::-1]}", None),
        Caller("no signature", f"{head}.{claims}.", None),
        Caller("no role", bearer(), frozenset()),
        Caller("no role, but a program", bearer(programs=(PROGRAM,)), frozenset()),
        *(Caller(role, bearer(role), frozenset({role})) for role in ROLES),
        *(
            Caller(f"{role} of {program}", bearer(role, programs=(program,)), frozenset({role}))
            for role in ("coordinator", "analyst")
            for program in (PROGRAM, OTHER_PROGRAM)
        ),
    ]


async def walk(
    app: ASGIApp,
    served: Iterable[Route],
    table: Mapping[Route, Allowed],
    trying: Sequence[Caller],
    known: Mapping[str, str],
) -> list[str]:
    """Return every difference between the application and the table.

    `known` gives an existing id for the name of a path parameter. Callers whom the route should
    refuse try it, and one that does not exist: both answers must be the same.
    """
    served = set(served)
    found = [f"{method} {path} is in no table" for method, path in sorted(served - table.keys())]
    found += [f"{method} {path} is not served" for method, path in sorted(table.keys() - served)]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://upward.test") as client:
        for (method, path), allowed in table.items():
            for caller in trying:
                headers = {"Authorization": caller.authorization} if caller.authorization else {}
                unknown = await client.request(method, _fill(path, {}), headers=headers)
                troubles = _judge(unknown, caller, allowed)
                if _refused(caller, allowed) and _fill(path, known) != _fill(path, {}):
                    existing = await client.request(method, _fill(path, known), headers=headers)
                    if (existing.status_code, existing.text) != (
                        unknown.status_code,
                        unknown.text,
                    ):
                        troubles.append("tells whether the object exists")
                found += [f"{method} {path} as {caller.name}: {trouble}" for trouble in troubles]
    return found


def _fill(path: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], "unknown"), path)


def _refused(caller: Caller, allowed: Allowed) -> bool:
    return allowed is not None and (caller.roles is None or not caller.roles & allowed)


def _judge(answer: httpx.Response, caller: Caller, allowed: Allowed) -> list[str]:
    troubles = []
    status = answer.status_code
    if answer.is_success:
        if _refused(caller, allowed):
            troubles.append("is let in")
        return troubles
    troubles += _problem_troubles(answer)
    by_role = status == 403 and "needs one of the roles" in answer.text
    if allowed is None:
        troubles.append(f"{status} on a public route")
    elif caller.roles is None:
        if status != 401 or answer.headers.get("www-authenticate") != "Bearer":
            troubles.append(f"{status} instead of 401 with a challenge")
    elif not caller.roles & allowed:
        if not by_role:
            troubles.append(f"{status} instead of 403 for the role")
    elif status in {401, 405} or status >= 500 or by_role:
        troubles.append(f"{status} for a role that may")
    return troubles


def _problem_troubles(answer: httpx.Response) -> list[str]:
    if answer.headers.get("content-type") != "application/problem+json":
        return [f"answers {answer.headers.get('content-type')} for a refusal"]
    problem = orjson.loads(answer.content)
    complete = problem.keys() >= {"type", "title", "status", "detail", "code"}
    if not complete or problem["status"] != answer.status_code:
        return ["answers no whole problem document"]
    return []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Story]:
    async with running_platform(tmp_path_factory.mktemp("walk") / "data") as running:
        yield await live(running)


def known_ids(story: Story) -> dict[str, str]:
    return {"program_id": PROGRAM} | {kind: next(iter(ids)) for kind, ids in story.owners.items()}


@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_lets_in_exactly_whom_the_table_names(
    story: Story, tmp_path: Path, name: str
) -> None:
    (service,) = (one for one in story.running.platform.services if one.name == name)
    table = expected(name) | dict(HEALTH)
    trying = callers(story.running, tmp_path)
    found = await walk(service.app, routes_of(service.app), table, trying, known_ids(story))
    assert not found, "\n".join(found)


async def test_the_platform_lets_in_exactly_whom_its_services_do(
    story: Story, tmp_path: Path
) -> None:
    table = dict(HEALTH)
    for name in SERVICES:
        table |= expected(name)
    # The services' own walks try every caller; what could differ here is the way to them.
    trying = [one for one in callers(story.running, tmp_path) if one.name in {"no token", *ROLES}]
    served = platform_routes(story.running)
    found = await walk(story.running.platform.app, served, table, trying, known_ids(story))
    assert not found, "\n".join(found)


NOWHERE = ["/nothing", "/v1", "//", "/livez/", "/enrollment", "/enrollment/livez", "/enrollment/v1"]
NOWHERE += ["/enrollment/v1/nothing", "/enrollment/v1/programs/"]


@pytest.mark.parametrize("path", NOWHERE)
async def test_a_path_that_leads_nowhere_is_answered_with_a_problem_document(
    story: Story, path: str
) -> None:
    client = await story.running.client("somebody", *ROLES)
    answer = await client.get(path)
    assert answer.status_code == 404
    assert _problem_troubles(answer) == []


async def test_a_method_that_a_route_lacks_is_answered_with_those_it_has(story: Story) -> None:
    client = await story.running.client("somebody", *ROLES)
    for service in SERVICES:
        answer = await client.delete(f"/{service}/v1/operations/flow")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
        assert _problem_troubles(answer) == []


# -- the walk itself: it must find what it is there to find ----------------------------------------


LEAK = "/feedback/v1/leak"


async def walk_with(tmp_path: Path, leak: str | None, table: Mapping[Route, Allowed]) -> list[str]:
    """Walk a service that serves `leak` to everybody, by a table of a few routes."""
    async with running_platform(tmp_path / "data", services=["feedback"]) as running:
        (service,) = running.platform.services
        served = {("GET", "/feedback/v1/surveys")}
        if leak is not None:

            async def open_to_all() -> dict[str, str]:
                return {"everything": "for everybody"}

            service.app.add_api_route(leak, open_to_all)
            served |= {route for route in routes_of(service.app) if route[1] == leak}
        return await walk(service.app, served, table, callers(running, tmp_path), {})


async def test_the_walk_finds_a_route_that_nobody_declared(tmp_path: Path) -> None:
    surveys: Mapping[Route, Allowed] = {("GET", "/feedback/v1/surveys"): PARTICIPANT}
    assert await walk_with(tmp_path, None, surveys) == []
    assert await walk_with(tmp_path, LEAK, surveys) == [f"GET {LEAK} is in no table"]


async def test_the_walk_finds_a_route_that_checks_no_role(tmp_path: Path) -> None:
    found = await walk_with(tmp_path, LEAK, {("GET", LEAK): PARTICIPANT})
    assert f"GET {LEAK} as operator: is let in" in found
    assert f"GET {LEAK} as no role: is let in" in found
    assert f"GET {LEAK} as participant: is let in" not in found


async def test_the_walk_finds_a_route_that_needs_no_token(tmp_path: Path) -> None:
    leak = "/feedback/leak"
    found = await walk_with(tmp_path, leak, {("GET", leak): EVERY_ROLE})
    assert f"GET {leak} as no token: is let in" in found
    assert f"GET {leak} as garbage: is let in" in found


async def test_the_walk_finds_a_route_that_is_gone_and_a_role_that_is_kept_out(
    tmp_path: Path,
) -> None:
    gone, narrow = ("GET", "/feedback/v1/gone"), ("GET", "/feedback/v1/surveys")
    found = await walk_with(tmp_path, None, {gone: PARTICIPANT, narrow: BOTH})
    assert "GET /feedback/v1/gone is not served" in found
    assert "GET /feedback/v1/surveys as coordinator: 403 for a role that may" in found
