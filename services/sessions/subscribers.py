"""What sessions follow: each event to its one handler."""

from services.sessions import handlers
from shared.events.envelope import Envelope
from shared.events.pairs import Paired, PairEnded, PairPaused, PairResumed, PairRotated
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.messaging.consumer import Consumer
from shared.store.port import Transaction


def subscribe(consumer: Consumer) -> None:
    """Register the handlers of programs and pairs."""

    @consumer.on(ProgramPublished)
    async def published(tx: Transaction, event: ProgramPublished, envelope: Envelope) -> None:
        await handlers.take_program(tx, event, envelope.aggregateversion)

    @consumer.on(ProgramClosed)
    async def closed(tx: Transaction, event: ProgramClosed, _: Envelope) -> None:
        await handlers.close_program(tx, event)

    @consumer.on(Paired)
    async def paired(tx: Transaction, event: Paired, envelope: Envelope) -> None:
        await handlers.form_pair(tx, event, envelope.aggregateversion)

    @consumer.on(PairPaused)
    async def paused(tx: Transaction, event: PairPaused, envelope: Envelope) -> None:
        await handlers.rest_pair(tx, event, envelope.aggregateversion)

    @consumer.on(PairResumed)
    async def resumed(tx: Transaction, event: PairResumed, envelope: Envelope) -> None:
        await handlers.rest_pair(tx, event, envelope.aggregateversion)

    @consumer.on(PairRotated)
    async def rotated(tx: Transaction, event: PairRotated, envelope: Envelope) -> None:
        await handlers.end_pair(tx, event, envelope.aggregateversion)

    @consumer.on(PairEnded)
    async def ended(tx: Transaction, event: PairEnded, envelope: Envelope) -> None:
        await handlers.end_pair(tx, event, envelope.aggregateversion)
