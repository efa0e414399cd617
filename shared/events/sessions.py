"""Events of sessions, published by sessions."""

from typing import ClassVar, Literal, get_args

from pydantic import Field

from shared.clock import Instant
from shared.events.envelope import Code, Event
from shared.events.topics import SESSIONS

Scope = Literal["general", "individuals"]
MeetingMode = Literal["virtual", "in_person", "hybrid"]
SessionTag = Literal["tech_support", "ordinary_mentoring"]


class GroundRulesAgreed(Event):
    """All members of the pair agreed how they will talk."""

    name: ClassVar[str] = "ground-rules-agreed"
    topic: ClassVar[str] = SESSIONS
    subject_field: ClassVar[str] = "pair_id"

    pair_id: str
    by: tuple[str, ...]
    scope: Scope
    at: Instant


class SessionPlan(Event):
    """A session's plan, confirmed."""

    topic: ClassVar[str] = SESSIONS
    subject_field: ClassVar[str] = "session_id"

    session_id: str
    pair_id: str
    number: int = Field(ge=1)
    starts_at: Instant
    minutes: int = Field(ge=5, le=480)
    mode: MeetingMode
    topics: tuple[str, ...]
    agenda_set: bool
    agenda_by: str


class SessionScheduled(SessionPlan):
    """The session is confirmed."""

    name: ClassVar[str] = "session-scheduled"


class SessionMoved(SessionPlan):
    """The session has a new time."""

    name: ClassVar[str] = "session-moved"


class SessionEvent(Event):
    """What happened to one session."""

    topic: ClassVar[str] = SESSIONS
    subject_field: ClassVar[str] = "session_id"

    session_id: str
    pair_id: str
    at: Instant


class SessionCancelled(SessionEvent):
    """The session will not take place."""

    name: ClassVar[str] = "session-cancelled"


class SessionMissed(SessionEvent):
    """The session was to take place and somebody did not come."""

    name: ClassVar[str] = "session-missed"


class SessionHeld(Event):
    """The session took place."""

    name: ClassVar[str] = "session-held"
    topic: ClassVar[str] = SESSIONS
    subject_field: ClassVar[str] = "session_id"

    session_id: str
    pair_id: str
    number: int = Field(ge=1)
    held_at: Instant
    minutes: int = Field(ge=1, le=480)
    mode: MeetingMode
    attended: tuple[str, ...]
    topics: tuple[str, ...]
    agenda_by: str
    takeaways: int = Field(ge=0)
    learned: dict[str, bool]
    tags: tuple[Code, ...] = Field(default=(), examples=[list(get_args(SessionTag))])
