"""A round, from its request to its result."""

import hashlib
from datetime import datetime
from typing import ClassVar, Literal, Self

from services.matching.engine.model import Result
from shared.clock import Instant
from shared.errors import RuleViolationError
from shared.events.pairs import RoleCounts, RoundCompleted
from shared.events.programs import Part
from shared.ids import derived_id
from shared.store.port import Document, Index

RoundStatus = Literal["requested", "running", "completed", "failed"]
RoundKind = Literal["round", "rotation"]


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


class Round(Document):
    """One optimization over a program's pool: requested → running → completed | failed.

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

    def start(self, snapshot: str, now: datetime) -> Self:
        """Begin on a pool. Begun again after a crash, it works on the pool of now."""
        if self.status == "running" and self.snapshot == snapshot:
            return self
        self._require("requested", "running")
        return self.changed(status="running", snapshot=snapshot, started_at=now)

    def complete(self, result: Result, now: datetime) -> Self:
        """Record the result."""
        if self.status == "completed":
            return self
        self._require("running")
        figures = RoundFigures(
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
        return self.changed(status="completed", figures=figures, finished_at=now)

    def fail(self, code: str, now: datetime) -> Self:
        """Give up, with a stable code for the reason."""
        if self.status == "failed":
            return self
        self._require("requested", "running")
        return self.changed(status="failed", failure=code, finished_at=now)

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
            }
        )

    def _require(self, *states: RoundStatus) -> None:
        if self.status not in states:
            raise RuleViolationError(f"The round is {self.status}.", code=f"round_{self.status}")
