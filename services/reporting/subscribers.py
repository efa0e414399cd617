"""Events to handlers."""

from services.reporting import handlers
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import (
    PairDeclined,
    Paired,
    PairEnded,
    PairPaused,
    PairProposed,
    PairResumed,
    PairRotated,
    RoundCompleted,
)
from shared.events.participants import (
    Departed,
    Enrolled,
    ProfileChanged,
    RosterCounted,
    Withdrawn,
)
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.messaging.consumer import Consumer

PROJECTED = (
    RosterCounted,
    Enrolled,
    ProfileChanged,
    Withdrawn,
    Departed,
    PairProposed,
    Paired,
    PairDeclined,
    PairPaused,
    PairResumed,
    PairRotated,
    PairEnded,
    RoundCompleted,
    SessionHeld,
    FeedbackSubmitted,
)


def subscribe(consumer: Consumer) -> None:
    """Declare what reporting follows."""
    consumer.on_batch(ProgramPublished)(handlers.learn_programs)
    consumer.on_batch(*PROJECTED)(handlers.project)
