"""Events of surveys and feedback, published by feedback."""

from datetime import date
from typing import ClassVar, Literal

from pydantic import Field

from shared.events.envelope import Event
from shared.events.participants import Role
from shared.events.programs import SurveyKind
from shared.events.topics import FEEDBACK, SURVEYS

Flag = Literal["drift", "concierge"]


class SurveyDue(Event):
    """A participant has a survey to answer."""

    name: ClassVar[str] = "survey-due"
    topic: ClassVar[str] = FEEDBACK
    subject_field: ClassVar[str] = "survey_id"

    survey_id: str
    kind: SurveyKind
    participant_id: str
    session_id: str | None = None
    due_on: date


class FeedbackSubmitted(Event):
    """Somebody answered; `respondent` is a pseudonym that only feedback can resolve."""

    name: ClassVar[str] = "feedback-submitted"
    topic: ClassVar[str] = FEEDBACK
    subject_field: ClassVar[str] = "response_id"

    response_id: str
    kind: SurveyKind
    instrument: str
    instrument_version: int
    respondent: str
    role: Role
    department: str | None
    region: str | None
    scores: dict[str, float]
    skills: dict[str, int] = Field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    submitted_on: date


class SurveyCompleted(Event):
    """Somebody of this role answered: no scores, no respondent."""

    name: ClassVar[str] = "survey-completed"
    topic: ClassVar[str] = SURVEYS
    subject_field: ClassVar[str] = "program_id"

    kind: SurveyKind
    role: Role
    completed_on: date
