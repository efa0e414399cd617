"""Events to handlers."""

from services.reporting import handlers
from shared.events.envelope import Envelope
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import (
    PairDeclined,
    Paired,
    PairEnded,
    PairEvent,
    PairPaused,
    PairProposed,
    PairResumed,
    PairRotated,
    PairState,
    RoundCompleted,
)
from shared.events.participants import (
    Departed,
    Enrolled,
    ParticipantEvent,
    ParticipantState,
    ProfileChanged,
    RosterCounted,
    Withdrawn,
)
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.messaging.consumer import Consumer
from shared.store.port import Transaction


def subscribe(consumer: Consumer) -> None:
    """Declare what reporting follows."""

    @consumer.on(ProgramPublished)
    async def program_published(tx: Transaction, event: ProgramPublished, _: Envelope) -> None:
        await handlers.learn_program(tx, event)

    @consumer.on(RosterCounted)
    async def roster_counted(tx: Transaction, event: RosterCounted, envelope: Envelope) -> None:
        await handlers.count_roster(tx, event, envelope.aggregateversion)

    @consumer.on(Enrolled, ProfileChanged)
    async def profile(tx: Transaction, event: ParticipantState, envelope: Envelope) -> None:
        await handlers.follow_participant(tx, event, envelope.aggregateversion)

    @consumer.on(Withdrawn, Departed)
    async def gone(tx: Transaction, event: ParticipantEvent, envelope: Envelope) -> None:
        await handlers.follow_participant(tx, event, envelope.aggregateversion)

    @consumer.on(PairProposed, Paired)
    async def pair_state(tx: Transaction, event: PairState, envelope: Envelope) -> None:
        await handlers.follow_pair(tx, event, envelope.aggregateversion)

    @consumer.on(PairDeclined, PairPaused, PairResumed, PairRotated, PairEnded)
    async def pair_event(tx: Transaction, event: PairEvent, envelope: Envelope) -> None:
        await handlers.follow_pair(tx, event, envelope.aggregateversion)

    @consumer.on(RoundCompleted)
    async def round_completed(tx: Transaction, event: RoundCompleted, envelope: Envelope) -> None:
        await handlers.count_round(tx, event, envelope.time)

    @consumer.on(SessionHeld)
    async def session_held(tx: Transaction, event: SessionHeld, _: Envelope) -> None:
        await handlers.count_session(tx, event)

    @consumer.on(FeedbackSubmitted)
    async def feedback_submitted(tx: Transaction, event: FeedbackSubmitted, _: Envelope) -> None:
        await handlers.count_response(tx, event)
