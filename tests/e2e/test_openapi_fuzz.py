"""Schemathesis on the five OpenAPI documents, against running services with a live program."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import schemathesis
from schemathesis.checks import CheckContext
from schemathesis.config import SchemathesisConfig
from schemathesis.core.transport import Response
from schemathesis.engine import events, from_schema
from schemathesis.generation.case import Case
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.events.topics import SERVICES
from shared.http.auth import ROLES
from tests.support.platform import PROGRAM, running_platform
from tests.support.story import Story, live

T = TypeVar("T")


class Bridge:
    """The platform's application for callers on other event loops than its own."""

    def __init__(self, app: ASGIApp, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        message = await receive()
        while message["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
            message = await receive()
        answer = self._answer(scope, body)
        for part in await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answer, self._loop)):
            await send(part)

    async def _answer(self, scope: Scope, body: bytes) -> list[Message]:
        parts: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(part: Message) -> None:
            parts.append(part)

        await self._app(scope, receive, send)
        return parts


@dataclass
class Background:
    """An event loop in a thread of its own, and what was started on it."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)


@dataclass(frozen=True)
class Target:
    """A running platform: its application, a token for everything, ids of what there is."""

    app: Bridge
    token: str
    ids: Mapping[str, list[str]]
    background: Background

    def send(
        self, method: str, path: str, headers: Mapping[bytes, bytes] | None = None
    ) -> httpx.Response:
        """Send a request with this very path and these very header bytes."""
        sent = {b"authorization": f"Bearer {self.token}".encode(), **(headers or {})}

        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport) as client:
                return await client.request(
                    method, f"http://upward.test{path}", headers=list(sent.items())
                )

        return self.background.run(call())


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    background = Background()
    thread = threading.Thread(target=background.loop.run_forever)
    thread.start()

    async def start() -> Story:
        path = tmp_path_factory.mktemp("fuzz") / "data"
        return await live(await background.stack.enter_async_context(running_platform(path)))

    try:
        story = background.run(start())
        # A member of the pair that has met, so that there is something of theirs to find.
        ((member, *_),) = story.owners["response_id"].values()
        yield Target(
            app=Bridge(story.running.platform.app, background.loop),
            token=story.running.token(member, ROLES),
            ids={"program_id": [PROGRAM]} | {kind: list(ids) for kind, ids in story.owners.items()},
            background=background,
        )
    finally:
        background.run(background.stack.aclose())
        background.loop.call_soon_threadsafe(background.loop.stop)
        thread.join()


@schemathesis.check
def documented_as_strict(_ctx: CheckContext, answer: Response, case: Case[Any]) -> None:
    """What a document allows is not refused for a rule that a document could have stated."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    assert answer.status_code not in {400, 413, 415}, "a documented request can't be read"
    if answer.status_code == 422:
        problem = answer.json()
        rules = {error["rule"] for error in problem["errors"]}
        # Pydantic's own rules are all in the schema, but for a validator's: `value_error`.
        stated = problem["code"] == "invalid_input" and rules - {"value_error"}
        assert not stated, f"the document does not state {stated}"


_CHECKS = {
    # Judged by documented_as_strict: it also forgives no 422 for what a schema can say. What it
    # can't: that a cursor is one of ours, that a key was not used before, that a topic is the
    # program's, that a program ends after it starts.
    "positive_data_acceptance": {"enabled": False},
    # Nothing is ever deleted, and no document has links: these two would never look at anything.
    "use_after_free": {"enabled": False},
    "ensure_resource_availability": {"enabled": False},
}


def config(target: Target, examples: int, seed: int) -> SchemathesisConfig:
    """Return what to send: half of the ids exist; the same seed sends the same."""
    names = {f"path.{name}": name for name in target.ids}
    names |= {"query.program": "program_id", "query.pair": "pair_id"}
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "workers": 1,
            "headers": {"Authorization": f"Bearer {target.token}"},
            "continue-on-failure": True,
            "checks": _CHECKS,
            "dictionaries": {name: {"values": values} for name, values in target.ids.items()},
            "parameters": {
                place: {"dictionary": name, "probability": 0.5} for place, name in names.items()
            },
            "generation": {"deterministic": True, "max-examples": examples, "no-shrink": True},
            "phases": {"stateful": {"enabled": False}},
        }
    )


def fuzz(target: Target, service: str, examples: int, seed: int = 1) -> tuple[set[str], list[str]]:
    """Return the operations that answered 2xx, and every failure with its request."""
    schema = schemathesis.openapi.from_asgi(
        f"/{service}/openapi.json", target.app, config=config(target, examples, seed)
    )
    answered, failures = set(), []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            failures.append(repr(event))
        if not isinstance(event, events.ScenarioFinished):
            continue
        recorder = event.recorder
        for case_id, interaction in recorder.interactions.items():
            request, answer = interaction.request, interaction.response
            assert answer is not None
            if answer.status_code < 300:
                answered.add(recorder.label)
            failures += [
                f"{check.name}: {check.failure_info.failure}\n    {request.method} {request.uri}"
                f" {request.headers} {request.body!r}\n    -> {answer.status_code} "
                f"{answer.content[:500]!r}"
                for check in recorder.checks.get(case_id, ())
                if check.failure_info is not None
            ]
    return answered, failures


@pytest.mark.parametrize("service", SERVICES)
def test_every_request_is_answered_as_the_document_says(target: Target, service: str) -> None:
    answered, failures = fuzz(target, service, examples=8)
    assert not failures, "\n".join(failures[:20])
    # It was not in vain: whatever reads was seen to succeed. A dead letter not every service has.
    reading = {label for label in operations(target, service) if label.startswith("GET ")}
    assert not [label for label in reading - answered if "/dead-letters/" not in label]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("service", SERVICES)
def test_many_more_requests_are_answered_as_the_document_says(
    target: Target, service: str, seed: int
) -> None:
    _, failures = fuzz(target, service, examples=300, seed=seed)
    Path(f"/tmp/long_{service}_{seed}.txt").write_text("\n\n".join(failures))
    assert not failures, "\n".join(failures[:20])


def operations(target: Target, service: str) -> set[str]:
    """Return `METHOD path` of everything in a document."""
    document = target.send("GET", f"/{service}/openapi.json").json()
    return {
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
    }
