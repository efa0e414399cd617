"""Events of pairs and rounds, published by matching."""

from typing import ClassVar, Literal, get_args

from pydantic import Field

from shared.clock import Instant
from shared.events.envelope import Code, Event
from shared.events.programs import Part
from shared.events.topics import PAIRS

Origin = Literal["round", "rotation", "coordinator", "informal", "project"]
PauseReason = Literal[
    "participant_paused",
    "level_gap",
    "reporting_line",
    "same_department",
    "same_boss",
]
RotationReason = Literal["term", "request", "mismatch"]
EndReason = Literal["completed", "withdrawn", "departed", "org_changed", "program_closed"]


class PairSide(Part):
    """One member of a pair."""

    participant_id: str
    person_id: str
    level: int
    department: str
    region: str | None


class RationaleTerm(Part):
    """One additive term of a pair's score, and why, in words that both sides read."""

    term: str
    points: int
    text: str


class PairState(Event):
    """A pair as it was proposed."""

    topic: ClassVar[str] = PAIRS
    subject_field: ClassVar[str] = "pair_id"

    pair_id: str
    round_id: str | None
    mentor: PairSide
    mentees: tuple[PairSide, ...] = Field(min_length=1)
    score: int = Field(ge=0)
    rationale: tuple[RationaleTerm, ...]
    rules: tuple[str, ...]
    topics: tuple[str, ...] = ()
    origin: Origin
    expires_at: Instant


class PairProposed(PairState):
    """A proposal awaits the answers of all its members."""

    name: ClassVar[str] = "pair-proposed"


class Paired(PairState):
    """All accepted; the pair exists."""

    name: ClassVar[str] = "paired"

    started_at: Instant
    ends_at: Instant
    waited_days: dict[str, float]


class PairEvent(Event):
    """What happened to one pair."""

    topic: ClassVar[str] = PAIRS
    subject_field: ClassVar[str] = "pair_id"

    pair_id: str


class PairDeclined(PairEvent):
    """Somebody declined; nobody is told who, and no reason is asked."""

    name: ClassVar[str] = "pair-declined"

    at: Instant


class PairExpired(PairEvent):
    """Not everybody answered in time."""

    name: ClassVar[str] = "pair-expired"

    at: Instant


class PairPaused(PairEvent):
    """The pair rests."""

    name: ClassVar[str] = "pair-paused"

    reason: Code = Field(examples=list(get_args(PauseReason)))
    at: Instant


class PairResumed(PairEvent):
    """The pair goes on."""

    name: ClassVar[str] = "pair-resumed"

    reason: Code = Field(examples=list(get_args(PauseReason)))
    at: Instant


class PairRotated(PairEvent):
    """The pair ended and its members go into the next round."""

    name: ClassVar[str] = "pair-rotated"

    reason: RotationReason
    ended_at: Instant
    next_round_id: str


class PairEnded(PairEvent):
    """The pair ended for good."""

    name: ClassVar[str] = "pair-ended"

    reason: EndReason
    ended_at: Instant


class RoleCounts(Part):
    """People by role."""

    mentors: int = Field(ge=0)
    mentees: int = Field(ge=0)


class RoundCompleted(Event):
    """One optimization over a program's pool, and how good its result is."""

    name: ClassVar[str] = "round-completed"
    topic: ClassVar[str] = PAIRS
    subject_field: ClassVar[str] = "round_id"

    round_id: str
    kind: Literal["round", "rotation"]
    pool: RoleCounts
    matched: RoleCounts
    proposed: int = Field(ge=0)
    unmatched: dict[str, int]
    objective: int
    bound: int
    gap: float
    mean_dissimilarity: float | None
    mean_dissimilarity_random: float | None
    seed: int
    snapshot: str
    started_at: Instant | None = None
    """When it began to read the pool; the oldest events do not tell."""
