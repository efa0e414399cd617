"""The matching engine on files, as a planner uses it."""

import json
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from deploy.cli import app
from deploy.demo.run import ROSTER
from deploy.matching import (
    SCHEMAS,
    FileError,
    check_file_schemas,
    export_file_schemas,
    make_pool,
    match,
)

POLICY = (Path(__file__).parents[3] / "deploy" / "demo" / "policy.toml").read_text()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    return file


def test_a_roster_becomes_a_pool_and_a_pool_pairs_the_same_each_time(
    tmp_path: Path, policy: Path
) -> None:
    pool, pairs, report = (tmp_path / name for name in ("pool", "pairs", "report"))
    runner = CliRunner()
    size = ["--mentors", "80", "--mentees", "40", "--seed", "2", "--out", str(pool)]
    assert runner.invoke(app, ["match", "pool", str(ROSTER), *size]).exit_code == 0
    assert len(pool.read_text().splitlines()) == 120
    rest = ["--policy", str(policy), "--seed", "3", "--out", str(pairs), "--report", str(report)]
    assert runner.invoke(app, ["match", str(pool), *rest]).exit_code == 0
    told = json.loads(report.read_text())
    found = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert told["objective"] == sum(pair["score"] for pair in found) == told["bound"] > 0
    waiting = sum(who.startswith("mentee") for who in told["waiting"])
    assert told["matched"]["mentees"] + waiting == told["pool"]["mentees"] == 40
    first = pairs.read_bytes(), report.read_bytes()
    match(pool, policy, 3, pairs, report)
    assert (pairs.read_bytes(), report.read_bytes()) == first


@pytest.mark.parametrize("missing", ["--out", "--report"])
def test_a_folder_that_is_not_there_is_named_before_anything_is_solved(
    tmp_path: Path, policy: Path, missing: str
) -> None:
    pool = tmp_path / "pool"
    pool.write_text(ALONE)
    files = {"--out": str(tmp_path / "pairs"), "--report": str(tmp_path / "report")}
    files[missing] = str(tmp_path / "nowhere" / "file")
    rest = ["--policy", str(policy), *(word for pair in files.items() for word in pair)]
    done = CliRunner().invoke(app, ["match", str(pool), *rest])
    assert done.exit_code == 1
    assert "There is no folder" in done.stderr
    assert set(tmp_path.iterdir()) == {policy, pool}


def test_the_files_are_as_their_schemas_say(tmp_path: Path, policy: Path) -> None:
    pool, pairs, report = (tmp_path / name for name in ("pool", "pairs", "report"))
    make_pool(ROSTER, pool, mentors=60, mentees=60, seed=2)
    match(pool, policy, 3, pairs, report)

    def valid(name: str, told: object) -> bool:
        schema = json.loads((SCHEMAS / f"{name}.json").read_text())
        Draft202012Validator.check_schema(schema)
        return Draft202012Validator(schema).is_valid(told)

    candidates = [json.loads(line) for line in pool.read_text().splitlines()]
    assert all(valid("candidate", one) for one in candidates)
    assert not valid("candidate", candidates[0] | {"capacity": 0})
    assert not valid("candidate", candidates[0] | {"capacities": 1})
    rules = tomllib.loads(policy.read_text())
    assert valid("policy", json.loads(json.dumps(rules, default=str)))
    assert not valid("policy", rules | {"min_level_gap": -1})
    found = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert found
    assert all(valid("pair", one) for one in found)
    told = json.loads(report.read_text())
    assert valid("report", told)
    assert sum(told["scores"].values()) == len(found)
    assert {row["why_hidden"] for row in told["groups"]} > {None, "fewer than 5 people"}
    reasons = {waits["reason"] for waits in told["waiting"].values()}
    assert reasons == told["unmatched"].keys()


def test_a_schema_that_the_code_has_left_is_noticed_and_written_anew(tmp_path: Path) -> None:
    root = tmp_path / "schemas"
    assert len(export_file_schemas(root)) == 4
    assert (check_file_schemas(root), export_file_schemas(root)) == ([], [])
    (root / "pair.json").write_text("{}")
    assert check_file_schemas(root) == ["schemas/pair.json: differs from the code"]


def test_other_rules_are_tried_where_that_is_asked_for(tmp_path: Path, policy: Path) -> None:
    pool, pairs, report = (tmp_path / name for name in ("pool", "pairs", "report"))
    make_pool(ROSTER, pool, mentors=60, mentees=60, seed=2)
    files = ["--policy", str(policy), "--out", str(pairs), "--report", str(report)]
    done = CliRunner().invoke(app, ["match", str(pool), *files, "--what-if"])
    assert done.exit_code == 0
    told = json.loads(report.read_text())
    tried = {one["rule"]: one for one in told["what_if"]}
    assert tried.keys() == {"level_gap", "same_department", "same_boss", "working_hours"}
    more = tried["level_gap"]["matched"]["mentees"] - told["matched"]["mentees"]
    assert more >= 0
    assert f"With min_level_gap = 1: {more:+,} mentees" in done.stderr


ALONE = '{"participant_id": "a", "person_id": "a", "role": "mentor"}\n'


@pytest.mark.parametrize(
    ("lines", "rules", "said"),
    [
        ('{"participant_id": "a", "person_id": "a"}', POLICY, "pool:1: role: Field required"),
        (f"{ALONE}{{", POLICY, "pool:2: Invalid JSON"),
        (ALONE * 2, POLICY, "pool: a participant is in the pool twice"),
        ("", POLICY.replace("gap = 2", "gap = -1"), "policy.toml: min_level_gap: Input should be"),
        ("", "min_level_gap", "policy.toml: not TOML"),
    ],
)
def test_a_file_that_cant_be_used_is_named_with_the_place_and_the_rule(
    tmp_path: Path, policy: Path, lines: str, rules: str, said: str
) -> None:
    pool, pairs, report = (tmp_path / name for name in ("pool", "pairs", "report"))
    pool.write_text(lines)
    policy.write_text(rules)
    with pytest.raises(FileError) as refused:
        match(pool, policy, 1, pairs, report)
    assert said in str(refused.value)
    assert not pairs.exists()
    assert not report.exists()


@pytest.mark.parametrize(
    ("roster", "said"), [("name\nA\n", "employee_id"), ("employee_id,level\n1,0\n", "two known")]
)
def test_a_roster_that_gives_no_pool_is_refused(tmp_path: Path, roster: str, said: str) -> None:
    file, pool = tmp_path / "roster.csv", tmp_path / "pool"
    file.write_text(roster)
    with pytest.raises(FileError, match=said):
        make_pool(file, pool, mentors=1, mentees=1, seed=1)
    assert not pool.exists()
