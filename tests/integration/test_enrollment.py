"""Enrollment as its callers and its readers see it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.demo import __file__ as demo
from services.enrollment.handlers import store_people
from shared.events.envelope import Event
from shared.events.participants import (
    Departed,
    Enrolled,
    OrgChanged,
    Paused,
    ProfileChanged,
    Resumed,
    RosterCounted,
    TrainingCompleted,
    Withdrawn,
)
from shared.events.programs import ProgramClosed, ProgramPublished
from tests.support.golden import golden
from tests.support.platform import PROGRAM, RunningPlatform, json_of, running_platform
from tests.unit.enrollment.builders import MENTEE, MENTOR, SPEC

REAL = Path(demo).parent / "roster" / "uk_fco_2011.csv"
COLUMNS = "employee_id,name,level,department,manager_id,timezone,leave_date\n"
PATH = "/enrollment/v1"


def roster(*changed: str, juniors: int = 6) -> str:
    """Return a roster: a boss, a head, and juniors below the head; a changed row replaces one."""
    rows = {"BOSS": "BOSS,Zoë Boss,0,Top,,Europe/London,", "HEAD": "HEAD,Li 李,2,Ops,BOSS,UTC,"}
    for number in range(1, juniors + 1):
        rows[f"J{number}"] = f"J{number},Junior {number},5,Digital,HEAD,Europe/London,"
    rows |= {row.partition(",")[0]: row for row in changed}
    return COLUMNS + "\n".join(rows.values()) + "\n"


class Company:
    """A running enrollment with a roster and a program."""

    def __init__(self, platform: RunningPlatform) -> None:
        self.platform = platform
        self.ids: dict[str, str] = {}

    async def start(self) -> None:
        self.hr = await self.platform.client("hr-desk", "hr")
        self.office = await self.platform.client("office", "coordinator")
        await self.import_roster(roster())
        json_of(await self.office.put(f"{PATH}/programs/{PROGRAM}", json=SPEC))

    async def import_roster(self, text: str) -> dict[str, Any]:
        report = json_of(
            await self.hr.post(
                f"{PATH}/roster/imports",
                content=text.encode(),
                headers={"content-type": "text/csv"},
            ),
            201,
        )
        people = (await self.hr.get(f"{PATH}/roster/people", params={"limit": 200})).json()
        self.ids = {person["employee_id"]: person["person_id"] for person in people["items"]}
        return report

    async def client(self, employee_id: str) -> httpx.AsyncClient:
        return await self.platform.person(self.ids[employee_id])

    async def enroll(self, employee_id: str, profile: dict[str, Any] = MENTOR) -> dict[str, Any]:
        client = await self.client(employee_id)
        path = f"{PATH}/programs/{PROGRAM}/participants"
        return json_of(await client.post(path, json=profile), 201)

    async def told(self, kind: type[Event]) -> list[Any]:
        await self.platform.settle()
        return list(self.platform.events(kind))


@pytest.fixture
async def company(tmp_path: Path) -> AsyncIterator[Company]:
    async with running_platform(tmp_path, ["enrollment"]) as platform:
        company = Company(platform)
        await company.start()
        yield company


async def test_a_person_enrolls_trains_pauses_resumes_and_leaves(company: Company) -> None:
    enrolled = await company.enroll("J1")
    assert (enrolled["status"], enrolled["ready"]) == ("enrolled", False)
    me, path = await company.client("J1"), f"{PATH}/participants/{enrolled['participant_id']}"
    json_of(await me.post(f"{path}/training", json={"module": "upward"}))
    ready = json_of(await me.post(f"{path}/training", json={"module": "trust"}))
    assert ready["ready"] is True
    assert json_of(await me.post(f"{path}/pause"))["status"] == "paused"
    assert json_of(await me.post(f"{path}/resume"))["status"] == "enrolled"
    changed = MENTOR | {"languages": ["en", "fr"]}
    assert json_of(await me.put(f"{path}/profile", json=changed))["profile"] != ready["profile"]
    assert json_of(await me.post(f"{path}/withdraw"))["status"] == "withdrawn"
    assert json_of(await me.get(path))["status"] == "withdrawn"
    await company.platform.settle()
    story = [
        (envelope.aggregateversion, type(event))
        for envelope, event in company.platform.records()
        if envelope.subject == enrolled["participant_id"]
    ]
    assert story == list(
        enumerate(
            [
                Enrolled,
                TrainingCompleted,
                TrainingCompleted,
                Paused,
                Resumed,
                ProfileChanged,
                Withdrawn,
            ],
            start=1,
        )
    )
    assert [event.ready for event in company.platform.events(TrainingCompleted)] == [False, True]


async def test_what_was_done_before_is_told_once(company: Company) -> None:
    enrolled = await company.enroll("J1")
    me, path = await company.client("J1"), f"{PATH}/participants/{enrolled['participant_id']}"
    for _ in range(3):
        json_of(await me.post(f"{path}/training", json={"module": "upward"}))
        json_of(await me.post(f"{path}/pause"))
        json_of(await me.put(f"{path}/profile", json=MENTOR))
    for _ in range(2):
        json_of(await me.post(f"{path}/withdraw"))
    assert len(await company.told(TrainingCompleted)) == 1
    assert len(await company.told(Paused)) == 1
    assert len(await company.told(Withdrawn)) == 1
    assert await company.told(ProfileChanged) == []
    json_of(await company.office.put(f"{PATH}/programs/{PROGRAM}", json=SPEC))
    for _ in range(2):
        json_of(await company.office.post(f"{PATH}/programs/{PROGRAM}/close"))
    assert len(await company.told(ProgramPublished)) == 1
    assert len(await company.told(ProgramClosed)) == 1


async def test_taking_part_is_the_person_s_own_choice_alone(company: Company) -> None:
    enrolled = await company.enroll("J1")
    path = f"{PATH}/participants/{enrolled['participant_id']}"
    clients = {
        "colleague": await company.client("J2"),
        "boss": await company.client("BOSS"),
        "coordinator": company.office,
        "hr": company.hr,
        "analyst": await company.platform.client("x", "analyst"),
        "operator": await company.platform.client("x", "operator"),
        "manager with every office": await company.platform.client(
            company.ids["HEAD"], "participant", "coordinator", "hr", "operator", "analyst"
        ),
    }
    for name, client in clients.items():
        for request in (
            client.put(f"{path}/profile", json=MENTOR),
            client.post(f"{path}/training", json={"module": "upward"}),
            client.post(f"{path}/pause"),
            client.post(f"{path}/resume"),
            client.post(f"{path}/withdraw"),
        ):
            assert (await request).status_code in {403, 404}, name
    # Nobody's name is in the request: who asks enrolls, or nobody does.
    enroll = f"{PATH}/programs/{PROGRAM}/participants"
    for client in (company.office, company.hr, clients["operator"]):
        assert (await client.post(enroll, json=MENTOR)).status_code == 403
    for extra in ({"person_id": company.ids["J2"]}, {"participant_id": "x"}):
        me = await company.client("J3")
        assert (await me.post(enroll, json=MENTOR | extra)).status_code == 422
    stranger = await company.platform.person("p_of_nobody")
    assert (await stranger.post(enroll, json=MENTOR)).status_code == 403
    assert len(await company.told(Enrolled)) == 1
    assert json_of(await clients["coordinator"].get(path))["status"] == "enrolled"
    assert (await clients["colleague"].get(path)).status_code == 404


async def test_a_withdrawal_has_no_reason(company: Company) -> None:
    enrolled = await company.enroll("J1")
    me, path = await company.client("J1"), f"{PATH}/participants/{enrolled['participant_id']}"
    for body in ({"reason": "none of your business"}, {"extra": 1}, ["reason"], "reason"):
        assert (await me.post(f"{path}/withdraw", json=body)).status_code == 422
    assert json_of(await me.get(path))["status"] == "enrolled"
    json_of(await me.post(f"{path}/withdraw"))
    (event,) = await company.told(Withdrawn)
    assert set(event.model_dump()) == {"program_id", "participant_id", "person_id", "at"}


async def test_two_enrollments_at_once_are_one(company: Company) -> None:
    client = await company.client("J1")
    path = f"{PATH}/programs/{PROGRAM}/participants"
    answers = await asyncio.gather(*(client.post(path, json=MENTOR) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    assert len(await company.told(Enrolled)) == 1


async def test_the_list_shows_everybody_to_the_office_and_oneself_to_a_participant(
    company: Company,
) -> None:
    for junior in ("J1", "J2", "J3"):
        await company.enroll(junior)
    await company.enroll("HEAD", MENTEE)
    path = f"{PATH}/programs/{PROGRAM}/participants"
    assert len((await company.office.get(path)).json()["items"]) == 4
    (own,) = (await (await company.client("J2")).get(path)).json()["items"]
    assert own["person_id"] == company.ids["J2"]
    other_office = await company.platform.client("o", "coordinator", programs=("another",))
    assert (await other_office.get(path)).json()["items"] == []


async def test_a_move_in_the_organization_is_told_to_whom_it_concerns(company: Company) -> None:
    for junior in ("J1", "J2"):
        await company.enroll(junior)
    report = await company.import_roster(roster("J1,Junior 1,5,Digital,BOSS,Europe/London,"))
    assert report["moved_participants"] == 1
    (event,) = await company.told(OrgChanged)
    assert event.person_id == company.ids["J1"]
    assert event.previous.manager_chain == (company.ids["HEAD"], company.ids["BOSS"])
    assert event.current.manager_chain == (company.ids["BOSS"],)
    # A change further up the line moves everybody below.
    report = await company.import_roster(
        roster("J1,Junior 1,5,Digital,BOSS,Europe/London,", "HEAD,Li 李,2,Ops,,UTC,")
    )
    assert report["moved_participants"] == 1
    assert [event.person_id for event in await company.told(OrgChanged)] == [
        company.ids["J1"],
        company.ids["J2"],
    ]


async def test_who_leaves_the_company_departs_on_that_day_and_may_come_back(
    company: Company,
) -> None:
    await company.enroll("J1")
    leaving = "J1,Junior 1,5,Digital,HEAD,Europe/London,2026-01-09"
    await company.import_roster(roster(leaving))
    assert await company.told(Departed) == []
    company.platform.clock.set(company.platform.clock.now().replace(day=9))
    for _ in range(2):
        await company.import_roster(roster(leaving))
    (event,) = await company.told(Departed)
    assert (event.person_id, str(event.left_on)) == (company.ids["J1"], "2026-01-09")
    client = await company.client("J1")
    path = f"{PATH}/programs/{PROGRAM}/participants"
    assert (await client.post(path, json=MENTOR)).json()["code"] == "departed"
    await company.import_roster(roster())
    await company.enroll("J1")
    assert len(await company.told(Enrolled)) == 2


async def test_the_same_file_again_changes_nothing(company: Company) -> None:
    await company.enroll("J1")
    await company.platform.settle()
    before = company.platform.records()
    report = await company.import_roster(roster())
    assert (report["added"], report["updated"], report["unchanged"]) == (0, 0, 8)
    assert report["moved_participants"] == 0
    await company.platform.settle()
    assert company.platform.records() == before


async def test_an_import_cut_off_in_the_middle_is_repeated_whole(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.enrollment.imports._BATCH", 10)
    calls = 0

    async def fail_later(*args: Any) -> tuple[int, int]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise LookupError
        return await store_people(*args)

    monkeypatch.setattr("services.enrollment.imports.store_people", fail_later)
    text = roster(juniors=45)
    response = await company.hr.post(
        f"{PATH}/roster/imports", content=text.encode(), headers={"content-type": "text/csv"}
    )
    assert response.status_code == 500
    report = await company.import_roster(text)
    assert report["unchanged"] + report["added"] + report["updated"] == 47
    assert len(company.ids) == 47


async def test_small_counts_of_the_roster_are_withheld(company: Company) -> None:
    counts = {event.role: event for event in await company.told(RosterCounted)}
    assert (counts["mentor"].employed, counts["mentor"].left) == (6, None)
    assert (counts["mentee"].employed, counts["mentee"].left) == (None, None)
    await company.import_roster(roster(juniors=9))
    events = await company.told(RosterCounted)
    # Only what changed is told again.
    assert [(event.role, event.employed) for event in events[2:]] == [("mentor", 9)]


async def test_a_dirty_roster_is_used_as_far_as_it_goes(company: Company) -> None:
    text = (
        "\ufeff" + COLUMNS + "A,Ä,1,D,B,UTC,\r\nB,B,1,D,A,UTC,\r\nS,S,3,D,S,UTC,\r\n"
        'N,"No\nlevel",,,gone,,\r\nV,vacant,3,D,A,UTC,\r\nA,Again,1,D,,UTC,\r\n,X,1,D,,UTC,\r\n'
    )
    report = await company.import_roster(text)
    assert (report["rows"], report["added"], report["refused"]) == (7, 5, 2)
    assert report["counts"] == {
        "manager_id: cycle": 2,
        "manager_id: self_report": 1,
        "manager_id: manager_missing": 1,
        "level: missing": 1,
        "department: missing": 1,
        "timezone: missing": 1,
        "name: vacant": 1,
        "employee_id: unique": 1,
        "employee_id: required": 1,
    }
    kept = json_of(await company.hr.get(f"{PATH}/roster/imports/{report['import_id']}"))
    assert kept == report
    enrolled = await company.enroll("A", MENTEE)
    assert enrolled["status"] == "enrolled"
    assert (await company.told(Enrolled))[0].manager_chain == (company.ids["B"],)
    vacant = await company.client("V")
    path = f"{PATH}/programs/{PROGRAM}/participants"
    assert (await vacant.post(path, json=MENTOR)).status_code == 403


async def test_people_are_found_by_employee_id_and_by_hr_alone(company: Company) -> None:
    path = f"{PATH}/roster/people"
    (found,) = (await company.hr.get(path, params={"employee_id": "HEAD"})).json()["items"]
    assert (found["name"], found["manager_person_id"]) == ("Li 李", company.ids["BOSS"])
    for nobody in ("nobody", "a\0b", "' OR 1=1 --"):
        assert (await company.hr.get(path, params={"employee_id": nobody})).json()["items"] == []
    for client in (company.office, await company.client("HEAD")):
        assert (await client.get(path)).status_code == 403


async def test_no_name_and_no_free_text_is_on_the_bus(company: Company) -> None:
    await company.enroll("J1", MENTOR | {"eagerness": "Zaphod explains"})
    await company.enroll("HEAD", MENTEE | {"intent": "Zaphod wonders"})
    await company.platform.settle()
    log = " ".join(event.model_dump_json() for _, event in company.platform.records())
    for personal in ("Zaphod", "Junior 1", "李", "J1", "HEAD", "hr-desk", "office"):
        assert f'"{personal}' not in log
        assert f"{personal} " not in log


async def test_the_events_have_the_fields_of_the_contract(company: Company) -> None:
    await company.enroll("J1")
    for kind in (Enrolled, ProgramPublished, RosterCounted):
        event = (await company.told(kind))[0]
        assert event.model_dump(mode="json").keys() == golden(kind.type())["data"].keys()


async def test_a_real_government_s_roster_is_imported_and_again_changes_nothing(
    company: Company,
) -> None:
    text = REAL.read_text(encoding="utf-8")
    report = await company.import_roster(text)
    assert report["added"] + report["refused"] == report["rows"] > 5000
    again = await company.import_roster(text)
    assert (again["added"], again["updated"]) == (0, 0)
    assert again["unchanged"] == report["added"]
