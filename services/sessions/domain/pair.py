"""A pair as sessions see it: who its members are, whether it is active, how far it counted."""

from datetime import datetime
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict

from services.sessions.domain.program import Program
from shared.clock import Instant
from shared.errors import InvalidInputError, RuleViolationError
from shared.events.pairs import Paired, PairSide
from shared.store.port import Document, Index

PairStatus = Literal["unknown", "active", "paused", "ended"]


class Member(BaseModel):
    """One member of a pair."""

    model_config = ConfigDict(frozen=True)

    participant_id: str
    person_id: str

    @classmethod
    def of(cls, side: PairSide) -> Self:
        """Return the member that an event names."""
        return cls(participant_id=side.participant_id, person_id=side.person_id)


class PairRecord(Document):
    """What sessions know of matching's pair.

    `unknown` while only events other than its start have arrived. `source_version` is that of
    matching's pair when it last changed its status; members and term never change. `planned` and
    `scheduled` count the pair's sessions: who takes the next number writes this document, so that
    two can't take the same and none is taken while the pair pauses or ends.
    """

    collection: ClassVar[str] = "pairs"
    indexes: ClassVar[tuple[Index, ...]] = (
        Index(("program_id", "status")),
        Index(("person_ids",), many=True),
    )

    program_id: str
    status: PairStatus = "unknown"
    source_version: int = 0
    mentor: Member | None = None
    mentees: tuple[Member, ...] = ()
    person_ids: tuple[str, ...] = ()
    started_at: Instant | None = None
    ends_at: Instant | None = None
    ended_at: Instant | None = None
    planned: int = 0
    scheduled: int = 0

    @property
    def members(self) -> tuple[Member, ...]:
        """All members, the mentor first; nobody while the pair is unknown."""
        return () if self.mentor is None else (self.mentor, *self.mentees)

    def member(self, person_id: str) -> Member | None:
        """Return the member who is this person."""
        found = [member for member in self.members if member.person_id == person_id]
        return found[0] if found else None

    def is_mentee(self, participant_id: str) -> bool:
        """Return whether a participant is a mentee of this pair."""
        return any(mentee.participant_id == participant_id for mentee in self.mentees)

    def same_side(self, participant_id: str, other: str) -> bool:
        """Return whether two members are on the same side, as mentees of a circle are."""
        return self.is_mentee(participant_id) == self.is_mentee(other)

    def form(self, event: Paired, source_version: int) -> Self:
        """Take over members and term; the status only if nothing newer is known."""
        if self.mentor is not None:
            return self
        pair = self.changed(
            mentor=Member.of(event.mentor),
            mentees=tuple(Member.of(side) for side in event.mentees),
            person_ids=tuple(side.person_id for side in (event.mentor, *event.mentees)),
            started_at=event.started_at,
            ends_at=event.ends_at,
        )
        return pair._follow("active", source_version)

    def pause(self, source_version: int) -> Self:
        """Let the pair rest; nothing changes if something newer is known."""
        return self._follow("paused", source_version)

    def resume(self, source_version: int) -> Self:
        """Let the pair go on; nothing changes if something newer is known."""
        return self._follow("active", source_version)

    def end(self, ended_at: datetime, source_version: int) -> Self:
        """End the pair; nothing changes if it is known."""
        ended = self._follow("ended", source_version)
        return self if ended is self else ended.changed(ended_at=ended_at)

    def _follow(self, status: PairStatus, source_version: int) -> Self:
        if source_version <= self.source_version:
            return self
        return self.changed(status=status, source_version=source_version)

    def count_planned(self) -> Self:
        """Return the pair with one more planned session."""
        return self.changed(planned=self.planned + 1)

    def count_scheduled(self) -> Self:
        """Return the pair with one more scheduled session."""
        return self.changed(scheduled=self.scheduled + 1)

    def must_be_active(self, program: Program) -> None:
        """Raise RuleViolationError unless the pair is active and its program goes on."""
        if program.closed:
            raise RuleViolationError("The program is closed.", code="program_closed")
        if self.status != "active":
            raise RuleViolationError(f"The pair is {self.status}.", code="pair_not_active")

    def must_cover(self, starts_at: datetime) -> None:
        """Raise InvalidInputError for a start outside the pair's term."""
        started_at, ends_at = self.started_at, self.ends_at
        if started_at is None or ends_at is None or not started_at <= starts_at < ends_at:
            raise InvalidInputError(
                "The start is outside the pair's term.", code="outside_term", field="starts_at"
            )
