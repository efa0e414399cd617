"""The command line against a running platform, as an operator types it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.demo import ROOT, DemoRun

ROSTER = ROOT / "deploy" / "demo" / "roster" / "uk_fco_2011.csv"
PROGRAM = ROOT / "deploy" / "demo" / "program.toml"


def upward(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deploy.cli", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The options that name a running platform: its folder and its address."""
    run = DemoRun(tmp_path)
    command = [sys.executable, "-m", "deploy.cli", "up", "--data", str(run.data)]
    process = subprocess.Popen(
        [*command, "--port", str(run.port)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        run.wait_until_serving(process)
        yield str(run.data), f"http://127.0.0.1:{run.port}"
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_the_commands_of_the_readme_do_what_it_says(platform: tuple[str, str]) -> None:
    data, url = platform
    there = ("--data", data, "--url", url)
    report = json.loads(upward("roster", "import", str(ROSTER), *there, "--json").stdout)
    assert (report["rows"], report["added"], report["refused"]) == (5013, 5013, 0)
    published = json.loads(upward("program", "publish", str(PROGRAM), *there, "--json").stdout)
    assert published["version"] == 1
    token = upward("token", "--as", "participant", "--employee", "FCO-12209", "--data", data)
    assert token.stdout.count(".") == 2
    assert json.loads(upward("dlq", "list", *there, "--json").stdout) == []
    assert "will be published again" in upward("replay", "enrollment", *there).stdout
    assert upward("doctor", *there, "--json").returncode == 0
    refused = upward("rebuild", "--data", data)
    assert refused.returncode == 1
    assert "is in use by process" in " ".join(refused.stderr.split())
