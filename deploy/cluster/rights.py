"""What each service's Kafka user must be allowed, and nothing else: derived from the contract."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from shared.events.topics import SERVICES, TOPICS, consumer_group


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
    for service in SERVICES:
        for topic in TOPICS.values():
            if topic.owner == service:
                yield Right(service, "Write", "topic", topic.name)
        # Of its own dead letters a service keeps documents.
        read = [t for t in TOPICS.values() if service in t.readers and t.owner != service]
        for topic in read:
            yield Right(service, "Read", "topic", topic.name)
        if read:
            yield Right(service, "Read", "group", consumer_group(service))
