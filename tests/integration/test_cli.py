"""The command line against a running platform, as an operator types it."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.local.folder import DataFolder
from shared.events.topics import PROGRAMS, TOPICS
from shared.messaging.local_log import LocalLog
from shared.messaging.local_producer import LocalProducer
from tests.support.demo import ROOT, DemoRun

ROSTER = ROOT / "deploy" / "demo" / "roster" / "uk_fco_2011.csv"
PROGRAM = ROOT / "deploy" / "demo" / "program.toml"


def upward(*arguments: str, cwd: Path = ROOT, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deploy.cli", *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextmanager
def serving(run: DemoRun) -> Iterator[tuple[str, str]]:
    """Run a platform; yield the folder and the address that name it."""
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


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[tuple[str, str]]:
    with serving(DemoRun(tmp_path)) as there:
        yield there


async def put_on_log(data: Path, topic: str, value: bytes) -> None:
    log = LocalLog(DataFolder(data).log)
    await log.open()
    await log.create_topics({topic: TOPICS[topic].partitions})
    producer = LocalProducer(log)
    await producer.start()
    await producer.send_and_wait(topic, value, key=b"k")
    await producer.stop()
    await log.close()


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
    denied = upward("doctor", *there, "--json", "--token", token.stdout.strip())
    assert (denied.returncode, "role operator" in denied.stdout) == (1, True)
    refused = upward("rebuild", "--data", data)
    assert refused.returncode == 1
    assert "is in use by process" in " ".join(refused.stderr.split())


def test_events_are_shown_as_they_come_until_ctrl_c(platform: tuple[str, str]) -> None:
    data, url = platform
    command = [sys.executable, "-m", "deploy.cli", "events", "tail", "--data", data]
    tail = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert tail.stdout is not None
    try:
        upward("program", "publish", str(PROGRAM), "--data", data, "--url", url)
        assert "upward.program-published.v1" in tail.stdout.readline()
    finally:
        tail.send_signal(signal.SIGINT)
        assert tail.wait(30) == 0


def test_a_dead_letter_is_shown_stays_until_it_can_be_applied_and_can_be_dropped(
    tmp_path: Path,
) -> None:
    run = DemoRun(tmp_path)
    run.data.mkdir()
    asyncio.run(put_on_log(run.data, PROGRAMS, b"no event"))
    with serving(run) as (data, url):
        there = ("--data", data, "--url", url)
        letter = first_letter("matching", there)
        listed = upward("dlq", "list", *there).stdout
        assert letter["id"] in listed
        assert letter["reason"] == "envelope: specversion is missing"
        shown = json.loads(upward("dlq", "show", "matching", letter["id"], *there).stdout)
        assert shown["reason"] == letter["reason"]
        assert upward("dlq", "retry", "matching", letter["id"], *there).returncode == 1
        assert first_letter("matching", there)["id"] == letter["id"]
        dropped = upward("dlq", "drop", "matching", letter["id"], *there)
        assert "is dropped" in dropped.stdout
        assert json.loads(upward("dlq", "list", "matching", *there, "--json").stdout) == []
    rebuilt = upward("rebuild", "--data", str(run.data))
    assert (rebuilt.returncode, "at the next `upward up`" in rebuilt.stdout) == (0, True)


def test_a_service_without_its_environment_begins_no_platform(tmp_path: Path) -> None:
    refused = upward("serve", "matching", cwd=tmp_path)
    assert refused.returncode == 1
    assert "No variable of a cluster is set, and no folder is named." in refused.stderr
    assert not list(tmp_path.iterdir())


def test_on_a_cluster_a_command_wants_the_token_that_a_folder_would_give() -> None:
    for command in (("dlq", "list"), ("token", "--as", "operator")):
        refused = upward(*command, UPWARD_KAFKA_SERVERS="127.0.0.1:1")
        assert refused.returncode == 1
        assert "UPWARD_TOKEN must be set" in refused.stderr


def test_a_refused_field_is_told_once(platform: tuple[str, str], tmp_path: Path) -> None:
    data, url = platform
    there, wrong = ("--data", data, "--url", url), tmp_path / "wrong.toml"
    upward("program", "publish", str(PROGRAM), *there)
    text = PROGRAM.read_text()
    wrong.write_text(text.replace('title = "', 'title = 7 # "', 1))
    refused = upward("program", "publish", str(wrong), *there)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error ")
    assert refused.stderr.count("title: ") == 1


def first_letter(service: str, there: tuple[str, ...]) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        letters = json.loads(upward("dlq", "list", service, *there, "--json").stdout)
        if letters:
            return dict(letters[0])
    raise AssertionError(f"{service} has no dead letter")


def test_the_contract_is_written_anew_from_the_code(tmp_path: Path) -> None:
    # A copy: other tests compare what stands here.
    for part in ("deploy", "services", "shared"):
        shutil.copytree(ROOT / part, tmp_path / part)
    contract = tmp_path / "shared" / "events" / "asyncapi.json"
    written = contract.read_bytes()
    contract.unlink()

    for said in ("1 files changed.", "0 files changed."):
        done = upward("contracts", "export", cwd=tmp_path)
        assert (done.returncode, done.stdout.strip()) == (0, said), done
    assert contract.read_bytes() == written


@pytest.mark.slow
def test_the_bus_is_measured_beside_bare_inserts() -> None:
    done = upward("bench", "bus", "--json")

    assert done.returncode == 0, done
    assert all(float(figure) > 0 for figure in json.loads(done.stdout).values())
