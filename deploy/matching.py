"""`upward match`: the engine of the matching service on files, for planning and for checking."""

import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from deploy.client import Json
from deploy.demo.people import Actor, make_plan, profile
from services.enrollment.domain import manager_chain
from services.enrollment.roster import parse
from services.matching.engine.model import Candidate, Explanation, Policy, Result
from services.matching.engine.solve import solve
from services.matching.engine.watch import Watch
from shared.errors import UpwardError
from shared.events.participants import TopicLevel, WorkingHours

M = TypeVar("M", bound=BaseModel)

# What is taught and wanted in a pool that is made of a roster, which knows no such thing.
TOPICS = (
    "accessibility", "ai", "automation", "climate", "coding", "data", "gen-z", "inclusion",
    "privacy", "remote-work", "social-media", "user-research",
)  # fmt: skip


class FileError(Exception):
    """A file can't be used: which, where in it, and why."""


def read_policy(file: Path) -> Policy:
    """Read a policy. Raises FileError naming the field and the rule."""
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{file}: not TOML: {error}") from error
    return _checked(Policy, told, str(file))


def read_pool(file: Path) -> Iterator[Candidate]:
    """Yield the candidates of an NDJSON file. Raises FileError naming line, field and rule."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _checked(Candidate, line, f"{file}:{number}")


def _checked(kind: type[M], told: bytes | Json, where: str) -> M:
    try:
        if isinstance(told, bytes):
            return kind.model_validate_json(told)
        return kind.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise FileError(f"{where}: {place + ': ' if place else ''}{first['msg']}") from error


def match(pool: Path, policy: Path, seed: int, out: Path, report: Path, watch: Watch) -> Json:
    """Solve a pool and write its pairs, one a line, and the report; return the report.

    Raises FileError for a file that can't be used and for a repeated participant; nothing is
    written then.
    """
    rules = read_policy(policy)
    try:
        result = solve(list(read_pool(pool)), rules, seed, watch)
    except ValueError as error:
        raise FileError(f"{pool}: {error}") from error
    out.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in result.pairs))
    told = report_of(result, rules, seed)
    report.write_text(json.dumps(told, indent=2) + "\n")
    return told


def report_of(result: Result, policy: Policy, seed: int) -> Json:
    """Return what there is to say of a result beside its pairs."""
    return {
        "seed": seed,
        "policy": policy.model_dump(mode="json"),
        "pool": result.pool.model_dump(),
        "matched": result.matched.model_dump(),
        "objective": result.objective,
        "bound": result.bound,
        "gap": result.gap,
        "limited": result.limited,
        "mean_dissimilarity": result.mean_dissimilarity,
        "mean_dissimilarity_random": result.mean_dissimilarity_random,
        "unmatched": result.unmatched_counts(),
        "waiting": {
            who: {"reason": code} | _explained(result.explained.get(who))
            for who, code in result.unmatched.items()
        },
    }


def _explained(why: Explanation | None) -> Json:
    return {} if why is None else asdict(why)


def make_pool(roster: Path, pool: Path, *, mentors: int, mentees: int, seed: int) -> int:
    """Write a pool of a roster's people, and return how many they are.

    Reporting lines, levels, departments, places and zones are the roster's; what they teach and
    want, speak and when they work is drawn. Raises FileError for a roster that can't be used.
    """
    try:
        people = parse(roster.read_bytes(), lambda employee_id: employee_id).people
    except UpwardError as error:
        raise FileError(f"{roster}: {error.detail}") from error
    manager_of = {person.id: person.manager_person_id for person in people}
    try:
        plan = make_plan(
            [person.model_dump() | {"person_id": person.id} for person in people],
            mentors=mentors, mentees=mentees, seed=seed,
        )  # fmt: skip
    except ValueError as error:
        raise FileError(f"{roster}: {error}") from error
    by_id = {person.id: person for person in people}
    with pool.open("w", encoding="utf-8") as file:
        for actor in plan.actors:
            person = by_id[actor.person_id]
            candidate = Candidate(
                participant_id=f"{actor.role}-{person.id}",
                person_id=person.id,
                role=actor.role,
                level=person.level,
                department=person.department,
                region=person.region,
                country=person.country,
                timezone=person.timezone,
                manager_chain=manager_chain(person.id, manager_of),
                **_drawn(actor, TOPICS, seed),
            )
            file.write(candidate.model_dump_json(exclude_defaults=True) + "\n")
    return len(plan.actors)


def _drawn(actor: Actor, topics: Sequence[str], seed: int) -> dict[str, Any]:
    told = profile(actor, topics, seed)
    return {
        "languages": tuple(told["languages"]),
        "working_hours": WorkingHours(**told["working_hours"]),
        "teaches": tuple(TopicLevel(**rated) for rated in told.get("teaches", ())),
        "wants": tuple(TopicLevel(**rated) for rated in told.get("wants", ())),
    }
