"""What operators do with any service: see its flow, its dead letters, and replay its outbox."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from shared.clock import Instant, WrittenInstant
from shared.errors import RuleViolationError, UniqueViolationError
from shared.http.call import Call, allow
from shared.http.pagination import Cursor, Limit, Page, page, read_cursor
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetter
from shared.messaging.parsing import PermanentError
from shared.store.port import Store, Transaction

Operator = Annotated[Call, allow("operator")]


class Flow(BaseModel):
    """How far a service is: what it has not published, not consumed, and not done on time."""

    service: str
    outbox_pending: int
    lag: int
    dead_letters_open: int
    stopped_because: str | None
    scheduled_until: Instant


class DeadLetterView(BaseModel):
    """A dead letter; bytes in base64."""

    id: str
    state: Literal["open", "retried", "dropped"]
    reason: str
    topic: str
    partition: int
    offset: int
    consumer_group: str
    attempts: int
    first_at: Instant
    last_at: Instant
    key: str | None
    value: str | None
    # Not a tuple: what describes one in JSON Schema, many OpenAPI tools can't read.
    headers: list[Annotated[list[str | None], Field(min_length=2, max_length=2)]]

    @classmethod
    def of(cls, letter: DeadLetter) -> "DeadLetterView":
        """Return what operators see."""
        return cls.model_validate(letter.model_dump(exclude={"version"}))


class ReplayRequest(BaseModel):
    """Which sent events to publish again; without a topic, all."""

    model_config = ConfigDict(extra="forbid", strict=True)

    topic: str | None = Field(default=None, max_length=200)
    since: WrittenInstant | None = None


class ReplayReport(BaseModel):
    """How many events will be published again."""

    events: int


def operations_router(
    store: Store, consumer: Consumer, measure: Callable[[], Awaitable[Flow]]
) -> APIRouter:
    """Return the operator routes of one service; `measure` gives its flow."""
    router = APIRouter(prefix="/operations", tags=["operations"])

    @router.get("/flow")
    async def flow(_call: Operator) -> Flow:
        """Say how far the service is; all zeros: it has done all there is to do."""
        return await measure()

    @router.get("/dead-letters")
    async def list_dead_letters(
        _call: Operator,
        state: Annotated[Literal["open", "retried", "dropped"], Query()] = "open",
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[DeadLetterView]:
        """List dead letters, oldest first."""
        found = await store.find(
            DeadLetter,
            {"state": state},
            order_by="last_at",
            after=read_cursor(cursor),
            limit=limit + 1,
        )
        return page(found, limit, DeadLetterView.of, order_by="last_at")

    @router.get("/dead-letters/{letter_id}")
    async def show_dead_letter(_call: Operator, letter_id: str) -> DeadLetterView:
        """Show one dead letter, as received."""
        return DeadLetterView.of(await store.require(DeadLetter, letter_id))

    @router.post("/dead-letters/{letter_id}/retry", response_model=DeadLetterView)
    async def retry_dead_letter(call: Operator, letter_id: str) -> Response:
        """Apply the record now; if it still can't be applied, it stays open and says why."""

        async def retry(tx: Transaction) -> DeadLetter:
            return await consumer.retry(tx, await _open_letter(tx, letter_id))

        async def keep_reason(tx: Transaction, reason: str) -> DeadLetter:
            letter = await _open_letter(tx, letter_id)
            return tx.put(
                letter.changed(reason=reason, attempts=letter.attempts + 1, last_at=call.now)
            )

        try:
            return await call.answer(200, DeadLetterView.of, retry)
        except (PermanentError, UniqueViolationError, ValueError) as error:
            await call.command(keep_reason, str(error))
            raise RuleViolationError(str(error), code="still_dead") from error

    @router.post("/dead-letters/{letter_id}/drop", response_model=DeadLetterView)
    async def drop_dead_letter(call: Operator, letter_id: str) -> Response:
        """Give the record up for good; it stays listed as dropped."""

        async def drop(tx: Transaction) -> DeadLetter:
            letter = await _open_letter(tx, letter_id)
            return tx.put(letter.changed(state="dropped", last_at=call.now))

        return await call.answer(200, DeadLetterView.of, drop)

    @router.post("/replay", response_model=ReplayReport)
    async def replay(call: Operator, request: ReplayRequest) -> Response:
        """Publish sent events again, with their own ids: consumers that applied them skip them."""
        if (earlier := await call.earlier_answer()) is not None:
            return earlier
        events = await store.outbox.replay(topic=request.topic, since=request.since)

        async def report(_tx: Transaction) -> int:
            return events

        return await call.answer(200, lambda number: ReplayReport(events=number), report)

    return router


async def _open_letter(tx: Transaction, letter_id: str) -> DeadLetter:
    letter = await tx.require(DeadLetter, letter_id)
    if letter.state != "open":
        detail = f"This dead letter was already {letter.state}."
        raise RuleViolationError(detail, code="dead_letter_closed")
    return letter
