"""Reporting on a running platform: events in, figures out, to those who may see them."""

import json
import re
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deploy.local.folder import DataFolder, DataFolderInUseError
from deploy.local.rebuild import rebuild_reporting
from services.reporting.kpis.bucket import Bucket, Kind
from services.reporting.repository import DOCUMENTS, buckets
from shared.store.port import Store
from tests.checker.kpis import compute
from tests.checker.reading import read
from tests.checker.replay import replay
from tests.checker.report import Report
from tests.support.platform import json_of, running_platform
from tests.support.reporting import analyst, ask, everything, tell
from tests.unit.reporting.builders import PROGRAM, Said, Story, year

KINDS: tuple[Kind, ...] = ("all", "role", "region", "department", "month")
YEAR = year(pairs=40)


def recomputed(said: Iterable[Said], as_of: datetime) -> dict[object, Any]:
    """Return the rows that the checker, which shares no code with us, makes of the events."""
    lines = []
    for number, each in enumerate(said):
        event = each.envelope.to_cloudevent(json.loads(each.event.model_dump_json()))
        log = {"logtopic": each.event.topic, "logpartition": 0, "logoffset": number}
        lines.append(json.dumps(event | log))
    report = Report()
    world = replay(read(lines, report))
    return {row.key: row for row in compute(world, PROGRAM, as_of)}


async def test_every_row_equals_an_independent_recomputation_from_the_events(
    tmp_path: Path,
) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        await tell(running, YEAR.said)
        rows = await everything(await analyst(running))
        as_of = running.clock.now()

    expected = recomputed(YEAR.said, as_of)
    found = {
        (row["kpi"], row["unit"], tuple(row["breakdown"].items()), row["period"]): row
        for row in rows
    }
    assert len(found) == len(rows)
    assert found.keys() == expected.keys()
    for key, row in found.items():
        other = expected[key]
        assert (row["shown"], row["why_hidden"]) == (other.shown, other.why_hidden), key
        for name in ("value", "n", "low", "high"):
            value = getattr(other, name)
            close = None if value is None else pytest.approx(value, rel=1e-9)
            assert row[name] == close, (key, name)
    assert {row["kpi"] for row in rows if row["shown"]} == {
        "participation",
        "match_rate",
        "time_to_match_median",
        "time_to_match_p90",
        "acceptance",
        "cadence",
        "satisfaction",
        "rotation",
    }
    assert any(row["why_hidden"] == "would reveal a hidden figure" for row in rows)


async def test_pages_of_an_answer_join_to_the_whole(tmp_path: Path) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        await tell(running, YEAR.said)
        client = await analyst(running)

        whole = await ask(client, by="department")
        assert len(whole) > 9
        assert await ask(client, by="department", limit=4) == whole


async def test_months_are_chosen_among_rows_that_are_already_protected(tmp_path: Path) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        await tell(running, YEAR.said)
        client = await analyst(running)

        whole = await ask(client, by="month")
        months = sorted({row["period"] for row in whole})
        for first, last in (*pairwise(months), (months[0], months[-1])):
            chosen = await ask(client, by="month", **{"from": first, "to": last})
            assert chosen == [row for row in whole if first <= row["period"] <= last]
        alone = await ask(client, by="month", **{"from": months[-1]})
        assert alone == [row for row in whole if row["period"] == months[-1]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"by": "none", "from": "2026-01"}, "from"),
        ({"by": "region", "to": "2026-01"}, "to"),
        ({"by": "month", "from": "2026-02", "to": "2026-01"}, "from"),
        ({"by": "month", "from": "2026-13"}, "from"),
        ({"by": "topic"}, "by"),
        ({"by": "none", "cursor": "nonsense"}, "cursor"),
        ({"by": "none", "cursor": "WzAsICJ4Il0="}, "cursor"),
        ({"limit": 0}, "limit"),
        ({"program": "x" * 201}, "program"),
    ],
)
async def test_a_question_that_cannot_be_answered_names_its_field(
    tmp_path: Path, query: dict[str, str], field: str
) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        story = Story()
        story.publish()
        await tell(running, story.said)
        client = await analyst(running)

        response = await client.get("/reporting/v1/kpis", params={"program": PROGRAM} | query)
        problem: dict[str, Any] = json_of(response, 422)

    assert [error["field"] for error in problem["errors"]] == [field]


