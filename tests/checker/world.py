"""What the log says happened: programs, participants, pairs, sessions, rounds, replayed."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Generic, TypeVar

from tests.checker.reading import Event, Json

MOMENT = timedelta(seconds=1)
"""What is no further apart than this may have been seen in either order by another service."""

END = datetime.max.replace(tzinfo=UTC)

T = TypeVar("T")


@dataclass
class Timeline(Generic[T]):
    """The successive states of one thing."""

    states: list[tuple[datetime, T]] = field(default_factory=list)

    def add(self, time: datetime, state: T) -> None:
        """Append the next state."""
        self.states.append((time, state))

    def last(self) -> T | None:
        """Return the newest state."""
        return self.states[-1][1] if self.states else None

    def seen_at(self, time: datetime) -> list[T]:
        """Return every state that somebody else may have taken for the present at `time`."""
        old = [state for when, state in self.states if when < time - MOMENT]
        new = [state for when, state in self.states if time - MOMENT <= when <= time]
        return [*old[-1:], *new]

    def settled_at(self, time: datetime) -> T | None:
        """Return the state in which the moment of `time` ended."""
        states = [state for when, state in self.states if when <= time + MOMENT]
        return states[-1] if states else None


@dataclass(frozen=True)
class Policy:
    """One version of a program."""

    version: int
    min_level_gap: int
    cross_department: bool
    cross_region: bool
    different_boss: bool
    capacity: int
    cadence_days: int
    term_days: int
    last_day: date
    min_overlap_minutes: int
    surveys: frozenset[tuple[str, str, int]]
    threshold: int


@dataclass(frozen=True)
class Hours:
    """Local working hours: ISO weekdays, minutes since midnight."""

    days: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Facts:
    """What is known of a participant at a moment."""

    person: str
    role: str
    level: int | None
    department: str | None
    region: str | None
    timezone: str | None
    chain: tuple[str, ...]
    languages: frozenset[str]
    hours: Hours
    ready: bool
    paused: bool = False
    gone: bool = False

    def plays(self, side: str) -> bool:
        """Return whether the participant enrolled for this role."""
        return self.role in (side, "both")


@dataclass(frozen=True)
class Side:
    """A member as a pair's events name them."""

    participant: str
    person: str
    level: int
    department: str
    region: str | None


@dataclass
class Pause:
    """A rest of a pair; `until` is None while it lasts."""

    since: datetime
    reason: str
    told: datetime
    until: datetime | None = None


@dataclass
class Pair:
    """A pair with all its events, in the aggregate's order."""

    id: str
    program: str
    events: list[Event] = field(default_factory=list)
    proposed: Event | None = None
    paired: Event | None = None
    answered: Event | None = None
    left: Event | None = None
    pauses: list[Pause] = field(default_factory=list)

    @property
    def terms(self) -> dict[str, Json]:
        """What was proposed; of `paired` where the proposal is lost, empty without either."""
        event = self.proposed or self.paired
        return event.data if event else {}

    @property
    def mentor(self) -> Side | None:
        """The one who teaches."""
        return _side(self.terms["mentor"]) if self.terms else None

    @property
    def mentees(self) -> list[Side]:
        """Those who learn."""
        return [_side(raw) for raw in self.terms.get("mentees", [])]

    @property
    def members(self) -> list[Side]:
        """All of them, the mentor first."""
        return [side for side in (self.mentor, *self.mentees) if side]

    @property
    def member_ids(self) -> set[str]:
        """The members' participant ids."""
        return {side.participant for side in self.members}

    @property
    def started_at(self) -> datetime | None:
        """When it became active."""
        return self.paired.instant("started_at") if self.paired else None

    @property
    def ended_at(self) -> datetime | None:
        """When it left the active state."""
        return self.left.instant("ended_at") if self.left else None

    def open_between(self) -> tuple[datetime, datetime]:
        """Return from when to when it takes its members' capacity, by the events' times."""
        starts = [event.time for event in (self.proposed, self.paired) if event]
        unanswered = self.answered if self.paired is None else None
        end = self.left or unanswered
        return min(starts, default=END), end.time if end else END


@dataclass
class Session:
    """A session with all its events, in the aggregate's order."""

    id: str
    pair: str
    events: list[Event] = field(default_factory=list)

    @property
    def plans(self) -> list[Event]:
        """Its scheduling and movings."""
        return [e for e in self.events if e.name in ("session-scheduled", "session-moved")]

    @property
    def held(self) -> list[Event]:
        """Its holding; more than one only where the log is wrong."""
        return [event for event in self.events if event.name == "session-held"]


@dataclass
class World:
    """Everything in the log, by what it is about."""

    events: list[Event]
    programs: dict[str, Timeline[Policy]] = field(default_factory=dict)
    participants: dict[str, Timeline[Facts]] = field(default_factory=dict)
    enrolled_in: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, Pair] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    rounds: dict[str, Event] = field(default_factory=dict)
    agreements: dict[str, list[Event]] = field(default_factory=dict)
    by_name: dict[str, list[Event]] = field(default_factory=dict)

    def policies_seen(self, event: Event) -> list[Policy]:
        """Return the versions of its program that an event may have followed."""
        return self.programs.get(event.program, Timeline[Policy]()).seen_at(event.time)

    def named(self, *names: str) -> list[Event]:
        """Return the events of these types."""
        return [event for name in names for event in self.by_name.get(name, [])]


def _side(raw: dict[str, Json]) -> Side:
    return Side(
        raw["participant_id"],
        raw["person_id"],
        raw["level"],
        raw["department"],
        raw.get("region"),
    )
