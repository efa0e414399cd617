"""The facts behind the figures: what is known of each aggregate, in whatever order it came. Pure.

A fact never depends on the order in which it learned: of what can be said again it keeps the word
of the newest aggregate version, and of what adds up it keeps counts. What it adds to the buckets
(`add_to`) is a pure function of it, so they are the sum over all facts, however they came about,
and over what is told once and only counted.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from services.reporting.kpis.bucket import (
    ALL,
    RESPONDENTS,
    SCORE_UNIT,
    WAITED,
    WHOLE,
    Cell,
    Cells,
    Contribution,
    Sighting,
)
from shared.clock import Instant
from shared.counts import merge
from shared.errors import InvalidInputError
from shared.events.envelope import Event
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import (
    Origin,
    PairDeclined,
    Paired,
    PairEnded,
    PairEvent,
    PairPaused,
    PairProposed,
    PairResumed,
    PairRotated,
    PairState,
    RoundCompleted,
)
from shared.events.participants import (
    Departed,
    Enrolled,
    EnrolledRole,
    ParticipantEvent,
    ParticipantState,
    ProfileChanged,
    Role,
    RosterCounted,
    Withdrawn,
)
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.frozen import of_checked
from shared.ids import derived_id
from shared.store.port import Document

ROLES: tuple[Role, ...] = ("mentor", "mentee")

_ANSWERED_ORIGINS: frozenset[Origin] = frozenset({"round", "rotation"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_DAY_SECONDS = 86400
_SATISFIED = 4
_COMES_OR_GOES = (Enrolled, Withdrawn, Departed)


def seconds(moment: datetime) -> int:
    """Return whole seconds since 1970, rounded down."""
    return (moment - _EPOCH) // _SECOND


def month_of(day: date) -> str:
    """Return the month of a day, or of a time in its zone, as YYYY-MM."""
    return _month(day.year, day.month)


@lru_cache(maxsize=10_000)
def _month(year: int, month: int) -> str:
    return f"{year:04}-{month:02}"


@lru_cache(maxsize=10_000)
def _month_of_day_number(days: int) -> str:
    return month_of(_EPOCH + timedelta(days=days))


def month_of_second(second: int) -> str:
    """Return the UTC month of a second since 1970 as YYYY-MM."""
    return _month_of_day_number(second // _DAY_SECONDS)


@lru_cache(maxsize=100)
def _of_role(role: Role) -> Cells:
    return Cells((WHOLE, Cell("role", role)))


@lru_cache(maxsize=10_000)
def _of_role_in_month(role: Role, month: str) -> Cells:
    return Cells((WHOLE, Cell("role", role), Cell("month", month)))


@lru_cache(maxsize=100_000)
def _of_pair(region: str, department: str, month: str) -> Cells:
    return Cells(
        (WHOLE, Cell("region", region), Cell("department", department), Cell("month", month))
    )


@lru_cache(maxsize=20_000)
def _of_pulse(role: Role, region: str, department: str, month: str) -> Cells:
    of_pair = _of_pair(region, department, month)
    return Cells((*of_pair.each, Cell("role", role)))


class ProgramFact(Document):
    """A program's versions, as far as figures need them.

    The thresholds are those of version 1, whatever later ones say; without it nothing is shown.
    """

    collection: ClassVar[str] = "programs"

    first_version: int
    threshold: int
    newest_version: int
    title: str
    cadence_days: int

    @classmethod
    def published(cls, event: ProgramPublished) -> Self:
        """Return what one version says."""
        return cls(
            id=event.program_id,
            first_version=event.version,
            threshold=event.thresholds.scores,
            newest_version=event.version,
            title=event.title,
            cadence_days=event.cadence_days,
        )

    def after(self, event: ProgramPublished) -> Self:
        """Learn of another version."""
        known = self
        if event.version < known.first_version:
            known = known.changed(first_version=event.version, threshold=event.thresholds.scores)
        if event.version > known.newest_version:
            known = known.changed(
                newest_version=event.version, title=event.title, cadence_days=event.cadence_days
            )
        return known


class Fact(Document):
    """What is known of one aggregate: its events change it, and what it adds to the buckets.

    A kind of fact takes the events that it is `told_by`, so they are not typed here.
    """

    told_by: ClassVar[tuple[type[Event], ...]]

    program_id: str

    @staticmethod
    @abstractmethod
    def id_of(event: Any) -> str:
        """Return the id of the fact that an event tells of."""

    @classmethod
    def unknown(cls, event: Any) -> Self:
        """Return the fact that an event tells of before anything was told of it."""
        known = {"id": cls.id_of(event), "program_id": event.program_id}
        return of_checked(cls, _blank(cls) | known)

    @abstractmethod
    def after(self, event: Any, version: int) -> Self:
        """Learn what an event says that is its aggregate's `version`th."""

    @abstractmethod
    def add_to(self, found: Contribution, times: int) -> None:
        """Add what the fact adds to the buckets, or take it away with `times` of -1."""

    def add_since(self, before: Self, found: Contribution) -> None:
        """Add what the fact adds now beyond what it added before."""
        before.add_to(found, -1)
        self.add_to(found, 1)


