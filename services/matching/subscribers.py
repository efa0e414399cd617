"""Events that matching follows."""

from collections.abc import Callable

from services.matching import handlers
from shared.clock import Clock
from shared.events.envelope import Envelope
from shared.events.participants import (
    Departed,
    Enrolled,
    OrgChanged,
    ParticipantEvent,
    ParticipantState,
    Paused,
    ProfileChanged,
    Resumed,
    TrainingCompleted,
    Withdrawn,
)
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.messaging.consumer import Consumer
from shared.store.port import Transaction


def subscriptions(clock: Clock) -> Callable[[Consumer], None]:
    """Return the function that declares matching's handlers."""

    def subscribe(consumer: Consumer) -> None:
        @consumer.on(ProgramPublished, ProgramClosed)
        async def follow_program(
            tx: Transaction, event: ProgramPublished | ProgramClosed, _envelope: Envelope
        ) -> None:
            await handlers.follow_program(tx, event, clock.now())

        @consumer.on(
            Enrolled,
            ProfileChanged,
            TrainingCompleted,
            Paused,
            Resumed,
            Withdrawn,
            OrgChanged,
            Departed,
        )
        async def follow_participant(
            tx: Transaction, event: ParticipantState | ParticipantEvent, envelope: Envelope
        ) -> None:
            await handlers.follow_participant(tx, event, envelope.aggregateversion, clock.now())

    return subscribe
