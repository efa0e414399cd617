"""The KPI page in a real browser: what the API says stands on it, and nothing is refused."""

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests.support.platform import RunningPlatform, running_platform
from tests.support.reporting import analyst, everything, tell
from tests.unit.reporting.builders import PROGRAM, Story, year

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class Page(HTMLParser):
    """What a reader finds: texts by element, exact values, and what is not hidden."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: list[float] = []
        self.text = ""
        self.hidden_ids: set[str] = set()
        self.headings: list[str] = []
        self._heading = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "data":
            self.values.append(float(given["value"] or ""))
        if "hidden" in given:
            self.hidden_ids.add(given.get("id") or "")
        self._heading = tag in ("h1", "h2")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._heading and data.strip():
            self.headings.append(data)
            self._heading = False


class Browser:
    """Headless Chromium, with a profile of its own for each visit."""

    def __init__(self, profiles: Path) -> None:
        self._profiles = profiles
        self._visits = 0

    async def visit(self, url: str) -> tuple[Page, str]:
        """Return the page after its scripts have run, and what the console said."""
        self._visits += 1
        assert CHROMIUM is not None
        process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            f"--user-data-dir={self._profiles / str(self._visits)}",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--dump-dom",
            url,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        html, log = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, log.decode()
        console = [line for line in log.decode().splitlines() if "CONSOLE" in line]
        return Page(html.decode()), "\n".join(console)


@asynccontextmanager
async def serving(running: RunningPlatform) -> AsyncIterator[str]:
    """Serve the platform on a free port of this machine; yield the page's address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(running.platform.app, log_level="warning"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{port}/reporting/"
        finally:
            server.should_exit = True
            await task


def address(page: str, token: str, program: str = PROGRAM) -> str:
    return f"{page}#token={token}&program={program}"


async def test_these_tests_hear_what_the_console_says(tmp_path: Path) -> None:
    _, console = await Browser(tmp_path).visit(
        "data:text/html,<script>console.log('heard')</script>"
    )

    assert "heard" in console


async def test_the_figures_of_the_api_are_on_the_page(tmp_path: Path) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        await tell(running, year(pairs=40).said)
        rows = await everything(await analyst(running))
        async with serving(running) as page:
            url = address(page, running.token("an-analyst", ("analyst",)))
            found, console = await Browser(tmp_path).visit(url)

    # The page's policy refuses nothing of its own: a refusal would be said here.
    assert console == ""
    assert "entry" in found.hidden_ids
    assert "report" not in found.hidden_ids
    shown = [row["value"] for row in rows if row["shown"]]
    assert len(shown) > 40
    assert sorted(found.values) == pytest.approx(sorted(shown), rel=1e-12)
    assert f"95% interval {_percent(rows, 'low')} to {_percent(rows, 'high')}" in found.text
    assert "would reveal a hidden figure" in found.text
    assert found.headings[:2] == ["Program report", "Reverse mentoring"]
    assert {"At a glance", "Month by month", "By role", "By region", "By department"} <= set(
        found.headings
    )
    assert not re.search(r"\b(because of|thanks to|led to|caused|impact)\b", found.text)


def _percent(rows: list[dict[str, Any]], end: str) -> str:
    acceptance = next(row for row in rows if row["kpi"] == "acceptance")
    return f"{acceptance[end]:.0%}"


async def test_a_hidden_total_says_so_and_shows_nothing(tmp_path: Path) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        story = Story()
        story.publish()
        for i in range(3):
            story.pair(story.propose(f"pr_{i}", f"jr{i}", f"sr{i}"))
        story.count_roster(40, 10)
        for i in range(3):
            story.enroll(f"jr{i}", "mentor")
        await tell(running, story.said)
        async with serving(running) as page:
            url = address(page, running.token("an-analyst", ("analyst",)))
            found, console = await Browser(tmp_path).visit(url)

    assert console == ""
    assert "not shown: fewer than 5 people" in found.text
    # Only the waits of six people reach the threshold.
    assert set(found.values) == {3.0, 5.0}


async def test_a_program_without_events_says_that_there_is_nothing_yet(tmp_path: Path) -> None:
    async with running_platform(tmp_path, services=["reporting"]) as running:
        story = Story()
        story.publish()
        await tell(running, story.said)
        async with serving(running) as page:
            url = address(page, running.token("an-analyst", ("analyst",)))
            found, console = await Browser(tmp_path).visit(url)

    assert console == ""
    assert "No figures yet" in found.text
    assert "report" in found.hidden_ids


async def test_without_a_valid_token_the_page_says_how_to_get_one(tmp_path: Path) -> None:
    async with (
        running_platform(tmp_path, services=["reporting"]) as running,
        serving(running) as page,
    ):
        browser = Browser(tmp_path)
        first, console = await browser.visit(page)
        refused, _ = await browser.visit(address(page, "nonsense"))
        participant = running.token("a-person", ("participant",))
        other, _ = await browser.visit(address(page, participant))

    assert console == ""
    assert "entry" not in first.hidden_ids
    assert "upward token" in first.text
    assert "entry" not in refused.hidden_ids
    assert "This token is not valid" in refused.text
    assert "report" in refused.hidden_ids
    assert "can’t be shown: This needs one of the roles analyst, coordinator" in other.text
