"""The demo's year, on a clean roster and on a dirty one, checked by the independent checker."""

from pathlib import Path

import pytest

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
def test_a_dirty_roster_lives_its_year_and_every_figure_can_be_recomputed(tmp_path: Path) -> None:
    roster = tmp_path / "dirty.csv"
    roster.write_text(dirty_roster())
    run = DemoRun(tmp_path / "run", roster=roster, mentors=40, mentees=12, months=3)
    summary = run.finish()
    run.check()
    assert set(summary["violations"].values()) == {0}
    assert summary["events"]["pair-rotated"] > 0
    assert summary["events"]["feedback-submitted"] > 0
    assert sum(summary["refused"].values()) == 50
