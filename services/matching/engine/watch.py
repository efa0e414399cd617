"""What whoever waits for a round hears of it, and how long they are willing to wait."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """How far a round is: `done` is a share of the work, as far as can be told, from 0 to 1.

    `gap` is how far the best matching so far is from the bound at most; null while there is none.
    """

    stage: str
    done: float
    gap: float | None


def _nobody(_progress: Progress) -> None:
    """Hear nothing."""


@dataclass(frozen=True)
class Watch:
    """Who hears of progress, and after how many seconds the best so far is good enough."""

    hear: Callable[[Progress], None] = _nobody
    seconds: float | None = None
    _begun: float = field(default_factory=time.monotonic)

    def expired(self) -> bool:
        """Return whether the time is up."""
        return self.seconds is not None and time.monotonic() - self._begun > self.seconds


UNWATCHED = Watch()
