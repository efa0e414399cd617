"""One meeting of a pair, from its proposal to what both sides took from it."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.sessions.domain.agreement import Agreement
from services.sessions.domain.pair import PairRecord
from services.sessions.domain.program import Program
from shared.clock import Instant, WrittenInstant
from shared.errors import InvalidInputError, RuleViolationError
from shared.events.sessions import (
    MeetingMode,
    SessionCancelled,
    SessionHeld,
    SessionMissed,
    SessionMoved,
    SessionScheduled,
    SessionTag,
)
from shared.ids import derived_id
from shared.store.port import Document, Index

Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Minutes = Annotated[int, Field(ge=5, le=480)]
Takeaways = Annotated[tuple[Text, ...], Field(strict=False, max_length=50)]


class _Words(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Agenda(_Words):
    """What a mentee wants from a session, tied to a goal that both see."""

    goal: Text
    items: tuple[Text, ...] = Field(strict=False, min_length=1, max_length=20)


class Plan(_Words):
    """A session as a member proposes it. `minutes` are planned; the start has an offset."""

    starts_at: WrittenInstant
    minutes: Minutes
    mode: MeetingMode
    topics: tuple[Name, ...] = Field(default=(), strict=False, max_length=20)
    agenda: Agenda | None = None


class NewTime(_Words):
    """When a session takes place instead; without `minutes` it stays as long as it was."""

    starts_at: WrittenInstant
    minutes: Minutes | None = None


class Notes(_Words):
    """What one member took from a session; what is left out stays as it was.

    `learned` is the member's own. Takeaways are a mentee's words.
    """

    learned: bool | None = None
    takeaways: Takeaways | None = None


class Record(Notes):
    """How a session went: how long it took, who was there, and the recording member's notes."""

    minutes: int = Field(ge=1, le=480)
    attended: tuple[Name, ...] = Field(strict=False, min_length=2, max_length=100)
    tags: tuple[SessionTag, ...] = Field(default=(), strict=False, max_length=10)

    def check(self, pair: PairRecord) -> None:
        """Raise InvalidInputError unless members of both sides were there, each named once."""
        there = set(self.attended)
        if len(there) != len(self.attended):
            raise InvalidInputError("Name each once.", code="repeated", field="attended")
        if not there <= {member.participant_id for member in pair.members}:
            raise InvalidInputError(
                "Somebody attended who is not in the pair.", code="not_a_member", field="attended"
            )
        if len({pair.is_mentee(participant_id) for participant_id in there}) != 2:
            raise InvalidInputError(
                "A session is held with somebody of each side.",
                code="one_sided",
                field="attended",
            )
        if len(set(self.tags)) != len(self.tags):
            raise InvalidInputError("Name each tag once.", code="repeated", field="tags")


SessionStatus = Literal["planned", "scheduled", "held", "missed", "cancelled"]


