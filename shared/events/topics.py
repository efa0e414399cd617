"""Every topic, declared once: nobody else spells a topic's name."""

from dataclasses import dataclass
from typing import Literal

SERVICES = ("enrollment", "matching", "sessions", "feedback", "reporting")

MAX_EVENT_BYTES = 256 * 1024
"""The largest value the contract allows; a larger record is dead-lettered unread."""


@dataclass(frozen=True)
class Topic:
    """A topic of the contract.

    `readers` are the services that consume it; a public topic is open to any other subscriber.
    `retention_days` of None keeps records for good.
    """

    name: str
    owner: str
    readers: tuple[str, ...]
    access: Literal["public", "restricted"] = "public"
    partitions: int = 6
    retention_days: int | None = None


PROGRAMS = "upward.programs.v1"
PARTICIPANTS = "upward.participants.v1"
PAIRS = "upward.pairs.v1"
SESSIONS = "upward.sessions.v1"
FEEDBACK = "upward.feedback.v1"
SURVEYS = "upward.surveys.v1"


def dead_letter_topic(service: str) -> str:
    """Return the topic that holds what `service` could not process."""
    return f"upward.{service}.dlq.v1"


def consumer_group(service: str) -> str:
    """Return the consumer group of all replicas of `service`."""
    return f"upward.{service}"


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic(PROGRAMS, "enrollment", ("matching", "sessions", "feedback", "reporting")),
        Topic(PARTICIPANTS, "enrollment", ("matching", "reporting"), access="restricted"),
        Topic(PAIRS, "matching", ("sessions", "feedback", "reporting")),
        Topic(SESSIONS, "sessions", ("feedback", "reporting")),
        Topic(FEEDBACK, "feedback", ("reporting",), access="restricted"),
        Topic(SURVEYS, "feedback", ()),
        *(
            Topic(
                dead_letter_topic(service),
                service,
                (service,),
                access="restricted",
                partitions=1,
                retention_days=30,
            )
            for service in SERVICES
        ),
    )
}
