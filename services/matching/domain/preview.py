"""A preview: what a round would find now, under other rules if asked, without any proposal."""

from datetime import datetime
from typing import ClassVar, Literal, Self

from services.matching.domain.round import RoundFigures, figures_of
from services.matching.engine.model import Policy, Result, WhatIf
from shared.clock import Instant
from shared.errors import RuleViolationError
from shared.ids import derived_id
from shared.store.port import Document, Index

PreviewStatus = Literal["requested", "completed", "failed"]


class Preview(Document):
    """A program's newest preview: requested → completed or failed, and then asked for anew."""

    collection: ClassVar[str] = "previews"
    indexes: ClassVar[tuple[Index, ...]] = (Index(("status", "requested_at")),)

    program_id: str
    seed: int
    policy: Policy
    with_what_if: bool
    status: PreviewStatus = "requested"
    requested_at: Instant
    finished_at: Instant | None = None
    figures: RoundFigures | None = None
    what_if: tuple[WhatIf, ...] = ()
    failure: str | None = None

    @classmethod
    def id_of(cls, program_id: str) -> str:
        """Return the id of a program's preview: it has one."""
        return derived_id("preview", program_id)

    def require_done(self) -> None:
        """Raise RuleViolationError while it is being made."""
        if self.status == "requested":
            raise RuleViolationError("Another preview is being made.", code="preview_requested")

    def complete(self, result: Result, now: datetime) -> Self:
        """Record what was found."""
        return self.changed(
            status="completed", figures=figures_of(result), what_if=result.what_if, finished_at=now
        )

    def fail(self, code: str, now: datetime) -> Self:
        """Give up, with a stable code for the reason."""
        return self.changed(status="failed", failure=code, finished_at=now)
