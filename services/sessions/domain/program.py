"""A program as sessions see it: what may be talked about, under which ground rules, how often."""

from collections.abc import Sequence
from typing import ClassVar, Self

from shared.errors import InvalidInputError, RuleViolationError
from shared.events.programs import ProgramPublished
from shared.store.port import Document


class Program(Document):
    """What sessions need of a program; a placeholder until its configuration has arrived.

    `source_version` is that of enrollment's program when it was last published.
    """

    collection: ClassVar[str] = "programs"

    source_version: int = 0
    topics: tuple[str, ...] = ()
    ground_rules: tuple[str, ...] = ()
    cadence_days: int | None = None
    closed: bool = False

    def publish(self, event: ProgramPublished, source_version: int) -> Self:
        """Take over a configuration; one that is not newer changes nothing."""
        if source_version <= self.source_version:
            return self
        return self.changed(
            source_version=source_version,
            topics=tuple(topic.topic_id for topic in event.topics),
            ground_rules=event.ground_rules,
            cadence_days=event.cadence_days,
        )

    def close(self) -> Self:
        """End the program for good, also where its configuration is still to come."""
        return self if self.closed else self.changed(closed=True)

    def must_have(self, topics: Sequence[str]) -> None:
        """Raise InvalidInputError for a topic that is not the program's, or is named twice.

        Raises RuleViolationError while the program's configuration has not arrived.
        """
        if self.source_version == 0:
            raise RuleViolationError(
                "The program's configuration has not arrived yet.", code="program_unknown"
            )
        unknown = [topic for topic in topics if topic not in self.topics]
        if unknown:
            raise InvalidInputError(
                f"The program has no topic {unknown[0]!r}.", code="unknown_topic", field="topics"
            )
        if len(set(topics)) != len(topics):
            raise InvalidInputError("Name each topic once.", code="repeated", field="topics")
