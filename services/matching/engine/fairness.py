"""How a round treats groups of people: who is matched, and how well. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, get_args

from services.matching.engine.model import Candidate, FoundPair
from shared.events.participants import Role
from shared.privacy.thresholds import hidden_parts

Dimension = Literal["all", "department", "region", "level"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
BIN = 100
"""Points in a step of the distribution of scores."""

_UNKNOWN = "unknown"


class Facts(Protocol):
    """What groups somebody."""

    @property
    def department(self) -> str | None: ...
    @property
    def region(self) -> str | None: ...
    @property
    def level(self) -> int | None: ...


class Group(NamedTuple):
    """Those of a role with the same value of a dimension; "" for all of them."""

    role: Role
    dimension: Dimension
    value: str

    def key(self) -> str:
        """Return the group as text, to count by."""
        return "|".join(self)

    @classmethod
    def of_key(cls, key: str) -> "Group":
        """Return the group of a key."""
        role, dimension, value = key.split("|", 2)
        found = [one for one in DIMENSIONS if one == dimension]
        return cls("mentor" if role == "mentor" else "mentee", found[0], value)


def groups_of(person: Facts, role: Role) -> tuple[str, ...]:
    """Return the keys of the groups that somebody is in, one in each dimension."""
    level = _UNKNOWN if person.level is None else str(person.level)
    return (
        Group(role, "all", "").key(),
        Group(role, "department", person.department or _UNKNOWN).key(),
        Group(role, "region", person.region or _UNKNOWN).key(),
        Group(role, "level", level).key(),
    )


def people_by_group(pool: Iterable[Candidate]) -> dict[str, int]:
    """Return how many people of a pool are in each group; who plays both roles is in both."""
    counts = Counter[str]()
    roles: tuple[Role, ...] = get_args(Role)
    for person in pool:
        for role in roles:
            if person.role in (role, "both"):
                counts.update(groups_of(person, role))
    return dict(sorted(counts.items()))


@dataclass
class Fared:
    """How those of pairs fared: people and points by group, and pairs by points.

    A person's points are those of their pair per mentee, rounded down; `scores` counts pairs by
    them, in steps named by their lower end.
    """

    matched: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    scores: Counter[str] = field(default_factory=Counter)

    def add(self, found: FoundPair, mentor: Facts, mentees: Iterable[Facts]) -> None:
        """Count a pair."""
        per_mentee = found.score // len(found.mentee_ids)
        groups = [*groups_of(mentor, "mentor")]
        groups += [group for mentee in mentees for group in groups_of(mentee, "mentee")]
        self.matched.update(groups)
        for group in groups:
            self.points[group] += per_mentee
        self.scores[str(per_mentee // BIN * BIN)] += 1


@dataclass(frozen=True)
class GroupRow:
    """How a group of a pool fared; null where it would tell of too few people, and why.

    `mean_score` is of its matched people: the points of their pair, per mentee.
    """

    role: Role
    dimension: Dimension
    value: str
    people: int | None
    matched: int | None
    match_rate: float | None
    mean_score: float | None
    why_hidden: str | None


def rows(
    people: Mapping[str, int],
    matched: Mapping[str, int],
    points: Mapping[str, int],
    threshold: int,
) -> list[GroupRow]:
    """Return how each group fared, by role, dimension and value.

    Groups of fewer than `threshold` people are hidden, and as many others as it takes that nobody
    can tell them by subtraction.
    """
    found: list[GroupRow] = []
    by_total: dict[tuple[Role, Dimension], dict[str, int]] = {}
    for key, number in people.items():
        group = Group.of_key(key)
        by_total.setdefault((group.role, group.dimension), {})[group.value] = number
    for (role, dimension), parts in sorted(by_total.items()):
        hidden = hidden_parts(parts, threshold)
        for value, number in sorted(parts.items()):
            group = Group(role, dimension, value)
            if value in hidden:
                found.append(GroupRow(*group, None, None, None, None, hidden[value]))
                continue
            seated = matched.get(group.key(), 0)
            mean = points.get(group.key(), 0) / seated if seated else None
            found.append(GroupRow(*group, number, seated, seated / number, mean, None))
    return found
