"""A round, from its request to its result."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal, Self

from pydantic import Field

from services.matching.engine.fairness import Facts, Fared, GroupRow, rows
from services.matching.engine.model import Explanation, FoundPair, Result, UnmatchedCode
from services.matching.engine.watch import Progress
from shared.clock import Instant
from shared.errors import RuleViolationError
from shared.events.pairs import RoleCounts, RoundCompleted
from shared.events.programs import Part
from shared.ids import derived_id
from shared.store.port import Document, Index

RoundStatus = Literal["requested", "running", "committing", "completed", "failed", "canceled"]
RoundKind = Literal["round", "rotation"]

_LOST: UnmatchedCode = "no_partner_left"


class RoundFigures(Part):
    """How good a round's result is; the fields of `Result` that the event tells."""

    pool: RoleCounts
    matched: RoleCounts
    proposed: int
    unmatched: dict[str, int]
    objective: int
    bound: int
    gap: float
    mean_dissimilarity: float | None
    mean_dissimilarity_random: float | None


def figures_of(result: Result) -> RoundFigures:
    """Return what there is to say of a result in figures."""
    return RoundFigures(
        pool=result.pool,
        matched=result.matched,
        proposed=len(result.pairs),
        unmatched=result.unmatched_counts(),
        objective=result.objective,
        bound=result.bound,
        gap=result.gap,
        mean_dissimilarity=result.mean_dissimilarity,
        mean_dissimilarity_random=result.mean_dissimilarity_random,
    )


class Committed(Part):
    """What of a round's result has become proposals so far."""

    proposed: int = 0
    mentees: int = 0
    objective: int = 0
    difference: int = 0
    lost: tuple[str, ...] = ()
    """Participants of found pairs that were not proposed."""
    matched: dict[str, int] = Field(default_factory=dict)
    """People by group."""
    points: dict[str, int] = Field(default_factory=dict)
    scores: dict[str, int] = Field(default_factory=dict)
    """Pairs by points, in steps (`fairness.Fared`, as the two above)."""


@dataclass
class Tally:
    """What became of some of a round's pairs: built up pair by pair, counted in the round once."""

    pairs: int = 0
    mentees: int = 0
    objective: int = 0
    difference: int = 0
    lost: list[str] = field(default_factory=list)
    fared: Fared = field(default_factory=Fared)

    def propose(self, found: FoundPair, mentor: Facts, mentees: Sequence[Facts]) -> None:
        """Count a pair that was proposed, in the groups of its members, too."""
        self.pairs += 1
        self.mentees += len(found.mentee_ids)
        self.objective += found.score
        self.difference += found.terms["difference"]
        self.fared.add(found, mentor, mentees)

    def drop(self, found: FoundPair) -> None:
        """Count a pair that was not."""
        self.lost += (found.mentor_id, *found.mentee_ids)


