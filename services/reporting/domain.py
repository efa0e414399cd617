"""The facts behind the figures: what is known of each aggregate, in whatever order it came. Pure.

A fact never depends on the order in which it learned: of what can be said again it keeps the word
of the newest aggregate version, and of what adds up it keeps counts. Its `contribution` is a pure
function of it, so the buckets are the sum over all facts, however they came about.
"""

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from services.reporting.kpis.bucket import SCORE_UNIT, WAITED, WHOLE, Cell, Contribution
from shared.clock import Instant
from shared.errors import InvalidInputError
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import (
    Origin,
    PairDeclined,
    Paired,
    PairEnded,
    PairEvent,
    PairPaused,
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
    Role,
    RosterCounted,
    Withdrawn,
)
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.ids import derived_id
from shared.store.port import Document

ROLES: tuple[Role, ...] = ("mentor", "mentee")

_ANSWERED_ORIGINS: frozenset[Origin] = frozenset({"round", "rotation"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_DAY_SECONDS = 86400
_SATISFIED = 4


def seconds(moment: datetime) -> int:
    """Return whole seconds since 1970, rounded down."""
    return (moment - _EPOCH) // _SECOND


def month_of(day: date) -> str:
    """Return the month of a day as YYYY-MM."""
    return f"{day.year:04}-{day.month:02}"


@lru_cache(maxsize=10_000)
def _month_of_day_number(days: int) -> str:
    return month_of((_EPOCH + timedelta(days=days)).date())


def month_of_second(second: int) -> str:
    """Return the UTC month of a second since 1970 as YYYY-MM."""
    return _month_of_day_number(second // _DAY_SECONDS)


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


class RosterFact(Document):
    """The newest count of who could take part in a role."""

    collection: ClassVar[str] = "rosters"

    program_id: str
    role: Role
    as_of: Instant | None = None
    counted_version: int = 0
    employed: int = 0

    @classmethod
    def unknown(cls, program_id: str, role: Role) -> Self:
        """Return the register before any count."""
        return cls(id=derived_id("ro", program_id, role), program_id=program_id, role=role)

    def after(self, event: RosterCounted, version: int) -> Self:
        """Take a count over if it is newer. One that was withheld as too small counts as none."""
        known = (self.as_of or _EPOCH, self.counted_version)
        if (event.as_of, version) <= known:
            return self
        return self.changed(
            as_of=event.as_of, counted_version=version, employed=event.employed or 0
        )

    def contribution(self) -> Contribution:
        """Return what the role can draw on."""
        found = Contribution()
        if self.as_of is not None:
            cells = (WHOLE, Cell("role", self.role))
            found.count(cells, f"rosters.{self.role}")
            found.count(cells, f"eligible.{self.role}", self.employed)
        return found


class ParticipantFact(Document):
    """Whether somebody takes part, and as what."""

    collection: ClassVar[str] = "participants"

    program_id: str
    role: EnrolledRole | None = None
    role_version: int = 0
    takes_part: bool = False
    takes_part_version: int = 0

    def after(self, event: ParticipantState | ParticipantEvent, version: int) -> Self:
        """Learn what an event says, unless a newer one already said it."""
        known = self
        if isinstance(event, ParticipantState) and version > known.role_version:
            known = known.changed(role=event.role, role_version=version)
        tells = isinstance(event, Enrolled | Withdrawn | Departed)
        if tells and version > known.takes_part_version:
            takes_part = isinstance(event, Enrolled)
            known = known.changed(takes_part=takes_part, takes_part_version=version)
        return known

    def contribution(self) -> Contribution:
        """Return one participant, once in each of their roles."""
        found = Contribution()
        if not self.takes_part or self.role is None:
            return found
        found.count([WHOLE], "participants")
        for role in ROLES:
            if self.role in (role, "both"):
                found.count([WHOLE, Cell("role", role)], f"participants.{role}")
        return found


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
        return cls(
            said_in=version,
            origin=event.origin,
            mentor_id=event.mentor.participant_id,
            mentee_id=first.participant_id,
            region=first.region or "unknown",
            department=first.department or "unknown",
        )

    def cells(self, month: str) -> tuple[Cell, ...]:
        """Return the cells that a pair counts in, for something that happened in `month`."""
        return (
            WHOLE,
            Cell("region", self.region),
            Cell("department", self.department),
            Cell("month", month),
        )


class Turn(BaseModel):
    """A pause or a resumption, at a whole second."""

    model_config = ConfigDict(frozen=True)

    said_in: int
    at: int
    pauses: bool


class PairFact(Document):
    """A pair with its sessions; times in whole seconds, months as YYYY-MM.

    What arrives before the pair itself waits in here and counts once the terms are known.
    """

    collection: ClassVar[str] = "pairs"

    program_id: str
    terms: Terms | None = None
    started_at: int | None = None
    waited_days: dict[str, int] = Field(default_factory=dict)
    declined_at: int | None = None
    left_at: int | None = None
    left_in: int = 0
    rotated: bool = False
    turns: tuple[Turn, ...] = ()
    held: dict[str, int] = Field(default_factory=dict)

    def after(self, event: PairState | PairEvent, version: int) -> Self:
        """Learn of an event of the pair; each adds its own part, so their order is free."""
        known = self
        if isinstance(event, PairState) and (self.terms is None or version > self.terms.said_in):
            known = known.changed(terms=Terms.of(event, version))
        match event:
            case Paired():
                waited = {who: math.floor(days) for who, days in event.waited_days.items()}
                return known.changed(started_at=seconds(event.started_at), waited_days=waited)
            case PairDeclined():
                return known.changed(declined_at=seconds(event.at))
            case PairRotated() | PairEnded() if self.left_at is None or version < self.left_in:
                rotated = isinstance(event, PairRotated)
                left_at = seconds(event.ended_at)
                return known.changed(left_at=left_at, left_in=version, rotated=rotated)
            case PairPaused() | PairResumed():
                pauses = isinstance(event, PairPaused)
                turn = Turn(said_in=version, at=seconds(event.at), pauses=pauses)
                turns = {each.said_in: each for each in (*known.turns, turn)}
                return known.changed(turns=tuple(turns[said_in] for said_in in sorted(turns)))
            case _:
                return known

    def after_session(self, event: SessionHeld) -> Self:
        """Count a session that was held."""
        month = month_of_second(seconds(event.held_at))
        return self.changed(held=self.held | {month: self.held.get(month, 0) + 1})

    def contribution_since(self, before: Self) -> Contribution:
        """Return what the pair adds now beyond what it added before, sessions being most of it."""
        same = all(
            getattr(self, name) is getattr(before, name) for name in _PAIR_FACTS_BUT_SESSIONS
        )
        if not same or self.terms is None or self.started_at is None:
            return self.contribution().minus(before.contribution())
        found = Contribution()
        for month, sessions in self.held.items():
            if more := sessions - before.held.get(month, 0):
                found.count(self.terms.cells(month), "held", more)
        return found

    def contribution(self) -> Contribution:
        """Return the pair's part in waits, acceptance, cadence and rotation."""
        found = Contribution()
        if self.terms is None:
            return found
        if self.started_at is not None:
            month = month_of_second(self.started_at)
            self._add_answer(found, self.terms, "accepted", month)
            self._add_waits(found, self.terms, month)
            self._add_cadence(found, self.terms, self.started_at)
        elif self.declined_at is not None:
            self._add_answer(found, self.terms, "declined", month_of_second(self.declined_at))
        if self.left_at is not None:
            cells = self.terms.cells(month_of_second(self.left_at))
            found.count(cells, "rotated" if self.rotated else "ended")
        return found

    @staticmethod
    def _add_answer(found: Contribution, terms: Terms, answer: str, month: str) -> None:
        if terms.origin in _ANSWERED_ORIGINS:
            found.count(terms.cells(month), answer)
            found.see(terms.cells(month), "answerers", terms.mentee_id)

    def _add_waits(self, found: Contribution, terms: Terms, month: str) -> None:
        for participant_id, days in self.waited_days.items():
            role: Role = "mentor" if participant_id == terms.mentor_id else "mentee"
            cells = (WHOLE, Cell("role", role), Cell("month", month))
            found.count(cells, f"{WAITED}{days}")
            found.see(cells, "waiters", participant_id)

    def _add_cadence(self, found: Contribution, terms: Terms, started_at: int) -> None:
        """Add the sessions, and the active time as sums over its starts and its stops.

        The seconds active until a moment t are n·t − Σ starts − (m·t − Σ stops), so they are known
        for every t without looking at any pair again.
        """
        found.count(terms.cells(month_of_second(started_at)), "began")
        if self.left_at is not None:
            found.count(terms.cells(month_of_second(max(self.left_at, started_at))), "left")
        for since, until in self._active(started_at):
            for name, at in (("starts", since), ("stops", until)):
                if at is not None:
                    cells = terms.cells(month_of_second(at))
                    found.count(cells, name)
                    found.count(cells, f"{name}_at", at)
        for month, sessions in self.held.items():
            found.count(terms.cells(month), "held", sessions)

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


_PAIR_FACTS_BUT_SESSIONS = PairFact.model_fields.keys() - {"id", "version", "held"}


class PersonFact(Document):
    """How often a person is seen in each cell of a program, so that they count there as one.

    The person is a participant or a respondent. `times` is keyed by measure, dimension and value.
    """

    collection: ClassVar[str] = "people_seen"

    times: dict[str, int] = Field(default_factory=dict)

    def seen(self, more: Mapping[tuple[Cell, str], int], found: Contribution) -> Self:
        """Return the person seen more often, or less; add to `found` where they now count."""
        times = dict(self.times)
        for (cell, measure), often in more.items():
            key = f"{measure}|{cell.kind}|{cell.value}"
            before = times.get(key, 0)
            after = before + often
            if after:
                times[key] = after
            else:
                del times[key]
            if appeared := (after > 0) - (before > 0):
                found.counts[cell][measure] += appeared
        return self.changed(times=times)


def of_round(event: RoundCompleted, time: datetime) -> Contribution:
    """Return a round's part in the match rate; a round is told once and never changes."""
    found = Contribution()
    month = Cell("month", month_of_second(seconds(time)))
    for role, pool, matched in (
        ("mentor", event.pool.mentors, event.matched.mentors),
        ("mentee", event.pool.mentees, event.matched.mentees),
    ):
        cells = (WHOLE, Cell("role", role), month)
        found.count(cells, "pooled", pool)
        found.count(cells, "matched", matched)
    return found


def add_response(found: Contribution, event: FeedbackSubmitted) -> None:
    """Add a pulse's part in satisfaction; a response is told once and never changes.

    Raises InvalidInputError for a score outside of 1 to 5: it would spoil the mean for good.
    """
    score = event.scores.get("satisfaction")
    if event.kind != "pulse" or score is None:
        return
    if not 1 <= score <= 5:
        raise InvalidInputError(
            "Satisfaction is a score from 1 to 5.", code="score_range", field="scores.satisfaction"
        )
    cells = (
        WHOLE,
        Cell("role", event.role),
        Cell("region", event.region or "unknown"),
        Cell("department", event.department or "unknown"),
        Cell("month", month_of(event.submitted_on)),
    )
    amounts = {
        "pulses": 1,
        "satisfied": int(score >= _SATISFIED),
        "score_sum": round(score * SCORE_UNIT),
    }
    found.count_all(cells, amounts)
    found.see(cells, "respondents", event.respondent)