@cache
def _blank(kind: type[Fact]) -> dict[str, Any]:
    """Return the fields of a fact of nothing, checked once; its empty dicts are many facts' own."""
    return kind(id="", program_id="").__dict__


class RosterFact(Fact):
    """The newest count of who could take part in a role."""

    collection: ClassVar[str] = "rosters"
    told_by: ClassVar[tuple[type[Event], ...]] = (RosterCounted,)

    role: Role
    as_of: Instant | None = None
    counted_version: int = 0
    employed: int = 0

    @staticmethod
    def id_of(event: RosterCounted) -> str:
        """Return the id of a program's register for a role."""
        return derived_id("ro", event.program_id, event.role)

    @classmethod
    def unknown(cls, event: RosterCounted) -> Self:
        """Return the register before any count."""
        return cls(id=cls.id_of(event), program_id=event.program_id, role=event.role)

    def after(self, event: RosterCounted, version: int) -> Self:
        """Take a count over if it is newer. One that was withheld as too small counts as none."""
        if event.level_band is not None or event.department is not None:
            # Counts of parts of the roster are not used.
            return self
        known = (self.as_of or _EPOCH, self.counted_version)
        if (event.as_of, version) <= known:
            return self
        return self.changed(
            as_of=event.as_of, counted_version=version, employed=event.employed or 0
        )

    def add_to(self, found: Contribution, times: int) -> None:
        """Add what the role can draw on."""
        if self.as_of is not None:
            cells = _of_role(self.role)
            found.count(cells, f"rosters:{self.role}", times)
            found.count(cells, f"eligible:{self.role}", times * self.employed)


class ParticipantFact(Fact):
    """Whether somebody takes part, and as what."""

    collection: ClassVar[str] = "participants"
    told_by: ClassVar[tuple[type[Event], ...]] = (Enrolled, ProfileChanged, Withdrawn, Departed)

    role: EnrolledRole | None = None
    role_version: int = 0
    takes_part: bool = False
    takes_part_version: int = 0

    @staticmethod
    def id_of(event: ParticipantState | ParticipantEvent) -> str:
        """Return the participant's id."""
        return event.participant_id

    def after(self, event: ParticipantState | ParticipantEvent, version: int) -> Self:
        """Learn what an event says, unless a newer one already said it."""
        learned: dict[str, object] = {}
        if isinstance(event, ParticipantState) and version > self.role_version:
            learned |= {"role": event.role, "role_version": version}
        if isinstance(event, _COMES_OR_GOES) and version > self.takes_part_version:
            takes_part = isinstance(event, Enrolled)
            learned |= {"takes_part": takes_part, "takes_part_version": version}
        return self.changed(**learned) if learned else self

    def add_to(self, found: Contribution, times: int) -> None:
        """Add one participant, once in each of their roles."""
        if not self.takes_part or self.role is None:
            return
        found.count(ALL, "participants", times)
        for role in ROLES:
            if self.role in (role, "both"):
                found.count(_of_role(role), f"participants:{role}", times)