class Round(Document):
    """One optimization over a program's pool.

    requested → running → committing → completed, or failed or canceled before it is committing.
    From then on its result stands, in parts that become proposals one after the other.

    A transition that already happened returns the round unchanged; one that its state does not
    allow raises RuleViolationError with the code `round_<state>`.
    """

    collection: ClassVar[str] = "rounds"
    indexes: ClassVar[tuple[Index, ...]] = (
        Index(("program_id", "requested_at")),
        Index(("status", "requested_at")),
    )

    program_id: str
    kind: RoundKind
    seed: int
    status: RoundStatus = "requested"
    requested_at: Instant
    started_at: Instant | None = None
    finished_at: Instant | None = None
    snapshot: str | None = None
    figures: RoundFigures | None = None
    failure: str | None = None
    attempt: int = 0
    """How often it was begun: whoever solved an earlier attempt comes too late."""
    groups: dict[str, int] = Field(default_factory=dict)
    """How many people of the pool were in each group."""
    parts: int = 0
    """In how many parts the result is committed."""
    committed: Committed = Committed()
    left: str | None = None
    """A digest of those whom the result leaves waiting, as they stood. No two of them may be
    paired, or more would be matched."""

    @classmethod
    def request(
        cls, program_id: str, kind: RoundKind, occasion: str, now: datetime, seed: int | None = None
    ) -> Self:
        """Return a new round. The same occasion names the same round: requested once, run once.

        Without a seed it is drawn from the round's id.
        """
        round_id = derived_id("round", program_id, kind, occasion)
        if seed is None:
            seed = int.from_bytes(hashlib.sha256(round_id.encode()).digest()[:4])
        return cls(id=round_id, program_id=program_id, kind=kind, seed=seed, requested_at=now)

    def pair_id(self, mentor_participant_id: str) -> str:
        """Return the id of the mentor's pair of this round: they have one at most."""
        return derived_id("pair", self.id, mentor_participant_id)

    def start(self, now: datetime) -> Self:
        """Begin. Begun again after a crash, it works on the pool of then."""
        self._require("requested", "running")
        return self.changed(status="running", started_at=now, attempt=self.attempt + 1)

    def settle(self, snapshot: str, result: Result, *, parts: int, left: str) -> Self:
        """Take the result, which is written in so many parts; from now on it stands."""
        self._require("running")
        return self.changed(
            status="committing",
            snapshot=snapshot,
            figures=figures_of(result),
            groups=result.groups,
            parts=parts,
            left=left,
        )

    def counted(self, tally: Tally) -> Self:
        """Record what became of some of the result's pairs."""
        self._require("committing")
        so_far, fared = self.committed, tally.fared
        return self.changed(
            committed=Committed(
                proposed=so_far.proposed + tally.pairs,
                mentees=so_far.mentees + tally.mentees,
                objective=so_far.objective + tally.objective,
                difference=so_far.difference + tally.difference,
                lost=(*so_far.lost, *tally.lost),
                matched=Counter(so_far.matched) + fared.matched,
                points=Counter(so_far.points) + fared.points,
                scores=Counter(so_far.scores) + fared.scores,
            )
        )

    def complete(self, waiting_on: int, now: datetime) -> Self:
        """Record what became of the result, once all of it is committed.

        `waiting_on` is how many of those who lost their pair have none in another role. The bound
        stays that of the whole pool, so the gap says what dropped pairs cost; what a
        random pair can expect stays that of the pool, too.
        """
        if self.status == "completed":
            return self
        self._require("committing")
        assert self.figures is not None
        so_far, bound = self.committed, self.figures.bound
        unmatched = dict(self.figures.unmatched)
        if waiting_on:
            unmatched[_LOST] = unmatched.get(_LOST, 0) + waiting_on
        figures = self.figures.model_copy(
            update={
                "matched": RoleCounts(mentors=so_far.proposed, mentees=so_far.mentees),
                "proposed": so_far.proposed,
                "unmatched": dict(sorted(unmatched.items())),
                "objective": so_far.objective,
                "gap": 1 - so_far.objective / bound if bound else 0.0,
                "mean_dissimilarity": so_far.difference / so_far.mentees
                if so_far.mentees
                else None,
            }
        )
        return self.changed(status="completed", figures=figures, finished_at=now)

    def fail(self, code: str, now: datetime) -> Self:
        """Give up, with a stable code for the reason."""
        if self.status == "failed":
            return self
        self._require("requested", "running")
        return self.changed(status="failed", failure=code, finished_at=now)

    def cancel(self, now: datetime) -> Self:
        """Call it off before it has a result."""
        if self.status == "canceled":
            return self
        self._require("requested", "running")
        return self.changed(status="canceled", finished_at=now)

    @property
    def ended(self) -> bool:
        """Whether it is completed, failed or canceled; nothing else is kept of it then."""
        return self.finished_at is not None

    def fairness(self, threshold: int) -> list[GroupRow]:
        """Return how groups fared. Raises RuleViolationError before all is proposed."""
        self._require("completed")
        return rows(self.groups, self.committed.matched, self.committed.points, threshold)

    def as_completed(self) -> RoundCompleted:
        """Return the event of the result. Raises RuleViolationError before there is one."""
        self._require("completed")
        assert self.figures is not None
        return RoundCompleted.model_validate(
            dict(self.figures)
            | {
                "round_id": self.id,
                "program_id": self.program_id,
                "kind": self.kind,
                "seed": self.seed,
                "snapshot": self.snapshot,
                "started_at": self.started_at,
            }
        )

    def _require(self, *states: RoundStatus) -> None:
        if self.status not in states:
            raise RuleViolationError(f"The round is {self.status}.", code=f"round_{self.status}")


class RoundPart(Document):
    """A part of a round's result that is not committed yet; it goes with its commit.

    `marks` are those of its people at the snapshot: who changed since is not proposed.
    """

    collection: ClassVar[str] = "round_parts"

    round_id: str
    pairs: tuple[FoundPair, ...] = ()
    waiting: dict[str, UnmatchedCode] = Field(default_factory=dict)
    explained: dict[str, Explanation] = Field(default_factory=dict)
    marks: dict[str, str]

    @classmethod
    def id_of(cls, begun: Round, number: int) -> str:
        """Return the id of a part of what the round's attempt found, counted from 0."""
        return f"{begun.id}-{begun.attempt}-{number}"


class RoundProgress(Document):
    """How far the process that solves a round has come; its id is the round's."""

    collection: ClassVar[str] = "round_progress"

    progress: Progress
