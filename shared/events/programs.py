"""Events of programs, published by enrollment."""

from datetime import date
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.events.envelope import Event
from shared.events.topics import PROGRAMS

PairFormat = Literal["one_to_one", "circle", "mixed"]
SurveyKind = Literal["start", "pulse", "mid", "end"]
ScoreTerm = Literal["coverage", "difference", "overlap", "language", "preference", "waiting"]


class Part(BaseModel):
    """A piece of an event's data."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class ProgramTopic(Part):
    """Something that mentors teach and mentees want to learn."""

    topic_id: str
    title: str


class Training(Part):
    """The modules that each role completes before the first match."""

    mentor: tuple[str, ...] = ()
    mentee: tuple[str, ...] = ()


class SurveyPlan(Part):
    """A survey of the program; `day` counts from the pair's start, null after each session."""

    kind: SurveyKind
    instrument: str
    instrument_version: int
    day: int | None = None


class Thresholds(Part):
    """The smallest groups of people whose figures are shown; never under three."""

    scores: int = Field(default=5, ge=3)
    comments: int = Field(default=10, ge=3)


class Eligibility(Part):
    """Who may enroll: mentors at `mentor_min_level` or below it, mentees up to a level."""

    mentor_min_level: int = Field(ge=0)
    mentee_max_level: int = Field(ge=0)


class ProgramPublished(Event):
    """A version of a program's whole configuration."""

    name: ClassVar[str] = "program-published"
    topic: ClassVar[str] = PROGRAMS
    subject_field: ClassVar[str] = "program_id"

    version: int = Field(ge=1)
    title: str
    objectives: tuple[str, ...] = ()
    topics: tuple[ProgramTopic, ...]
    format: PairFormat
    circle_capacity: int = Field(ge=1)
    cadence_days: int = Field(ge=1)
    term_days: int = Field(ge=1)
    proposal_expiry_days: int = Field(ge=1)
    starts_on: date
    ends_on: date
    mode: Literal["cohort", "rolling"]
    min_level_gap: int = Field(ge=0)
    cross_department: bool
    cross_region: bool
    min_overlap_minutes: int = Field(ge=0)
    training: Training
    surveys: tuple[SurveyPlan, ...]
    thresholds: Thresholds
    eligibility: Eligibility
    different_boss: bool = True
    weights: dict[ScoreTerm, int] = Field(default_factory=dict)
    ground_rules: tuple[str, ...] = ()


class ProgramClosed(Event):
    """The program is over; its pairs end."""

    name: ClassVar[str] = "program-closed"
    topic: ClassVar[str] = PROGRAMS
    subject_field: ClassVar[str] = "program_id"

    version: int = Field(ge=1)