class Terms(BaseModel):
    """Who was proposed to whom, in the words of one version of the pair."""

    model_config = ConfigDict(frozen=True)

    said_in: int
    origin: Origin
    mentor_id: str
    mentee_id: str
    region: str
    department: str

    @classmethod
    def of(cls, event: PairState, version: int) -> Self:
        """Return the terms; of a circle, the first mentee stands for all."""
        first = event.mentees[0]
        fields = {
            "said_in": version,
            "origin": event.origin,
            "mentor_id": event.mentor.participant_id,
            "mentee_id": first.participant_id,
            "region": first.region or "unknown",
            "department": first.department or "unknown",
        }
        return of_checked(cls, fields)

    def cells(self, month: str) -> Cells:
        """Return the cells that a pair counts in, for something that happened in `month`."""
        return _of_pair(self.region, self.department, month)


class Turn(BaseModel):
    """A pause or a resumption, at a whole second."""

    model_config = ConfigDict(frozen=True)

    said_in: int
    at: int
    pauses: bool


class Held(NamedTuple):
    """A session that was held."""

    pair_id: str
    program_id: str
    month: str

    @classmethod
    def of(cls, event: SessionHeld) -> Self:
        """Return the session, by its UTC month."""
        return cls(event.pair_id, event.program_id, month_of(event.held_at))


class Sessions(NamedTuple):
    """Sessions of a pair that were held, by month."""

    pair_id: str
    program_id: str
    by_month: dict[str, int]


