"""The demo's year, on a clean roster and on a dirty one, checked by the independent checker."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from tests.support.demo import DemoRun

HEADER = (
    "employee_id,name,job_title,level,department,manager_id,location,country,region,timezone,"
    "hire_date\n"
)


def dirty_roster() -> str:
    """Everything that real rosters do wrong, around enough people to make a program."""
    rows = [
        "A1,Ägir Þórsson,Chief,0,Board,,Reykjavík,Iceland,Europe,Atlantic/Reykjavik,2001-01-01",
        "A2,李娜,Chair,0,Council,A2,Kathmandu,Nepal,Asia,Asia/Kathmandu,2001-01-01",  # self-report
        "A3,Zoë O’Neill,Third root,1,Trust,,Dublin,Ireland,Europe,Europe/Dublin,",
        "C1,Ida Loop,Director,2,Loop,C2,Paris,France,Europe,Europe/Paris,",  # a cycle of three
        "C2,Udo Loop,Director,2,Loop,C3,Paris,France,Europe,Europe/Paris,",
        "C3,Ada Loop,Director,2,Loop,C1,Paris,France,Europe,Europe/Paris,",
        "M1,No Boss Row,Director,2,Lost,GONE,London,United Kingdom,Europe,Europe/London,",
        "U1,No Level,Expert,,Lost,A1,London,United Kingdom,Europe,Europe/London,",
        "U2,No Department,Director,1,,A1,London,United Kingdom,Europe,Europe/London,",
        "U3,No Zone,Director,1,Lost,A1,,,,,",
        "U4,Odd Zone,Director,1,Lost,A1,,,,Mars/Base,someday",
        "A1,Again,Chief,0,Board,,,,,,",  # a duplicate id
        ",Nobody,Ghost,5,Lost,A1,,,,,",  # no id
        "V1,Vacant,Head,3,Lost,A1,London,United Kingdom,Europe,Europe/London,",
        'Q1,"Quoted, Comma ""Q""",Director,2,"Sales, East",A3,Oslo,Norway,Europe,Europe/Oslo,',
    ]
    zones = ("Europe/London", "Asia/Kolkata", "Europe/Berlin", "Africa/Lagos")
    for number in range(12):
        zone, boss = zones[number % 4], ("A1", "A3", "C1", "M1")[number % 4]
        rows.append(
            f"S{number},Senior {number} Ñ,Director,2,Dept {number % 5},{boss},,,Europe,{zone},"
        )
    for number in range(40):
        zone, boss = zones[number % 4], f"S{number % 12}"
        level, department = 5 + number % 3, f"Dept {number % 7}"
        rows.append(f"J{number},Júnior {number},Analyst,{level},{department},{boss},,,,{zone},")
    return HEADER + "\n".join(rows) + "\n"


@pytest.mark.timeout(300)
def test_a_dirty_roster_lives_its_year_and_every_figure_and_round_can_be_recomputed(
    tmp_path: Path,
) -> None:
    roster = tmp_path / "dirty.csv"
    roster.write_text(dirty_roster())
    run = DemoRun(tmp_path / "run", roster=roster, mentors=40, mentees=12, months=3)
    summary = run.finish()
    run.check()
    _run_its_rounds_again(run.events(), tmp_path)
    assert set(summary["violations"].values()) == {0}
    assert summary["events"]["pair-rotated"] > 0
    assert summary["events"]["feedback-submitted"] > 0
    assert sum(summary["refused"].values()) == 50


def upward(*arguments: object) -> tuple[int, str]:
    """Run a command; return its exit code and what it said."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def _run_its_rounds_again(log: Path, tmp_path: Path) -> None:
    """Each round of the log gives the same proposals again, and the same bytes every time."""
    rounds: list[dict[str, Any]] = []
    proposed: dict[str, set[tuple[str, tuple[str, ...], int]]] = defaultdict(set)
    for line in log.read_text().splitlines():
        event = json.loads(line)
        data = event["data"]
        if event["type"] == "upward.round-completed.v1":
            rounds.append(data)
        elif event["type"] == "upward.pair-proposed.v1":
            mentees = tuple(side["participant_id"] for side in data["mentees"])
            pair = data["mentor"]["participant_id"], mentees, data["score"]
            proposed[data["round_id"]].add(pair)
    pool, policy = tmp_path / "pool.ndjson", tmp_path / "policy.toml"
    pairs, report = tmp_path / "pairs.ndjson", tmp_path / "report.json"
    files = ("--policy", policy, "--out", pairs, "--report", report)
    assert rounds
    for told in rounds:
        arguments = ("--round", told["round_id"], "--out", pool, "--policy", policy)
        code, said = upward("match", "round", log, *arguments)
        assert code == 0, said
        assert upward("match", pool, "--seed", told["seed"], *files)[0] == 0
        first = pairs.read_bytes(), report.read_bytes()
        found = [json.loads(line) for line in first[0].splitlines()]
        again = {(one["mentor_id"], tuple(one["mentee_ids"]), one["score"]) for one in found}
        assert again == proposed[told["round_id"]]
        assert upward("match", pool, "--seed", told["seed"], *files)[0] == 0
        assert (pairs.read_bytes(), report.read_bytes()) == first
    code, said = upward("match", "round", log, "--round", "r", "--out", pool, "--policy", policy)
    assert (code, "does not tell the end of a round r" in said.replace("\n", " ")) == (1, True)
