"""A pool as columns of integers: what the kernels compare, a million people in a few arrays."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.matching.engine.constraints import unknown_fact
from services.matching.engine.grid import languages
from services.matching.engine.hours import utc_week
from services.matching.engine.model import Candidate, RepeatedError, UnknownCode
from services.matching.engine.score import patience, proficiency
from shared.events.participants import TopicLevel
from shared.events.programs import PairFormat

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Word = TypeVar("Word")

UNKNOWN = -1
_FACTS = (
    "may_mentor", "may_be_mentored", "person", "level", "department", "region", "country", "boss",
    "hours", "tongues", "wishes", "format", "capacity", "patience",
)  # fmt: skip
FORMATS: tuple[PairFormat | None, ...] = (None, "one_to_one", "circle", "mixed")


class Codes(Generic[Word]):
    """A small integer for each word, by first appearance; none for None."""

    def __init__(self) -> None:
        self._codes: dict[Word, int] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def of(self, word: Word | None) -> int:
        """Return the word's code, a new one for a new word."""
        if word is None:
            return UNKNOWN
        return self._codes.setdefault(word, len(self._codes))

    @property
    def words(self) -> list[Word]:
        """The words, each at its code."""
        return list(self._codes)


def starts_of(lengths: NDArray[np.integer[Any] | np.bool_]) -> Longs:
    """Return where each of these many begins, one behind the other, and where the last ends."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


class Lists:
    """A list of integers for each person, one behind the other in `values`."""

    def __init__(self, values: Ints, lengths: NDArray[np.int64]) -> None:
        self.values = values
        self.starts = starts_of(lengths)

    def owners(self) -> Ints:
        """Return whose each value is."""
        lengths = np.diff(self.starts)
        return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)

    def of(self, people: NDArray[np.intp] | Ints) -> "Lists":
        """Return the lists of these people, in this order."""
        lengths = np.diff(self.starts)[people]
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return Lists(self.values[np.repeat(self.starts[people], lengths) + within], lengths)


@dataclass(frozen=True)
class Offers:
    """What bidders would give: `values` of each one's `objects`, which have one seat or more."""

    starts: Longs
    objects: Ints
    values: Longs
    seat_starts: Longs


class _Growing:
    """Lists in the making, without an object for each."""

    def __init__(self) -> None:
        self._values = array("i")
        self._lengths = array("q")

    def append(self, values: Iterable[int]) -> None:
        """Add the next person's list."""
        before = len(self._values)
        self._values.extend(values)
        self._lengths.append(len(self._values) - before)

    def lists(self) -> Lists:
        """Return what has grown."""
        return Lists(
            np.frombuffer(self._values, dtype=np.int32).copy(),
            np.frombuffer(self._lengths, dtype=np.int64).copy(),
        )


@dataclass(frozen=True)
class Columns:
    """Everybody of a pool about whom something can be proved, in the order that the seed draws.

    One entry a person in each column, `UNKNOWN` (-1) for what is not known. `weeks`, `spoken` and
    `wished` are the words behind `hours`, `tongues` and `wishes`: rows of `utc_week`, languages
    (the first first), regions. `unknown` are those of whom nothing can be proved.
    """

    ids: list[str]
    unknown: dict[str, UnknownCode]
    mentors_in_pool: int
    mentees_in_pool: int
    may_mentor: NDArray[np.bool_]
    may_be_mentored: NDArray[np.bool_]
    person: Ints
    level: Ints
    department: Ints
    region: Ints
    country: Ints
    boss: Ints
    hours: Ints
    tongues: Ints
    wishes: Ints
    format: Ints
    capacity: Ints
    patience: Ints
    teaches: Lists
    wants: Lists
    """Topic times 8, plus the proficiency of 1 to 5."""
    chain: Lists
    former: Lists
    vetoes: Lists
    weeks: NDArray[np.int32]
    spoken: list[tuple[int, ...]]
    wished: list[tuple[int, ...]]
    persons: int


