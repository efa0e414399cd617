"""The rules of feedback: which surveys fall due, and who answers them how. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict

from services.feedback.instruments import instrument_of
from shared.clock import to_utc
from shared.errors import RuleViolationError
from shared.events.participants import Role
from shared.events.programs import SurveyKind, SurveyPlan
from shared.ids import derived_id, keyed_id
from shared.store.port import Document, Index

PULSE_OPEN = timedelta(days=7)
"""How long after a session its pulse is due; a later answer is as welcome."""

SurveyState = Literal["due", "completed"]


class Program(Document):
    """What a program plans to ask. A placeholder until its `program-published` arrives."""

    collection: ClassVar[str] = "programs"

    pulse: SurveyPlan | None = None
    source_version: int = 0

    @property
    def known(self) -> bool:
        """Whether the program's own event has arrived."""
        return self.source_version > 0

    def follow(self, plans: Iterable[SurveyPlan], source_version: int) -> Self:
        """Return the program after a publication; one that is not newer changes nothing.

        Raises InvalidInputError for a pulse whose instrument this release does not have.
        """
        if source_version <= self.source_version:
            return self
        pulse = next((plan for plan in plans if plan.kind == "pulse"), None)
        if pulse is not None:
            instrument_of(pulse.instrument, pulse.instrument_version)
        return self.changed(pulse=pulse, source_version=source_version)


class Member(BaseModel):
    """One side of a pair, as it stood when the pair was formed."""

    model_config = ConfigDict(frozen=True)

    participant_id: str
    person_id: str
    role: Role
    department: str | None
    region: str | None


class Pair(Document):
    """Who meets whom. A placeholder without members until its `paired` arrives."""

    collection: ClassVar[str] = "pairs"

    members: tuple[Member, ...] = ()

    @property
    def known(self) -> bool:
        """Whether the pair's own event has arrived."""
        return bool(self.members)

    def form(self, members: tuple[Member, ...]) -> Self:
        """Return the pair with its members, who never change; forming it again changes nothing."""
        return self if self.known else self.changed(members=members)


class Survey(Document):
    """What one participant is asked on one occasion."""

    collection: ClassVar[str] = "surveys"
    indexes: ClassVar[tuple[Index, ...]] = (
        Index(("person_id", "due_on")),
        Index(("person_id", "state", "due_on")),
    )

    program_id: str
    participant_id: str
    person_id: str
    role: Role
    department: str | None
    region: str | None
    kind: SurveyKind
    instrument: str
    instrument_version: int
    session_id: str
    due_on: date
    state: SurveyState = "due"
    response_id: str | None = None

    @staticmethod
    def id_of(session_id: str, participant_id: str) -> str:
        """Return the id: one pulse for each attendee of a session."""
        return derived_id("su", session_id, participant_id)

    def answer(self, answers: Mapping[str, int], response_id: str, now: datetime) -> "Response":
        """Return the response to this survey. Raises InvalidInputError naming item and rule."""
        instrument = instrument_of(self.instrument, self.instrument_version)
        instrument.check(answers)
        return Response(
            id=response_id,
            survey_id=self.id,
            person_id=self.person_id,
            answers=dict(answers),
            scores=instrument.score(answers),
            submitted_on=to_utc(now).date(),
        )

    def complete(self, response: "Response") -> Self:
        """Return the completed survey; completing it again with the same response changes nothing.

        Raises RuleViolationError where another response stands already.
        """
        if self.response_id == response.id:
            return self
        if self.state == "completed":
            raise _answered()
        return self.changed(state="completed", response_id=response.id)


class Response(Document):
    """What somebody answered. It is theirs: only they read it, and nobody changes it."""

    collection: ClassVar[str] = "responses"

    survey_id: str
    person_id: str
    answers: dict[str, int]
    scores: dict[str, float]
    submitted_on: date

    def repeat(self, answers: Mapping[str, int]) -> Self:
        """Return the response that stands; raise RuleViolationError if it says something else."""
        if answers != self.answers:
            raise _answered()
        return self


def _answered() -> RuleViolationError:
    return RuleViolationError(
        "You have answered this survey; an answer stands.", code="already_answered"
    )


class HeldSession(Document):
    """A session that took place. It waits for one unknown thing at a time; then it is surveyed.

    The surveys commit together with `waits_for` becoming null, which happens once: hence exactly
    one survey for each attendee, in whatever order and how often the events arrive.
    """

    collection: ClassVar[str] = "held_sessions"
    indexes: ClassVar[tuple[Index, ...]] = (
        Index(("pair_id", "waits_for")),
        Index(("program_id", "waits_for")),
    )

    program_id: str
    pair_id: str
    attended: tuple[str, ...]
    held_on: date
    waits_for: Literal["pair", "program"] | None = None

    def survey(self, program: Program, pair: Pair) -> list[Survey]:
        """Return the pulses that fall due: one for each attending member, if the program plans any.

        Somebody who is said to have attended and is no member is nobody we could ask.
        """
        plan = program.pulse
        if plan is None:
            return []
        return [
            Survey(
                id=Survey.id_of(self.id, member.participant_id),
                program_id=self.program_id,
                kind=plan.kind,
                instrument=plan.instrument,
                instrument_version=plan.instrument_version,
                session_id=self.id,
                due_on=self.held_on + PULSE_OPEN,
                **member.model_dump(),
            )
            for member in pair.members
            if member.participant_id in self.attended
        ]


@dataclass(frozen=True)
class Pseudonyms:
    """Ids that nobody can compute or resolve without the key, which never leaves this service."""

    key: bytes = field(repr=False)

    def respondent(self, survey: Survey) -> str:
        """Return who answers: the same within a program, another one in every other program."""
        return keyed_id(self.key, "r", survey.program_id, survey.participant_id)

    def response(self, survey: Survey) -> str:
        """Return the id of the one response to a survey."""
        return keyed_id(self.key, "re", survey.id)