class PairFact(Fact):
    """A pair; times in whole seconds, months as YYYY-MM.

    What arrives before the pair itself waits in here and counts once the terms are known: those of
    a pair that has started are final, so its sessions are counted by them and need not be kept.
    """

    collection: ClassVar[str] = "pairs"
    told_by: ClassVar[tuple[type[Event], ...]] = (
        PairProposed,
        Paired,
        PairDeclined,
        PairPaused,
        PairResumed,
        PairRotated,
        PairEnded,
    )

    terms: Terms | None = None
    started_at: int | None = None
    waited_days: dict[str, int] = Field(default_factory=dict)
    declined_at: int | None = None
    left_at: int | None = None
    left_in: int = 0
    rotated: bool = False
    turns: tuple[Turn, ...] = ()
    held_early: dict[str, int] = Field(default_factory=dict)
    """Sessions that were told of before the start was, by month."""

    @staticmethod
    def id_of(event: PairState | PairEvent | Sessions) -> str:
        """Return the pair's id."""
        return event.pair_id

    def after(self, event: PairState | PairEvent, version: int) -> Self:
        """Learn of an event of the pair; each adds its own part, so their order is free."""
        learned: dict[str, object] = {}
        if isinstance(event, PairState) and (self.terms is None or version > self.terms.said_in):
            learned["terms"] = Terms.of(event, version)
        match event:
            case Paired():
                learned["started_at"] = seconds(event.started_at)
                learned["waited_days"] = {
                    who: math.floor(days) for who, days in event.waited_days.items()
                }
            case PairDeclined():
                learned["declined_at"] = seconds(event.at)
            case PairRotated() | PairEnded() if self.left_at is None or version < self.left_in:
                learned["left_at"], learned["left_in"] = seconds(event.ended_at), version
                learned["rotated"] = isinstance(event, PairRotated)
            case PairPaused() | PairResumed():
                pauses = isinstance(event, PairPaused)
                fields = {"said_in": version, "at": seconds(event.at), "pauses": pauses}
                turn = of_checked(Turn, fields)
                turns = {each.said_in: each for each in (*self.turns, turn)}
                learned["turns"] = tuple(turns[said_in] for said_in in sorted(turns))
        return self.changed(**learned) if learned else self

    def after_sessions(self, sessions: Sessions, found: Contribution) -> Self:
        """Add sessions of a pair that has started; keep those of one that has not, until it has."""
        if self.terms is None or self.started_at is None:
            return self.changed(held_early=merge(self.held_early, sessions.by_month))
        self._add_held(found, self.terms, sessions.by_month, 1)
        return self

    def add_since(self, before: Self, found: Contribution) -> None:
        """Add what the pair adds now beyond what it added before, part by part."""
        if (
            self.terms is not before.terms
            or self.started_at is not before.started_at
            or self.waited_days is not before.waited_days
            or self.declined_at is not before.declined_at
        ):
            before.add_to(found, -1)
            self.add_to(found, 1)
            return
        if self.terms is None:
            return
        if self.left_at is not before.left_at or self.turns is not before.turns:
            gone = before._marks()
            for mark in self._marks():
                if mark in gone:
                    gone.remove(mark)
                else:
                    self._add_mark(found, self.terms, mark, 1)
            for mark in gone:
                self._add_mark(found, self.terms, mark, -1)

    def add_to(self, found: Contribution, times: int) -> None:
        """Add the pair's part in waits, acceptance, cadence and rotation."""
        if self.terms is None:
            return
        if self.started_at is not None:
            month = month_of_second(self.started_at)
            self._add_answer(found, self.terms, "accepted", month, times)
            self._add_waits(found, self.terms, month, times)
            self._add_held(found, self.terms, self.held_early, times)
        elif self.declined_at is not None:
            month = month_of_second(self.declined_at)
            self._add_answer(found, self.terms, "declined", month, times)
        for mark in self._marks():
            self._add_mark(found, self.terms, mark, times)

    @staticmethod
    def _add_answer(found: Contribution, terms: Terms, answer: str, month: str, times: int) -> None:
        if terms.origin in _ANSWERED_ORIGINS:
            cells = terms.cells(month)
            found.count(cells, answer, times)
            found.see(cells, "answerers", terms.mentee_id, times)

    def _add_waits(self, found: Contribution, terms: Terms, month: str, times: int) -> None:
        for participant_id, days in self.waited_days.items():
            role: Role = "mentor" if participant_id == terms.mentor_id else "mentee"
            cells = _of_role_in_month(role, month)
            found.count(cells, f"{WAITED}{days}", times)
            found.see(cells, "waiters", participant_id, times)

    @staticmethod
    def _add_held(
        found: Contribution, terms: Terms, by_month: Mapping[str, int], times: int
    ) -> None:
        for month, sessions in by_month.items():
            found.count(terms.cells(month), "held", times * sessions)

    def _marks(self) -> list[tuple[str, int]]:
        """Return what counts at a moment: the end, and the starts and stops of active time.

        The seconds active until a moment t are n·t − Σ starts − (m·t − Σ stops), so they are known
        for every t without looking at any pair again.
        """
        found: list[tuple[str, int]] = []
        if self.left_at is not None:
            found.append(("rotated" if self.rotated else "ended", self.left_at))
        if self.started_at is not None:
            found.append(("began", self.started_at))
            if self.left_at is not None:
                found.append(("left", max(self.left_at, self.started_at)))
            for since, until in self._active(self.started_at):
                found.append(("starts", since))
                if until is not None:
                    found.append(("stops", until))
        return found

    @staticmethod
    def _add_mark(found: Contribution, terms: Terms, mark: tuple[str, int], times: int) -> None:
        name, at = mark
        counts = found.counts[terms.cells(month_of_second(at))]
        counts[name] += times
        if name in {"starts", "stops"}:
            counts[f"{name}_at"] += times * at

    def _active(self, started_at: int) -> list[tuple[int, int | None]]:
        """Return the spans of activity in order, the last one open while the pair is active."""
        end = None if self.left_at is None else max(self.left_at, started_at)
        spans: list[tuple[int, int | None]] = []
        since: int | None = started_at
        at = started_at
        for turn in self.turns:
            # Clocks may go back a little; the owner's order holds.
            at = max(at, turn.at)
            if end is not None and at >= end:
                break
            if turn.pauses and since is not None:
                spans.append((since, at))
                since = None
            elif not turn.pauses and since is None:
                since = at
        if since is not None:
            spans.append((since, end))
        return spans


FACTS: tuple[type[Fact], ...] = (PairFact, ParticipantFact, RosterFact)
FACT_OF: Mapping[type[Event], type[Fact]] = {
    event: kind for kind in FACTS for event in kind.told_by
}
"""The kind of fact that an event changes."""


class SeenFact(Document):
    """Where somebody is seen in a program, so that they count there as one."""

    @abstractmethod
    def changed_by(self, seen: Any, found: Contribution) -> dict[str, Any]:
        """Return the fields that change by what was `seen`, if any.

        Adds to `found` where somebody appears or disappears.
        """


