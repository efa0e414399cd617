"""An attacker who reads the API and has a valid token: nothing of others is found or changed."""

import contextlib
import io
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared.events.topics import SERVICES
from shared.http.auth import Role
from shared.http.pagination import write_cursor
from shared.logging import configure_logging
from shared.messaging.local_log import LocalLog
from shared.messaging.local_storage import StoredRecord
from tests.support.platform import PROGRAM, json_of, running_platform
from tests.support.story import (
    BODIES,
    GONE_WRONG,
    OTHER_PROGRAM,
    Story,
    coordinator_of,
    live,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Operation:
    """One operation of an OpenAPI document."""

    method: str
    path: str
    query: frozenset[str]

    @property
    def parameter(self) -> str | None:
        """The name of its path parameter."""
        return self.path.partition("{")[2].partition("}")[0] or None

    @property
    def body(self) -> object | None:
        """A body that it accepts."""
        return BODIES.get(self.path.rpartition("/")[2]) if self.method != "GET" else None


@dataclass
class World:
    """The story, what the API's documents offer, and all that was logged meanwhile."""

    story: Story
    operations: list[Operation]
    log: io.StringIO = field(default_factory=io.StringIO)


@dataclass(frozen=True)
class Attacker:
    """A client with a valid token; `reads` says as which readers it may find a text."""

    client: httpx.AsyncClient
    reads: frozenset[str]


@contextlib.contextmanager
def logs() -> Iterator[io.StringIO]:
    """Collect what structlog and logging write, from debug up."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    level = root.level
    with contextlib.redirect_stderr(written):
        configure_logging("DEBUG")
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    client = logging.getLogger("httpx")
    client.disabled = True
    try:
        yield written
    finally:
        client.disabled = False
        root.setLevel(level)
        root.removeHandler(handler)
        configure_logging()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    with logs() as log:
        async with running_platform(tmp_path_factory.mktemp("access") / "data") as running:
            story = await live(running)
            yield World(story, await _read_documents(story), log)


async def _read_documents(story: Story) -> list[Operation]:
    client = await story.running.anonymous()
    found = []
    for service in SERVICES:
        document: Any = json_of(await client.get(f"/{service}/openapi.json"))
        for path, item in document["paths"].items():
            for method, operation in item.items():
                query = [one["name"] for one in operation.get("parameters", ())]
                found.append(Operation(method.upper(), path, frozenset(query)))
    return [operation for operation in found if "/v1/" in operation.path]


async def attacker(
    world: World, subject: str, *roles: Role, programs: tuple[str, ...] = ()
) -> Attacker:
    reads = {*roles, *map(coordinator_of, programs if "coordinator" in roles else ())}
    if "participant" in roles:
        reads.add(subject)
    client = await world.story.running.client(subject, *roles, programs=programs)
    return Attacker(client, frozenset(reads))


async def ask(
    by: Attacker, operation: Operation, object_id: str, query: Mapping[str, str] | None = None
) -> httpx.Response:
    path = operation.path.replace(f"{{{operation.parameter}}}", object_id)
    return await by.client.request(
        operation.method, path, params=dict(query or {}), json=operation.body
    )


def leaks(world: World, by: Attacker, answer: httpx.Response) -> list[str]:
    """Return every text in an answer that is not for this reader, but for what they sent."""
    sent = str(answer.request.url)
    return [
        f"{answer.request.method} {sent} tells {text}"
        for text, readers in world.story.readers.items()
        if text in answer.text and not readers & by.reads and text not in sent
    ]


def _shown(answer: httpx.Response, object_id: str) -> tuple[object, ...]:
    headers = {name: text for name, text in answer.headers.items() if name != "x-correlation-id"}
    return answer.status_code, headers, answer.text.replace(object_id, "{id}")


async def attack_objects(world: World, by: Attacker) -> list[str]:
    """Try every object of others on every route that takes its id; return what was achieved."""
    found = []
    for operation in world.operations:
        for object_id, owners in world.story.owners.get(operation.parameter or "", {}).items():
            if owners & by.reads or (
                world.story.readers[object_id] & by.reads
                and (operation.method == "GET" or operation.parameter == "letter_id")
            ):
                continue
            # As long as the real one, so that not even the length of the answer differs.
            absent = object_id[:-4] + "zzzz"
            answer = await ask(by, operation, object_id)
            nothing = await ask(by, operation, absent)
            found += leaks(world, by, answer)
            if answer.status_code not in {403, 404}:
                found.append(f"{operation.method} {operation.path} answers {answer.status_code}")
            if _shown(answer, object_id) != _shown(nothing, absent):
                found.append(f"{operation.method} {operation.path} tells that the object exists")
    return found


async def attack_lists(world: World, by: Attacker) -> list[str]:
    """Read every list and every program's part, with ids of others in queries and cursors."""
    story, found = world.story, []
    programs = (PROGRAM, OTHER_PROGRAM)
    values: dict[str, list[str]] = {
        "program": [*programs, "absent"],
        "pair": [*story.owners["pair_id"], "absent"],
        "employee_id": [text for text in story.words if text.startswith("zebra-employee")][:2],
        "cursor": [
            write_cursor(place, object_id)
            for kind in ("participant_id", "pair_id", "survey_id")
            for object_id in list(story.owners[kind])[-1:]
            for place in (None, object_id)
        ],
        "by": ["none", "role", "region", "department", "month"],
    }
    for operation in world.operations:
        if operation.method != "GET" or operation.parameter not in {None, "program_id"}:
            continue
        chooses = operation.parameter is not None or "program" in operation.query
        for place in programs if chooses else programs[:1]:
            needed = {"program": place, "pair": values["pair"][0]}
            base = {name: text for name, text in needed.items() if name in operation.query}
            queries = [base] + [
                base | {name: text}
                for name in sorted(operation.query & values.keys())
                for text in values[name]
            ]
            for query in queries:
                answer = await ask(by, operation, place, query)
                found += leaks(world, by, answer)
                if answer.status_code >= 500:
                    found.append(f"{answer.request.url} answers {answer.status_code}")
    return found


async def snapshot(world: World) -> dict[str, object]:
    """Return every object as its owners see it, and how much is on the log."""
    story = world.story
    seen: dict[str, object] = {"events": len(story.running.records())}
    for operation in world.operations:
        for object_id, owners in story.owners.get(operation.parameter or "", {}).items():
            for person_id in owners if operation.method == "GET" else ():
                own = await attacker(world, person_id, "participant")
                answer = await ask(own, operation, object_id)
                seen[f"{person_id} {operation.path} {object_id}"] = _shown(answer, "")[::2]
    return seen


async def test_participants_find_and_change_nothing_of_others(world: World) -> None:
    before = await snapshot(world)
    people = world.story.people
    pairs = list(world.story.owners["pair_id"].values())
    silent = pairs[3] & set(people[:4])
    waiting = [one for one in people if not any(one in pair for pair in pairs)]
    # One pair's both sides, the one who has not answered a proposal, one who waits, one who is in
    # two programs, one who is in none.
    for person_id in {*pairs[0], *silent, waiting[0], people[-1], "p_nobody"}:
        by = await attacker(world, person_id, "participant")
        found = await attack_objects(world, by) + await attack_lists(world, by)
        assert not found, "\n".join(found)
    await world.story.running.settle()
    assert await snapshot(world) == before


@pytest.mark.parametrize(
    ("roles", "programs"),
    [
        (["coordinator"], [OTHER_PROGRAM]),
        (["coordinator"], []),
        (["analyst"], [PROGRAM, OTHER_PROGRAM]),
        (["hr"], [PROGRAM]),
        (["operator"], [PROGRAM]),
        (["coordinator", "analyst"], [OTHER_PROGRAM]),
    ],
)
async def test_other_roles_find_and_change_nothing_that_is_not_theirs(
    world: World, roles: list[Role], programs: list[str]
) -> None:
    before = await snapshot(world)
    by = await attacker(world, "somebody", *roles, programs=tuple(programs))
    found = await attack_objects(world, by) + await attack_lists(world, by)
    assert not found, "\n".join(found)
    await world.story.running.settle()
    assert await snapshot(world) == before


async def test_a_programs_coordinator_reads_the_schedule_and_none_of_the_words(
    world: World,
) -> None:
    by = await attacker(world, "office", "coordinator", programs=(PROGRAM,))
    seen, found = set(), []
    for operation in world.operations:
        for object_id in world.story.owners.get(operation.parameter or "", {}):
            if operation.method == "GET":
                answer = await ask(by, operation, object_id)
                found += leaks(world, by, answer)
                seen |= {operation.parameter} if answer.is_success else set()
    found += await attack_lists(world, by)
    assert not found, "\n".join(found)
    assert seen == {"participant_id", "round_id", "pair_id", "session_id"}


async def test_a_key_that_somebody_else_used_opens_nothing(world: World) -> None:
    story = world.story
    (survey_id, mentor), *_ = [
        (survey_id, person)
        for survey_id, people in story.owners["survey_id"].items()
        for person in people
        if person not in story.people[:4]
    ]
    (other,) = (pair - {mentor} for pair in story.owners["pair_id"].values() if mentor in pair)
    path = f"/feedback/v1/surveys/{survey_id}/responses"

    async def send(person_id: str) -> httpx.Response:
        client = await story.running.person(person_id)
        return await client.post(
            path, json={"answers": {"satisfaction": 2}}, headers={"Idempotency-Key": "known"}
        )

    response_id = str(json_of(await send(mentor), 201)["response_id"])
    for thief in (*other, "p_nobody"):
        answer = await send(thief)
        assert answer.status_code == 404
        assert response_id not in answer.text


async def test_names_and_words_of_people_are_on_no_event_and_in_no_log(world: World) -> None:
    story = world.story
    operator = await attacker(world, "ops", "operator")
    for operation in world.operations:
        if operation.path.endswith("/dead-letters"):
            answer = await ask(operator, operation, "")
            assert GONE_WRONG not in answer.text
    for service in SERVICES:
        metrics = (await operator.client.get("/metrics")).text
        assert not [text for text in story.readers if text in metrics], service
    # Ids of people are no words: events are about them. In logs and metrics they are not either.
    written = world.log.getvalue()
    assert "dead_letter" in written
    assert not [text for text in {*story.words, *story.people} if text in written]
    reader = LocalLog.reader(story.running.folder.log)
    try:
        records = [_bytes(record) for record in reader.export()]
    finally:
        reader.close()
    words = set(story.words) - {GONE_WRONG}
    assert len(words) > 40
    assert not [text for text in words for record in records if text.encode() in record]


def _bytes(record: StoredRecord) -> bytes:
    headers = [part for name, value in record.headers for part in (name.encode(), value)]
    return b"\n".join(part or b"" for part in (record.key, record.value, *headers))


async def test_every_word_of_the_story_is_read_by_those_it_is_for(world: World) -> None:
    """Without this, a typo in a word would make all the tests above see nothing."""
    story = world.story
    unread = set(story.words) - {GONE_WRONG}
    people = [await attacker(world, person_id, "participant") for person_id in story.people]
    hr = await attacker(world, "hr", "hr")
    for by in (*people, hr):
        for operation in world.operations:
            if operation.method != "GET" or "/operations/" in operation.path:
                continue
            ids = (
                [
                    one
                    for one, who in story.owners.get(operation.parameter or "", {}).items()
                    if who & by.reads
                ]
                if operation.parameter
                else [""]
            )
            for object_id in ids:
                answer = await ask(by, operation, object_id)
                unread -= {text for text in unread if text in answer.text}
    assert not unread
