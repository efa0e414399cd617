"""What each service's Kafka user must be allowed, and nothing else: derived from the contract."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from shared.events.topics import SERVICES, TOPICS


@dataclass(frozen=True)
class Right:
    """An operation that a service does; in Kafka, reading and writing imply describing."""

    service: str
    operation: Literal["Read", "Write"]
    resource: Literal["topic", "group"]
    name: str

    def options(self, user: str) -> str:
        """Return the options of Kafka's `kafka-acls.sh` that allow it to this user."""
        return (
            f"--allow-principal User:{user} --operation {self.operation}"
            f" --{self.resource} {self.name}"
        )


def rights() -> Iterator[Right]:
    """Yield the rights of every service: its topics and dead letters, what it reads, its group."""
    for topic in TOPICS.values():
        yield Right(topic.owner, "Write", "topic", topic.name)
        for reader in topic.readers:
            # Of its own dead letters a service keeps documents.
            if reader != topic.owner:
                yield Right(reader, "Read", "topic", topic.name)
    for service in SERVICES:
        if any(service in topic.readers and service != topic.owner for topic in TOPICS.values()):
            yield Right(service, "Read", "group", f"upward.{service}")
