"""Events of participants, published by enrollment. Pseudonymous ids only."""

from datetime import date
from typing import ClassVar, Literal

from pydantic import Field

from shared.clock import Instant
from shared.events.envelope import Event
from shared.events.programs import PairFormat, Part
from shared.events.topics import PARTICIPANTS

Role = Literal["mentor", "mentee"]
EnrolledRole = Literal["mentor", "mentee", "both"]


class TopicLevel(Part):
    """A topic and the person's own rating of their skill in it, 1 to 5."""

    topic_id: str
    proficiency: int = Field(ge=1, le=5)


class WorkingHours(Part):
    """Local working hours: ISO weekdays, 1 is Monday; the end is later on the same day."""

    days: tuple[int, ...] = (1, 2, 3, 4, 5)
    start: str = Field(default="09:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    end: str = Field(default="17:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")


class Preferences(Part):
    """What a participant would like; wishes, not constraints."""

    format: PairFormat | None = None
    regions: tuple[str, ...] = ()


class ParticipantState(Event):
    """The whole state of an enrollment that consumers need."""

    topic: ClassVar[str] = PARTICIPANTS
    subject_field: ClassVar[str] = "participant_id"

    participant_id: str
    person_id: str
    role: EnrolledRole
    level: int | None
    department: str | None
    region: str | None
    country: str | None
    timezone: str | None
    manager_chain: tuple[str, ...]
    teaches: tuple[TopicLevel, ...]
    wants: tuple[TopicLevel, ...]
    languages: tuple[str, ...]
    working_hours: WorkingHours
    preferences: Preferences
    hired_on: date | None
    ready: bool
    ready_at: Instant | None
    enrolled_at: Instant


class Enrolled(ParticipantState):
    """A person enrolled themself."""

    name: ClassVar[str] = "enrolled"


class ProfileChanged(ParticipantState):
    """A participant changed their profile."""

    name: ClassVar[str] = "profile-changed"


class ParticipantEvent(Event):
    """What happened to one participant."""

    topic: ClassVar[str] = PARTICIPANTS
    subject_field: ClassVar[str] = "participant_id"

    participant_id: str
    person_id: str


class TrainingCompleted(ParticipantEvent):
    """A training module is done; `ready` says whether it was the last one needed."""

    name: ClassVar[str] = "training-completed"

    module: str
    ready: bool
    ready_at: Instant | None


class Paused(ParticipantEvent):
    """The participant takes a break."""

    name: ClassVar[str] = "paused"

    at: Instant


class Resumed(ParticipantEvent):
    """The participant is back."""

    name: ClassVar[str] = "resumed"

    at: Instant


class Withdrawn(ParticipantEvent):
    """The participant left the program; no reason is asked or kept."""

    name: ClassVar[str] = "withdrawn"

    at: Instant


class OrgFacts(Part):
    """Where a person stands in the organization."""

    level: int | None
    department: str | None
    manager_chain: tuple[str, ...]


class OrgChanged(ParticipantEvent):
    """The roster moved a participant."""

    name: ClassVar[str] = "org-changed"

    previous: OrgFacts
    current: OrgFacts


class Departed(ParticipantEvent):
    """The participant left the company."""

    name: ClassVar[str] = "departed"

    left_on: date


class RosterCounted(Event):
    """How many people could take part in a role; a null count is below the threshold."""

    name: ClassVar[str] = "roster-counted"
    topic: ClassVar[str] = PARTICIPANTS
    subject_field: ClassVar[str] = "program_id"

    role: Role
    level_band: str | None = None
    department: str | None = None
    employed: int | None
    left: int | None
    as_of: Instant
