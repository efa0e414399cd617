"""Exactly one survey for each attendee and session, whatever the events' order and repetition."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.feedback import handlers
from services.feedback.domain import HeldSession, Survey
from services.feedback.repository import DOCUMENTS
from services.feedback.subscribers import subscribe
from shared.clock import ManualClock
from shared.events.envelope import Envelope, Event, data_schema
from shared.events.feedback import SurveyDue
from shared.ids import new_event_id
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetter, RawRecord
from shared.store.port import Transaction
from shared.store.sqlite import SqliteStore
from tests.unit.feedback.builders import held, paired, participant_of, published

NOW = datetime(2026, 2, 5, 12, 0, tzinfo=UTC)

# Two programs, a circle among their pairs, sessions that not everybody attended.
STORY: tuple[tuple[Event, int], ...] = (
    (published("alpha"), 1),
    (published("alpha", version=2), 2),
    (published("beta"), 1),
    (paired("alpha", "pr_1", "kim", "lou"), 2),
    (paired("alpha", "pr_2", "max", "noa", "oli"), 2),
    (paired("beta", "pr_3", "kim", "lou"), 2),
    (held("alpha", "pr_1", "se_1", "kim", "lou"), 3),
    (held("alpha", "pr_1", "se_2", "kim"), 3),
    (held("alpha", "pr_2", "se_3", "max", "noa", "oli"), 3),
    (held("alpha", "pr_2", "se_4", "oli", "max"), 3),
    (held("beta", "pr_3", "se_5", "kim", "lou"), 3),
)
EXPECTED = {
    (session, participant_of(program, person))
    for program, session, people in (
        ("alpha", "se_1", ("kim", "lou")),
        ("alpha", "se_2", ("kim",)),
        ("alpha", "se_3", ("max", "noa", "oli")),
        ("alpha", "se_4", ("oli", "max")),
        ("beta", "se_5", ("kim", "lou")),
    )
    for person in people
}


@asynccontextmanager
async def open_store(folder: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(
        folder / "feedback.db", service="feedback", region="local", clock=ManualClock(NOW)
    )
    await store.open((*DOCUMENTS, DeadLetter))
    try:
        yield store
    finally:
        await store.close()


def record(event: Event, version: int, event_id: str) -> RawRecord:
    envelope = Envelope(
        id=event_id,
        source="/upward/local/elsewhere",
        type=event.type(),
        subject=event.subject,
        time=NOW,
        dataschema=data_schema(event.type()),
        program=event.program_id,
        region="local",
        aggregateversion=version,
    )
    headers = tuple((name, text.encode()) for name, text in envelope.to_headers().items())
    key, value = event.subject.encode(), event.model_dump_json().encode()
    return RawRecord(event.topic, 0, 0, key, value, headers)


async def due_surveys(store: SqliteStore) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for outgoing in await store.outbox.pending(1000):
        assert dict(outgoing.headers)["ce_type"] == SurveyDue.type()
        event = SurveyDue.model_validate(orjson.loads(outgoing.value or b""))
        found[event.session_id or "", event.participant_id] += 1
    return found


deliveries = st.permutations(STORY).flatmap(
    lambda story: st.lists(st.sampled_from(story), max_size=8).flatmap(
        # Each event at least once in any order; then some again, anywhere.
        lambda again: st.permutations([*story, *again])
    )
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
@given(story=deliveries, replayed=st.booleans(), batch=st.sampled_from([1, 4, 100]))
def test_every_order_and_repetition_makes_exactly_one_survey_for_each_attendee_and_session(
    story: list[tuple[Event, int]], replayed: bool, batch: int
) -> None:
    async def run(folder: Path) -> None:
        async with open_store(folder) as store:
            consumer = Consumer("feedback", store, ManualClock(NOW))
            subscribe(consumer)
            # A redelivery has the same event id and meets the inbox; a re-emission has another.
            records = [
                record(event, version, new_event_id() if replayed else f"{event.type()}-{index}")
                for event, version in story
                for index in [STORY.index((event, version))]
            ]
            for start in range(0, len(records), batch):
                await consumer.process(records[start : start + batch])

            surveys = await store.find(Survey)
            assert {(s.session_id, s.participant_id) for s in surveys} == EXPECTED
            assert len(surveys) == len(EXPECTED)
            assert await due_surveys(store) == Counter(EXPECTED)
            assert await store.count(HeldSession, {"waits_for": None}) == 5
            assert await store.count(DeadLetter) == 0

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


Apply = Callable[[Transaction], Awaitable[None]]


async def apply_program(tx: Transaction) -> None:
    await handlers.follow_program(tx, published("alpha"), 1)


async def apply_pair(tx: Transaction) -> None:
    await handlers.form_pair(tx, paired("alpha", "pr_1", "kim", "lou"))


async def apply_session(tx: Transaction) -> None:
    await handlers.survey_session(tx, held("alpha", "pr_1", "se_1", "kim", "lou"))


@pytest.mark.parametrize(
    ("before", "slow", "quick"),
    [
        ([apply_program], apply_session, apply_pair),
        ([apply_program], apply_pair, apply_session),
        ([apply_pair], apply_session, apply_program),
        ([apply_pair], apply_program, apply_session),
        ([apply_session], apply_pair, apply_program),
        ([apply_session], apply_program, apply_pair),
        ([apply_program, apply_pair], apply_session, apply_session),
    ],
)
async def test_two_replicas_that_apply_what_belongs_together_at_once_leave_no_session_waiting(
    tmp_path: Path, before: list[Apply], slow: Apply, quick: Apply
) -> None:
    async with open_store(tmp_path) as store:
        for apply in before:
            await store.transact(apply)
        overtaken = False

        async def overtake(tx: Transaction) -> None:
            nonlocal overtaken
            await slow(tx)
            if not overtaken:
                overtaken = True
                await store.transact(quick)

        await store.transact(overtake)

        assert await due_surveys(store) == {
            ("se_1", participant_of("alpha", "kim")): 1,
            ("se_1", participant_of("alpha", "lou")): 1,
        }
        assert await store.count(HeldSession, {"waits_for": None}) == 1


async def test_a_later_pulse_does_not_ask_about_sessions_of_before(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.transact(handlers.follow_program, published("alpha", plans=()), 1)
        await store.transact(apply_pair)
        await store.transact(apply_session)
        await store.transact(handlers.follow_program, published("alpha", version=2), 2)
        await store.transact(apply_session)

        assert await store.count(Survey) == 0

        later = held("alpha", "pr_1", "se_2", "kim", "lou")
        await store.transact(handlers.survey_session, later)

        assert await store.count(Survey, {"session_id": "se_2"}) == 2
