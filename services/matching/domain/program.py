"""A program as matching sees it: its policy and its calendar."""

from datetime import UTC, date, datetime, time, timedelta
from typing import ClassVar, Self

from services.matching.engine.model import Policy
from shared.errors import RuleViolationError
from shared.events.participants import Preferences
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.store.port import Document, Index


class Program(Document):
    """What matching needs of a program; the highest published version counts."""

    collection: ClassVar[str] = "programs"

    indexes: ClassVar[tuple[Index, ...]] = (Index(("closed",)),)

    published: ProgramPublished | None = None
    closed: bool = False
    open_round_id: str | None = None
    """The round that is requested or running: a program has one at a time."""
    last_rolling_on: date | None = None
    """In rolling mode, the day of the last round that time brought."""

    threshold: int | None = None
    """How many people a figure must be about at least: that of version 1, whatever later ones say;
    None while that has not arrived."""

    def publish(self, event: ProgramPublished) -> Self:
        """Take over a configuration; of one that is not newer, only a first version's threshold."""
        known = self
        if event.version == 1 and self.threshold is None:
            known = known.changed(threshold=event.thresholds.scores)
        if self.published is not None and event.version <= self.published.version:
            return known
        return known.changed(published=event)

    def close(self, _: ProgramClosed) -> Self:
        """End the program for good, also where it is not yet known otherwise."""
        return self if self.closed else self.changed(closed=True)

    def open_round(self, round_id: str) -> Self:
        """Take the program for a round. Raises RuleViolationError while another one is open."""
        if self.open_round_id is not None:
            raise RuleViolationError("Another round is under way.", code="round_open")
        return self.changed(open_round_id=round_id)

    def finish_round(self, round_id: str) -> Self:
        """Free the program for the next round."""
        return self.changed(open_round_id=None) if self.open_round_id == round_id else self

    @property
    def config(self) -> ProgramPublished:
        """The configuration. Raises RuleViolationError while none has arrived."""
        if self.published is None:
            raise RuleViolationError(
                "The program's configuration has not arrived yet.", code="program_unknown"
            )
        return self.published

    def is_over(self, now: datetime) -> bool:
        """Return whether the program was closed or has reached its end."""
        return self.closed or now >= self.last_moment

    def rolls(self, now: datetime) -> bool:
        """Return whether it is time for the day's look at a rolling program."""
        if self.published is None or self.config.mode != "rolling" or self.is_over(now):
            return False
        today = now.date()
        return (
            today >= self.config.starts_on
            and today != self.last_rolling_on
            and self.open_round_id is None
        )

    def require_open(self, now: datetime) -> None:
        """Raise RuleViolationError unless new pairs can still be made."""
        if self.is_over(now):
            raise RuleViolationError("The program is over.", code="program_closed")

    @property
    def last_moment(self) -> datetime:
        """The end, in UTC, of the program's last day."""
        return datetime.combine(self.config.ends_on, time.max, UTC)

    def expires_at(self, proposed_at: datetime) -> datetime:
        """When a proposal made at `proposed_at` has waited long enough for its answers."""
        wait = timedelta(days=self.config.proposal_expiry_days)
        return min(proposed_at + wait, self.last_moment)

    def term_ends_at(self, proposed_at: datetime) -> datetime:
        """When the term ends: the same for all pairs of one round, whenever they accept."""
        term = timedelta(days=self.config.term_days)
        return min(self.expires_at(proposed_at) + term, self.last_moment)

    def policy(self, now: datetime) -> Policy:
        """Return the matching policy of a round at `now`. Raises ValueError for bad weights."""
        config = self.config
        return Policy(
            min_level_gap=config.min_level_gap,
            cross_department=config.cross_department,
            different_boss=config.different_boss,
            cross_region=config.cross_region,
            min_overlap_minutes=config.min_overlap_minutes,
            term_middle=self._term_middle(now).date(),
            weights=config.weights,
        )

    def _term_middle(self, proposed_at: datetime) -> datetime:
        # The term as everybody can compute it: it may begin when the last answer may come.
        begins = self.expires_at(proposed_at)
        return begins + (self.term_ends_at(proposed_at) - begins) / 2

    def capacity(self, wish: Preferences) -> int:
        """Return how many mentees a mentor with this wish may have at once."""
        if self.config.format == "one_to_one" or (
            self.config.format == "mixed" and wish.format == "one_to_one"
        ):
            return 1
        return self.config.circle_capacity

    @property
    def titles(self) -> dict[str, str]:
        """The topics' titles by id."""
        return {topic.topic_id: topic.title for topic in self.config.topics}
