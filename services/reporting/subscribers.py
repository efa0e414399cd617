"""Events to handlers."""

from services.reporting import handlers
from services.reporting.domain import FACT_OF
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import RoundCompleted
from shared.events.programs import ProgramPublished
from shared.messaging.consumer import Consumer


def subscribe(consumer: Consumer) -> None:
    """Declare what reporting follows."""
    consumer.on_batch(ProgramPublished)(handlers.learn_programs)
    consumer.on_batch(*FACT_OF, RoundCompleted, FeedbackSubmitted)(handlers.project)