def pack(pool: Iterable[Candidate], seed: int, term_middle: date) -> Columns:
    """Read a pool, one candidate after the other: none is kept. Raises ValueError for a repeated
    participant.
    """
    ids: list[str] = []
    unknown: dict[str, UnknownCode] = {}
    seen: set[str] = set()
    mentors = mentees = 0
    persons, departments, places = Codes[str](), Codes[str](), Codes[str]()
    words, topics = Codes[str](), Codes[str]()
    hours = Codes[tuple[str | None, tuple[int, ...], str, str]]()
    tongues, wishes = Codes[tuple[int, ...]](), Codes[tuple[int, ...]]()
    weeks: list[NDArray[np.int32]] = []
    facts = array("i")
    teaches, wants, chains, former, vetoes = (_Growing() for _ in range(5))
    for one in pool:
        who = one.participant_id
        if who in seen:
            raise RepeatedError("a participant is in the pool twice")
        seen.add(who)
        mentors += one.role != "mentee"
        mentees += one.role != "mentor"
        reason = unknown_fact(one)
        if reason is not None:
            unknown[who] = reason
            continue
        assert one.level is not None
        times = one.working_hours
        week = hours.of((one.timezone, times.days, times.start, times.end))
        if week == len(weeks):
            weeks.append(utc_week(times, one.timezone, term_middle))
        chain = [persons.of(boss) for boss in one.manager_chain]
        ids.append(who)
        facts.extend(
            (
                one.role != "mentee",
                one.role != "mentor",
                persons.of(one.person_id),
                one.level,
                departments.of(one.department),
                places.of(one.region),
                places.of(one.country),
                chain[0] if chain else UNKNOWN,
                week,
                tongues.of(tuple(words.of(tag) for tag in languages(one))),
                wishes.of(tuple(sorted({places.of(name) for name in one.preferences.regions}))),
                FORMATS.index(one.preferences.format),
                one.capacity,
                patience(one),
            )
        )
        teaches.append(_rated(topics, one.teaches))
        wants.append(_rated(topics, one.wants))
        chains.append(chain)
        former.append(persons.of(other) for other in one.former_partners)
        vetoes.append(persons.of(other) for other in one.vetoes)
    lots = [draw(seed, who) for who in ids]
    order = np.array(sorted(range(len(ids)), key=lots.__getitem__), dtype=np.intp)
    columns = np.frombuffer(facts, dtype=np.int32).reshape(len(ids), len(_FACTS))[order].T.copy()
    told = dict(zip(_FACTS, columns, strict=True))
    return Columns(
        ids=[ids[place] for place in order],
        unknown=dict(sorted(unknown.items())),
        mentors_in_pool=mentors,
        mentees_in_pool=mentees,
        may_mentor=told["may_mentor"].astype(np.bool_),
        may_be_mentored=told["may_be_mentored"].astype(np.bool_),
        person=told["person"],
        level=told["level"],
        department=told["department"],
        region=told["region"],
        country=told["country"],
        boss=told["boss"],
        hours=told["hours"],
        tongues=told["tongues"],
        wishes=told["wishes"],
        format=told["format"],
        capacity=told["capacity"],
        patience=told["patience"],
        teaches=teaches.lists().of(order),
        wants=wants.lists().of(order),
        chain=chains.lists().of(order),
        former=former.lists().of(order),
        vetoes=vetoes.lists().of(order),
        weeks=np.array(weeks, dtype=np.int32).reshape(-1, 7, 2),
        spoken=tongues.words,
        wished=wishes.words,
        persons=len(persons),
    )


def draw(seed: int, participant_id: str) -> bytes:
    """Return a participant's lot: who stands before whom where the score does not say."""
    return hashlib.sha256(f"{seed}\x1f{participant_id}".encode()).digest()


def _rated(topics: Codes[str], levels: Sequence[TopicLevel]) -> list[int]:
    return [topics.of(topic) * 8 + level for topic, level in proficiency(levels).items()]
