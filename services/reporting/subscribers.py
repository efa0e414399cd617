"""Events to handlers."""

from services.reporting import handlers
from services.reporting.domain import FACT_OF
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import RoundCompleted
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.messaging.consumer import Consumer


def subscribe(consumer: Consumer) -> None:
    """Declare what reporting follows."""
    consumer.on_batch(ProgramPublished)(handlers.learn_programs)
    consumer.on_batch(*FACT_OF, digest=handlers.of_fact)(handlers.project)
    consumer.on_batch(SessionHeld, digest=handlers.of_session)(handlers.project)
    consumer.on_batch(FeedbackSubmitted, digest=handlers.of_response)(handlers.project)
    consumer.on_batch(RoundCompleted)(handlers.project)
