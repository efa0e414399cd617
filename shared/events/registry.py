"""Which class reads which type: the whole contract in one list."""

from shared.events.envelope import Event
from shared.events.feedback import FeedbackSubmitted, SurveyCompleted, SurveyDue
from shared.events.pairs import (
    PairDeclined,
    Paired,
    PairEnded,
    PairExpired,
    PairPaused,
    PairProposed,
    PairResumed,
    PairRotated,
    RoundCompleted,
)
from shared.events.participants import (
    Departed,
    Enrolled,
    OrgChanged,
    Paused,
    ProfileChanged,
    Resumed,
    RosterCounted,
    TrainingCompleted,
    Withdrawn,
)
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.events.sessions import (
    GroundRulesAgreed,
    SessionCancelled,
    SessionHeld,
    SessionMissed,
    SessionMoved,
    SessionScheduled,
)

EVENT_CLASSES: tuple[type[Event], ...] = (
    ProgramPublished,
    ProgramClosed,
    Enrolled,
    ProfileChanged,
    TrainingCompleted,
    Paused,
    Resumed,
    Withdrawn,
    OrgChanged,
    Departed,
    RosterCounted,
    PairProposed,
    PairDeclined,
    PairExpired,
    Paired,
    PairPaused,
    PairResumed,
    PairRotated,
    PairEnded,
    RoundCompleted,
    GroundRulesAgreed,
    SessionScheduled,
    SessionMoved,
    SessionCancelled,
    SessionMissed,
    SessionHeld,
    SurveyDue,
    FeedbackSubmitted,
    SurveyCompleted,
)

EVENTS_BY_TYPE: dict[str, type[Event]] = {event.type(): event for event in EVENT_CLASSES}
