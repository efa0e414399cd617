"""`upward match`: the engine of the matching service on files, for planning and for checking."""

import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

import services.matching
from deploy.client import Json
from deploy.demo.people import Actor, make_plan, profile
from services.enrollment.domain import manager_chain
from services.enrollment.roster import parse
from services.matching.engine.fairness import Dimension, Fared, rows
from services.matching.engine.model import (
    Candidate,
    Explanation,
    FoundPair,
    Nearest,
    Policy,
    RepeatedError,
    Result,
    RuleCode,
    UnmatchedCode,
    WhatIf,
)
from services.matching.engine.solve import solve
from services.matching.engine.watch import UNWATCHED, Watch
from services.matching.engine.what_if import what_if
from shared.errors import UpwardError
from shared.events.pairs import RoleCounts
from shared.events.participants import Role, TopicLevel, WorkingHours

M = TypeVar("M", bound=BaseModel)

SCHEMAS = Path(services.matching.__path__[0]) / "schemas"

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
    return checked(Policy, told, str(file))


def read_pool(file: Path) -> Iterator[Candidate]:
    """Yield the candidates of an NDJSON file. Raises FileError naming line, field and rule."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield checked(Candidate, line, f"{file}:{number}")


def checked(kind: type[M], told: bytes | Json, where: str) -> M:
    """Read a model from JSON or values. Raises FileError naming where, the field and the rule."""
    try:
        if isinstance(told, bytes):
            return kind.model_validate_json(told)
        return kind.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise FileError(f"{where}: {place + ': ' if place else ''}{first['msg']}") from error


class Waits(BaseModel):
    """Why somebody waits. Where all that is asked for is known of them: how many suited and were
    taken by others, how many each rule keeps away, and what is between them and the nearest.
    """

    reason: UnmatchedCode
    eligible: int | None
    excluded: dict[RuleCode, int] | None
    nearest: Nearest | None


# A `GroupRow` without the match rate, which the report's schema does not have.
class GroupReport(BaseModel):
    """How a group fared; null where that would tell of too few people, and why."""

    role: Role
    dimension: Dimension
    value: str
    people: int | None
    matched: int | None
    mean_score: float | None
    why_hidden: str | None


class Report(BaseModel):
    """What there is to say of a result beside its pairs; the fields are the README's."""

    seed: int
    policy: Policy
    pool: RoleCounts
    matched: RoleCounts
    objective: int
    bound: int
    gap: float
    limited: bool
    mean_dissimilarity: float | None
    mean_dissimilarity_random: float | None
    scores: dict[str, int]
    threshold: int
    groups: list[GroupReport]
    unmatched: dict[str, int]
    waiting: dict[str, Waits]
    what_if: list[WhatIf]


def file_schemas() -> dict[str, Json]:
    """Return the JSON Schema of a line of each file, or of all of it, by name."""
    kinds: dict[str, tuple[TypeAdapter[Any], JsonSchemaMode]] = {
        "candidate": (TypeAdapter(Candidate), "validation"),
        "policy": (TypeAdapter(Policy), "validation"),
        "pair": (TypeAdapter(FoundPair), "serialization"),
        "report": (TypeAdapter(Report), "serialization"),
    }
    return {
        name: {"$schema": GenerateJsonSchema.schema_dialect, "$id": f"urn:upward:match:{name}"}
        | adapter.json_schema(mode=mode)
        for name, (adapter, mode) in kinds.items()
    }


def export_file_schemas(root: Path = SCHEMAS) -> list[Path]:
    """Write the schemas that differ from the code; return their files. Blocks on the disk."""
    changed = _drifted(root)
    root.mkdir(exist_ok=True)
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
    return list(changed)


def check_file_schemas(root: Path = SCHEMAS) -> list[str]:
    """Return which schemas differ from the code. Blocks on the disk."""
    return [f"schemas/{path.name}: differs from the code" for path in _drifted(root)]


def _drifted(root: Path) -> dict[Path, str]:
    texts = {
        root / f"{name}.json": json.dumps(schema, indent=2) + "\n"
        for name, schema in file_schemas().items()
    }
    return {
        path: text
        for path, text in texts.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def match(
    pool: Path,
    policy: Path,
    seed: int,
    out: Path,
    report: Path,
    *,
    watch: Watch = UNWATCHED,
    threshold: int = 5,
    relax: bool = False,
) -> Report:
    """Solve a pool and write its pairs, one a line, and the report; return the report.

    With `relax` the report also says what each rule, relaxed by a step, would bring. Raises
    FileError for a file that can't be used and for a repeated participant; nothing is written then.
    """
    rules = read_policy(policy)
    people = list(read_pool(pool))
    try:
        result = solve(people, rules, seed, watch)
        if relax:
            result = replace(result, what_if=what_if(people, rules, seed, watch))
    except RepeatedError as error:
        raise FileError(f"{pool}: {error}") from error
    out.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in result.pairs))
    told = report_of(result, people, rules, seed, threshold)
    report.write_text(told.model_dump_json(indent=2) + "\n")
    return told


def report_of(
    result: Result, people: Sequence[Candidate], policy: Policy, seed: int, threshold: int
) -> Report:
    """Return what there is to say of a result beside its pairs, groups of few people hidden."""
    by_id = {person.participant_id: person for person in people}
    fared = Fared()
    for pair in result.pairs:
        fared.add(pair, by_id[pair.mentor_id], [by_id[who] for who in pair.mentee_ids])
    return Report(
        seed=seed,
        policy=policy,
        pool=result.pool,
        matched=result.matched,
        objective=result.objective,
        bound=result.bound,
        gap=result.gap,
        limited=result.limited,
        mean_dissimilarity=result.mean_dissimilarity,
        mean_dissimilarity_random=result.mean_dissimilarity_random,
        scores={step: fared.scores[step] for step in sorted(fared.scores, key=int)},
        threshold=threshold,
        groups=[
            GroupReport.model_validate(row, from_attributes=True)
            for row in rows(result.groups, fared.matched, fared.points, threshold)
        ],
        unmatched=result.unmatched_counts(),
        waiting={
            who: _waits(code, result.explained.get(who)) for who, code in result.unmatched.items()
        },
        what_if=list(result.what_if),
    )


def _waits(code: UnmatchedCode, why: Explanation | None) -> Waits:
    if why is None:
        return Waits(reason=code, eligible=None, excluded=None, nearest=None)
    return Waits(reason=code, eligible=why.eligible, excluded=why.excluded, nearest=why.nearest)


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