async def test_only_analysts_and_coordinators_of_a_program_see_its_figures(tmp_path: Path) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        await tell(running, YEAR.said[:100])
        allowed = [await running.client("a", "analyst"), await running.client("c", "coordinator")]
        refused = [
            await running.client("p", "participant"),
            await running.client("h", "hr"),
            await running.client("o", "operator"),
            await running.client("a", "analyst", programs=("another",)),
            await running.client("c", "coordinator", programs=()),
        ]
        query = {"program": PROGRAM}
        for client in allowed:
            json_of(await client.get("/reporting/v1/kpis", params=query))
        for client in refused:
            json_of(await client.get("/reporting/v1/kpis", params=query), 403)
        nobody = await running.anonymous()
        json_of(await nobody.get("/reporting/v1/kpis", params=query), 401)


async def test_programs_are_those_that_the_token_names_and_that_exist(tmp_path: Path) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        for name in ("one", "two", "three"):
            story = Story(program_id=name)
            story.publish(title=f"Program {name}")
            story.publish(version=2, title=f"Program {name}, renewed")
            await tell(running, story.said)
        client = await running.client("a", "analyst", programs=("one", "three", "four"))

        answer = json_of(await client.get("/reporting/v1/programs"))
        assert answer["items"] == [
            {"program_id": "one", "title": "Program one, renewed", "version": 2},
            {"program_id": "three", "title": "Program three, renewed", "version": 2},
        ]
        nobody = await running.client("a", "analyst", programs=())
        assert json_of(await nobody.get("/reporting/v1/programs"))["items"] == []
        json_of(await client.get("/reporting/v1/kpis", params={"program": "four"}), 404)


async def test_without_its_first_version_a_program_shows_nothing(tmp_path: Path) -> None:
    # Version 2 may have a lower threshold than the one that was promised.
    async with running_platform(tmp_path, services=["reporting"]) as running:
        story = Story()
        story.publish(1, thresholds={"scores": 8, "comments": 10})
        story.publish(2, thresholds={"scores": 3, "comments": 10})
        first, second = story.said
        client = await analyst(running)
        query = {"program": PROGRAM}

        await tell(running, [second])
        json_of(await client.get("/reporting/v1/kpis", params=query), 404)
        assert json_of(await client.get("/reporting/v1/programs"))["items"] == []

        await tell(running, [first])
        answer = json_of(await client.get("/reporting/v1/kpis", params=query))
        assert answer["threshold"] == 8


async def test_a_program_without_data_has_no_rows(tmp_path: Path) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        story = Story()
        story.publish()
        await tell(running, story.said)

        assert await everything(await analyst(running)) == []


async def test_figures_follow_at_once_and_open_pairs_grow_older_with_the_clock(
    tmp_path: Path,
) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        story = Story()
        story.publish()
        for i in range(5):
            story.pair(story.propose(f"pr_{i}", f"jr{i}", f"sr{i}"))
        story.go_on(14)
        for i in range(5):
            story.hold(f"pr_{i}", 1)
        await tell(running, story.said)
        client = await analyst(running)
        assert {row["kpi"]: row["value"] for row in await ask(client)}["cadence"] == 1.0

        running.clock.set(story.now.replace(month=story.now.month + 1))
        later = {row["kpi"]: row["value"] for row in await ask(client)}["cadence"]
        assert later == pytest.approx(14 / (14 + 31))


async def test_the_log_read_again_from_its_beginning_gives_the_same_figures(
    tmp_path: Path,
) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        await tell(running, YEAR.said)
        live = await all_buckets(running.platform.services[0].store)
        assert live["all"]

    folder = DataFolder(tmp_path)
    with folder.lock(), pytest.raises(DataFolderInUseError):
        await rebuild_reporting(folder)
    await rebuild_reporting(folder)
    store = running.platform.store("reporting")
    await store.open(DOCUMENTS)
    assert await all_buckets(store) == {kind: {} for kind in KINDS}
    await store.close()

    async with running_platform(tmp_path, services=["reporting"]) as running:
        await running.settle()
        assert await all_buckets(running.platform.services[0].store) == live


async def test_the_page_is_public_and_holds_no_data(tmp_path: Path) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        nobody = await running.anonymous()
        files = {
            "/reporting/": "text/html",
            "/reporting/page.js": "text/javascript",
            "/reporting/page.css": "text/css",
            "/reporting/icon.svg": "image/svg+xml",
        }
        for path, media_type in files.items():
            answer = await nobody.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(media_type)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        page = (await nobody.get("/reporting/")).text
        assert "<script src=" in page
        assert not re.search(r"<script>|<style|style=| on[a-z]+=|https?://(?!www\.w3\.org)", page)


async def all_buckets(store: Store) -> dict[Kind, dict[str, Bucket]]:
    """Return every bucket of the program."""
    return {kind: await buckets(store, PROGRAM, kind) for kind in KINDS}
