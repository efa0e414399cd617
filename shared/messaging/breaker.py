"""When to stop consuming rather than dead-letter on."""

import itertools
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class DeadLetterLimit:
    """When to stop rather than dead-letter on: a bad deployment looks like this, bad data not.

    `window` is the number of latest records over which `ratio` is taken, once it is full.
    """

    in_a_row: int = 50
    ratio: float = 0.25
    window: int = 400


DEFAULT_LIMIT = DeadLetterLimit()


class Breaker:
    """Counts dead letters among the latest records."""

    def __init__(self, limit: DeadLetterLimit) -> None:
        self._limit = limit
        self._row = 0
        self._window: deque[bool] = deque(maxlen=limit.window)
        self._dead = 0

    def copy(self) -> "Breaker":
        """Return a breaker that has counted the same and counts on by itself."""
        twin = Breaker(self._limit)
        twin._row, twin._window, twin._dead = self._row, self._window.copy(), self._dead
        return twin

    def count(self, *, dead: bool) -> None:
        """Count one record."""
        self._row = self._row + 1 if dead else 0
        if len(self._window) == self._limit.window:
            self._dead -= self._window[0]
        self._window.append(dead)
        self._dead += dead

    def count_good(self, number: int) -> bool:
        """Count so many good records, after which there is no verdict either.

        Returns False, and counts nothing, while there are dead letters among the latest records.
        """
        if self._dead:
            return False
        self._window.extend(itertools.repeat(False, min(number, self._limit.window)))
        return True

    def verdict(self) -> str | None:
        """Return why the consumer must stop, or None."""
        if self._row >= self._limit.in_a_row:
            return f"{self._row} dead letters in a row"
        full = len(self._window) == self._limit.window
        if full and (share := self._dead / self._limit.window) > self._limit.ratio:
            return f"{share:.0%} of the last {self._limit.window} records are dead letters"
        return None