class Session(Document):
    """One session of a pair.

    planned → scheduled (moved: still scheduled) → held | missed | cancelled, or planned →
    cancelled. A transition that already happened returns the session unchanged; one that its
    state does not allow raises RuleViolationError with the code `session_<state>`.

    `place` counts what was proposed in the pair and gives the id; `number` counts what both sides
    agreed to, so that the sessions that others hear of are numbered without gaps.
    """

    collection: ClassVar[str] = "sessions"
    indexes: ClassVar[tuple[Index, ...]] = (
        Index(("pair_id", "place")),
        Index(("pair_id", "status", "starts_at")),
    )

    program_id: str
    pair_id: str
    place: int
    number: int | None = None
    status: SessionStatus = "planned"
    proposed_by: str
    starts_at: Instant
    minutes: int
    mode: MeetingMode
    topics: tuple[str, ...]
    agenda: Agenda | None = None
    agenda_by: str | None = None
    held_at: Instant | None = None
    held_minutes: int | None = None
    attended: tuple[str, ...] = ()
    tags: tuple[SessionTag, ...] = ()
    learned: dict[str, bool] = Field(default_factory=dict)
    takeaways: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @classmethod
    def plan(cls, by: str, plan: Plan, pair: PairRecord, program: Program) -> Self:
        """Return the session that a member proposes; its agenda, if any, is theirs.

        Raises InvalidInputError for topics that are not the program's and a start outside the
        pair's term, RuleViolationError unless the pair is active.
        """
        pair.must_be_active(program)
        program.must_have(plan.topics)
        pair.must_cover(plan.starts_at)
        place = pair.planned + 1
        return cls(
            id=derived_id("se", pair.id, str(place)),
            program_id=pair.program_id,
            pair_id=pair.id,
            place=place,
            proposed_by=by,
            starts_at=plan.starts_at,
            minutes=plan.minutes,
            mode=plan.mode,
            topics=plan.topics,
            agenda=plan.agenda,
            agenda_by=None if plan.agenda is None else by,
        )

    @property
    def is_open(self) -> bool:
        """Whether the session is still to come."""
        return self.status in {"planned", "scheduled"}

    @property
    def takeaway_count(self) -> int:
        """How many takeaways all mentees wrote down together."""
        return sum(map(len, self.takeaways.values()))

    def set_agenda(self, by: str, agenda: Agenda) -> Self:
        """Set or replace the agenda, up to the session; a circle's mentees share one."""
        if (agenda, by) == (self.agenda, self.agenda_by):
            return self
        self._require("planned", "scheduled")
        return self.changed(agenda=agenda, agenda_by=by)

    def confirm(self, by: str, pair: PairRecord, program: Program, agreement: Agreement) -> Self:
        """Schedule the session, as the pair's next by number.

        Raises RuleViolationError with the code `pair_not_active`, `program_closed`,
        `ground_rules_not_agreed`, `agenda_missing`, or `other_side_confirms` for the side that
        proposed it.
        """
        if self.status == "scheduled":
            return self
        self._require("planned")
        pair.must_be_active(program)
        if not agreement.agreed:
            raise RuleViolationError(
                "All members agree to the ground rules first.", code="ground_rules_not_agreed"
            )
        if self.agenda is None:
            raise RuleViolationError("A mentee sets the agenda first.", code="agenda_missing")
        if pair.same_side(by, self.proposed_by):
            raise RuleViolationError(
                "A session is agreed by both sides: the other one confirms.",
                code="other_side_confirms",
            )
        return self.changed(status="scheduled", number=pair.scheduled + 1)

    def move(self, time: NewTime, pair: PairRecord, program: Program) -> Self:
        """Give a scheduled session another time.

        Raises InvalidInputError for a start outside the pair's term, RuleViolationError unless the
        pair is active.
        """
        self._require("scheduled")
        minutes = self.minutes if time.minutes is None else time.minutes
        if (time.starts_at, minutes) == (self.starts_at, self.minutes):
            return self
        pair.must_be_active(program)
        pair.must_cover(time.starts_at)
        return self.changed(starts_at=time.starts_at, minutes=minutes)

    def cancel(self) -> Self:
        """Call the session off."""
        if self.status == "cancelled":
            return self
        self._require("planned", "scheduled")
        return self.changed(status="cancelled")

    def miss(self, now: datetime) -> Self:
        """Record that somebody did not come. Raises before the start (`too_early`)."""
        if self.status == "missed":
            return self
        self._require("scheduled")
        self._must_have_started(now)
        return self.changed(status="missed")

    def hold(
        self, by: str, record: Record, pair: PairRecord, program: Program, now: datetime
    ) -> Self:
        """Record that the session took place; now is when it was held.

        Once it is recorded only the caller's notes are taken. Raises RuleViolationError before the
        start (`too_early`) and unless the pair is active now, InvalidInputError if somebody who
        wrote notes is said not to have attended.
        """
        if self.status == "held":
            return self.note(by, record, now)
        noted = self.note(by, record, now)
        pair.must_be_active(program)
        record.check(pair)
        if not {*noted.learned, *noted.takeaways} <= set(record.attended):
            raise InvalidInputError(
                "Somebody who wrote notes on the session attended it.",
                code="missing_attendee",
                field="attended",
            )
        return noted.changed(
            status="held",
            held_at=now,
            held_minutes=record.minutes,
            attended=record.attended,
            tags=record.tags,
        )

    def note(self, by: str, notes: Notes, now: datetime) -> Self:
        """Keep what a member took from the session, from its start on, in place of their former.

        Raises RuleViolationError before the start (`too_early`), and for somebody who was not
        there (`did_not_attend`).
        """
        self._require("scheduled", "held")
        self._must_have_started(now)
        learned, takeaways = dict(self.learned), dict(self.takeaways)
        if notes.learned is not None:
            learned[by] = notes.learned
        if notes.takeaways is not None and (notes.takeaways or by in takeaways):
            takeaways[by] = notes.takeaways
        if (learned, takeaways) == (self.learned, self.takeaways):
            return self
        if self.status == "held" and by not in self.attended:
            raise RuleViolationError("Notes are by who attended.", code="did_not_attend")
        return self.changed(learned=learned, takeaways=takeaways)

    def as_scheduled(self) -> SessionScheduled:
        """Return the event of the confirmation."""
        return SessionScheduled.model_validate(self._plan_fields())

    def as_moved(self) -> SessionMoved:
        """Return the event of a new time."""
        return SessionMoved.model_validate(self._plan_fields())

    def as_cancelled(self, at: datetime) -> SessionCancelled:
        """Return the event of a scheduled session that will not take place."""
        return SessionCancelled(
            program_id=self.program_id, session_id=self.id, pair_id=self.pair_id, at=at
        )

    def as_missed(self, at: datetime) -> SessionMissed:
        """Return the event of a session to which somebody did not come."""
        return SessionMissed(
            program_id=self.program_id, session_id=self.id, pair_id=self.pair_id, at=at
        )

    def as_held(self) -> SessionHeld:
        """Return the event of a held session: of what was said in it, only counts."""
        return SessionHeld.model_validate(
            self._plan_fields()
            | {
                "held_at": self.held_at,
                "minutes": self.held_minutes,
                "attended": self.attended,
                "takeaways": self.takeaway_count,
                "learned": self.learned,
                "tags": self.tags,
            }
        )

    def _plan_fields(self) -> dict[str, object]:
        names = ("program_id", "pair_id", "number", "starts_at", "minutes", "mode", "topics")
        return {name: getattr(self, name) for name in names} | {
            "session_id": self.id,
            "agenda_set": self.agenda is not None,
            "agenda_by": self.agenda_by,
        }

    def _require(self, *states: SessionStatus) -> None:
        if self.status not in states:
            raise RuleViolationError(
                f"The session is {self.status}.", code=f"session_{self.status}"
            )

    def _must_have_started(self, now: datetime) -> None:
        if now < self.starts_at:
            raise RuleViolationError("The session has not begun.", code="too_early")
