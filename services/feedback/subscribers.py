"""The events that feedback follows: each calls one handler."""

from services.feedback import handlers
from shared.events.envelope import Envelope
from shared.events.pairs import Paired
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.messaging.consumer import Consumer
from shared.store.port import Transaction


def subscribe(consumer: Consumer) -> None:
    """Declare the handlers."""

    @consumer.on(ProgramPublished)
    async def program_published(
        tx: Transaction, event: ProgramPublished, envelope: Envelope
    ) -> None:
        await handlers.follow_program(tx, event, envelope.aggregateversion)

    @consumer.on(Paired)
    async def paired(tx: Transaction, event: Paired, _envelope: Envelope) -> None:
        await handlers.form_pair(tx, event)

    @consumer.on(SessionHeld)
    async def session_held(tx: Transaction, event: SessionHeld, _envelope: Envelope) -> None:
        await handlers.survey_session(tx, event)
