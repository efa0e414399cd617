"""A round as it is handed to another process, and as it comes back: one JSON value a line.

Lines rather than one document, so that neither side ever holds its event loop for long.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from services.matching.engine.model import (
    Candidate,
    Explanation,
    FoundPair,
    Frozen,
    Policy,
    Result,
    UnmatchedCode,
)
from services.matching.engine.watch import Progress

OUT_OF_MEMORY = 77
"""The exit code of a process into whose memory the pool does not fit."""

_AT_ONCE = 100


class Order(Frozen):
    """All that decides a round but its pool; `seconds` bounds how long it is improved, and
    `what_if` asks for what relaxed rules would bring.
    """

    policy: Policy
    seed: int
    seconds: float | None = None
    what_if: bool = False


@dataclass(frozen=True)
class Task:
    """A round to solve: the candidates as JSON, one an item."""

    order: Order
    lines: Sequence[bytes]

    def pool(self) -> list[Candidate]:
        """Return the candidates. Raises ValidationError."""
        return [Candidate.model_validate_json(line) for line in self.lines]

    def written(self) -> Iterator[bytes]:
        """Yield the task's lines, some at a time."""
        yield self.order.model_dump_json().encode() + b"\n"
        for start in range(0, len(self.lines), _AT_ONCE):
            yield b"\n".join(self.lines[start : start + _AT_ONCE]) + b"\n"


def read_task(lines: Iterable[bytes]) -> Task:
    """Return the task of its lines. Raises ValidationError."""
    order, *rest = lines
    return Task(Order.model_validate_json(order), [line for line in rest if line.strip()])


@dataclass(frozen=True)
class Line:
    """One line of an answer: progress, pairs, who waits with what explains it, or the figures."""

    progress: Progress | None = None
    pairs: tuple[FoundPair, ...] | None = None
    waiting: dict[str, UnmatchedCode] | None = None
    explained: dict[str, Explanation] | None = None
    result: Result | None = None
    """The last line: what the other lines do not hold."""


_LINE: TypeAdapter[Line] = TypeAdapter(Line)


def told(line: Line) -> bytes:
    """Return a line as it is written."""
    return _LINE.dump_json(line, exclude_defaults=True) + b"\n"


def tell(result: Result) -> Iterator[bytes]:
    """Yield a result's lines, some of it in each."""
    for start in range(0, len(result.pairs), _AT_ONCE):
        yield told(Line(pairs=result.pairs[start : start + _AT_ONCE]))
    waiting = iter(result.unmatched.items())
    while some := dict(itertools.islice(waiting, _AT_ONCE)):
        why = {who: result.explained[who] for who in some if who in result.explained}
        yield told(Line(waiting=some, explained=why))
    yield told(Line(result=replace(result, pairs=(), unmatched={}, explained={})))


@dataclass
class Answer:
    """What was heard of a result so far."""

    progress: Progress | None = None
    result: Result | None = None
    _pairs: list[FoundPair] = field(default_factory=list)
    _waiting: dict[str, UnmatchedCode] = field(default_factory=dict)
    _explained: dict[str, Explanation] = field(default_factory=dict)

    def hear(self, text: bytes) -> None:
        """Take a line. Raises ValidationError for what is none."""
        line = _LINE.validate_json(text)
        if line.progress is not None:
            self.progress = line.progress
        self._pairs += line.pairs or ()
        self._waiting |= line.waiting or {}
        self._explained |= line.explained or {}
        if line.result is not None:
            self.result = replace(
                line.result,
                pairs=tuple(self._pairs),
                unmatched=dict(self._waiting),
                explained=dict(self._explained),
            )
