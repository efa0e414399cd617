"""What the engine is given, and what it gives back."""

import hashlib
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from shared.events.pairs import RoleCounts
from shared.events.participants import EnrolledRole, Preferences, TopicLevel, WorkingHours
from shared.events.programs import ScoreTerm

RuleCode = Literal[
    "level_gap",
    "reporting_line",
    "same_department",
    "same_boss",
    "cross_region",
    "no_common_language",
    "working_hours",
    "former_partner",
    "veto",
    "same_person",
]
"""The hard constraints, in the order in which reports name them."""

UnknownCode = Literal["level_unknown", "department_unknown", "timezone_unknown"]
UnmatchedCode = RuleCode | UnknownCode | Literal["no_partner", "no_partner_left"]

SCORE_TERMS: tuple[ScoreTerm, ...] = get_args(ScoreTerm)
MAX_SCORE = 1000
DEFAULT_WEIGHTS: dict[ScoreTerm, int] = {
    "coverage": 450,
    "difference": 250,
    "overlap": 100,
    "language": 50,
    "preference": 80,
    "waiting": 70,
}


def _sorted_once(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


PersonIds = Annotated[tuple[str, ...], AfterValidator(_sorted_once)]


class Frozen(BaseModel):
    """A value: equal by content, never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Candidate(Frozen):
    """A participant who is free to be matched, as the pool's snapshot holds them."""

    participant_id: str
    person_id: str
    role: EnrolledRole
    level: int | None = None
    department: str | None = None
    region: str | None = None
    country: str | None = None
    timezone: str | None = None
    manager_chain: tuple[str, ...] = ()
    teaches: tuple[TopicLevel, ...] = ()
    wants: tuple[TopicLevel, ...] = ()
    languages: tuple[str, ...] = ()
    working_hours: WorkingHours = WorkingHours()
    preferences: Preferences = Preferences()
    capacity: int = Field(default=1, ge=1)
    """As a mentor, how many mentees at most; more than one makes a circle."""
    vetoes: PersonIds = ()
    former_partners: PersonIds = ()
    waited_days: int = Field(default=0, ge=0)
    declines: int = Field(default=0, ge=0)


class Policy(Frozen):
    """The part of a program that decides who may be paired, and how good a pair is.

    `weights` are points out of 1000; empty means the defaults, else a term not named counts
    nothing. Raises ValueError where they are negative or sum to more than 1000.
    """

    min_level_gap: int = Field(ge=0)
    cross_department: bool
    different_boss: bool
    cross_region: bool
    min_overlap_minutes: int = Field(ge=0)
    term_middle: date
    weights: dict[ScoreTerm, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError("a weight is negative")
        if sum(self.weights.values()) > MAX_SCORE:
            raise ValueError(f"the weights sum to more than {MAX_SCORE}")
        return self

    def weight(self, term: ScoreTerm) -> int:
        """Return the most points that the term can give."""
        return self.weights.get(term, 0) if self.weights else DEFAULT_WEIGHTS[term]


@dataclass(frozen=True)
class FoundPair:
    """A pair that the engine found: `terms` sum to `score`, over all mentees of a circle."""

    mentor_id: str
    mentee_ids: tuple[str, ...]
    score: int
    terms: dict[ScoreTerm, int]
    rules: tuple[RuleCode, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """The mentor and all mentees."""
        return (self.mentor_id, *self.mentee_ids)


@dataclass(frozen=True)
class Nearest:
    """Somebody's nearest partner: the one with the fewest rules between them.

    `levels` and `minutes` are what lacks in the gap of levels, and in a day's shared working time.
    """

    rules: tuple[RuleCode, ...]
    levels: int
    minutes: int


@dataclass(frozen=True)
class Explanation:
    """Why somebody waits: how many of the other side each rule keeps away (some are kept away by
    several), and how many are left, all of whom others took; without those, how near one was.
    """

    eligible: int
    excluded: dict[RuleCode, int]
    nearest: Nearest | None


@dataclass(frozen=True)
class WhatIf:
    """A round under a policy with one rule relaxed: `changes` are the policy's fields."""

    rule: RuleCode
    changes: dict[str, int | bool]
    matched: RoleCounts
    objective: int
    gap: float


@dataclass(frozen=True)
class Result:
    """What `solve` found, and how good it is; ids are participants'.

    `objective` is the total score and `bound` the most that any solution with as many mentees
    matched could have; `gap` is 1 - objective / bound. The mean dissimilarities are points of the
    difference term per mentee matched, and per eligible mentor and mentee (what a random eligible
    pair can expect); None where there are none.
    """

    pairs: tuple[FoundPair, ...]
    unmatched: dict[str, UnmatchedCode]
    pool: RoleCounts
    matched: RoleCounts
    objective: int
    bound: int
    gap: float
    mean_dissimilarity: float | None
    mean_dissimilarity_random: float | None
    explained: dict[str, Explanation] = field(default_factory=dict)
    """Of those unmatched whose facts are all known, more than the reason."""
    groups: dict[str, int] = field(default_factory=dict)
    """How many people of the pool are in each group (`fairness`)."""
    what_if: tuple[WhatIf, ...] = ()
    """Where it was asked for, what each relaxation of the policy would bring."""
    limited: bool = False
    """Whether the time was up before the gap was small: another run may find other pairs."""

    def unmatched_counts(self) -> dict[str, int]:
        """Return how many wait for each reason, by code."""
        counts: dict[str, int] = {}
        for code in sorted(self.unmatched.values()):
            counts[code] = counts.get(code, 0) + 1
        return counts


class RepeatedError(ValueError):
    """A participant is in the pool twice."""


class Snapshot:
    """A hash of the pool's and the policy's content."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, candidate: Candidate) -> bytes:
        """Take the next candidate, by participant id; return it as JSON."""
        line = candidate.model_dump_json().encode()
        self._digest.update(line + b"\n")
        return line

    def id(self, policy: Policy) -> str:
        """Return the hash of all that was added, and the policy."""
        weights: dict[ScoreTerm, int] = {term: policy.weight(term) for term in SCORE_TERMS}
        whole = self._digest.copy()
        whole.update(policy.model_copy(update={"weights": weights}).model_dump_json().encode())
        return whole.hexdigest()