class PersonFact(SeenFact):
    """Where a participant is seen, and how often: what they are seen by may be taken back.

    `times` is keyed by measure, dimension and value.
    """

    collection: ClassVar[str] = "people_seen"

    times: dict[str, int] = Field(default_factory=dict)

    def changed_by(self, seen: Mapping[Sighting, int], found: Contribution) -> dict[str, Any]:
        """Learn how often more, or less, they are seen."""
        times = self.times.copy()
        for (cells, measure), often in seen.items():
            appeared = found.appeared[measure]
            for key, cell in _places(cells, measure):
                before = times.get(key, 0)
                times[key] = after = before + often
                if change := (after > 0) - (before > 0):
                    appeared[cell] += change
        times = {key: often for key, often in times.items() if often}
        return {} if times == self.times else {"times": times}


@lru_cache(maxsize=100_000)
def _places(cells: Cells, measure: str) -> tuple[tuple[str, Cell], ...]:
    return tuple((f"{measure}|{cell.kind}|{cell.value}", cell) for cell in cells.each)


class RespondentFact(SeenFact):
    """Where a respondent answered. A response is never taken back, so how often need not be known.

    `answered_in` has values by dimension.
    """

    collection: ClassVar[str] = "respondents"

    answered_in: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    def changed_by(self, seen: Iterable[Cells], found: Contribution) -> dict[str, Any]:
        """Learn of answers."""
        answered_in, appeared = self.answered_in, found.appeared[RESPONDENTS]
        for cells in seen:
            for cell in cells.each:
                kind, value = cell
                values = answered_in.get(kind, ())
                if value not in values:
                    if answered_in is self.answered_in:
                        answered_in = answered_in.copy()
                    answered_in[kind] = (*values, value)
                    appeared[cell] += 1
        return {} if answered_in is self.answered_in else {"answered_in": answered_in}


def add_round(found: Contribution, event: RoundCompleted, time: datetime) -> None:
    """Add a round's part in the match rate; a round is told once and never changes."""
    month = month_of(time)
    roles: tuple[tuple[Role, int, int], ...] = (
        ("mentor", event.pool.mentors, event.matched.mentors),
        ("mentee", event.pool.mentees, event.matched.mentees),
    )
    for role, pool, matched in roles:
        cells = _of_role_in_month(role, month)
        found.count(cells, "pooled", pool)
        found.count(cells, "matched", matched)


class Pulse(NamedTuple):
    """What pulses with one score in the same cells add to satisfaction."""

    cells: Cells
    score: int  # in 1 / SCORE_UNIT
    satisfied: bool


@lru_cache(maxsize=20_000)
def _pulse(role: Role, region: str, department: str, month: str, score: float) -> Pulse:
    cells = _of_pulse(role, region, department, month)
    return Pulse(cells, round(score * SCORE_UNIT), score >= _SATISFIED)


class Response(NamedTuple):
    """A pulse with its respondent; a response is told once and never changes."""

    program_id: str
    respondent: str
    pulse: Pulse

    @classmethod
    def of(cls, event: FeedbackSubmitted) -> Self | None:
        """Return what the response says of satisfaction, or None where it says nothing of it.

        Raises InvalidInputError for a score outside of 1 to 5: it would spoil the mean for good.
        """
        score = event.scores.get("satisfaction")
        if event.kind != "pulse" or score is None:
            return None
        if not 1 <= score <= 5:
            raise InvalidInputError(
                "Satisfaction is a score from 1 to 5.",
                code="score_range",
                field="scores.satisfaction",
            )
        pulse = _pulse(
            event.role,
            event.region or "unknown",
            event.department or "unknown",
            month_of(event.submitted_on),
            score,
        )
        return cls(event.program_id, event.respondent, pulse)

    def add_to(self, found: Contribution) -> None:
        """Add one pulse, and its respondent."""
        cells, score, satisfied = self.pulse
        counts = found.counts[cells]
        counts["pulses"] += 1
        if satisfied:
            counts["satisfied"] += 1
        counts["score_sum"] += score
        found.answered[self.respondent].add(cells)
