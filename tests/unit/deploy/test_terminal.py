"""What the command line writes arrives whole, and tells a failure once."""

import io
import json
import re
import subprocess
import sys

import pytest
import typer
from aiokafka.errors import GroupAuthorizationFailedError
from rich.console import Console

from deploy.client import Answer, ApiError
from deploy.terminal import print_table, run, whole
from tests.support.demo import ROOT


class FullPipe(io.RawIOBase):
    """Takes a few bytes at a time, as a pipe does whose reader is slow."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        some = bytes(memoryview(data)[:7])  # type: ignore[arg-type]
        self.taken += some
        return len(some)


def test_short_writes_lose_nothing_where_python_does_not_buffer() -> None:
    pipe = FullPipe()
    unbuffered = io.TextIOWrapper(pipe, "utf-8", write_through=True)  # type: ignore[type-var]
    whole(unbuffered).write("a line that is longer\n")
    assert pipe.taken == b"a line that is longer\n"


def test_a_stream_that_is_buffered_stays_as_it_is() -> None:
    buffered = io.TextIOWrapper(io.BytesIO(), "utf-8")
    assert whole(buffered) is buffered


def test_commands_write_through_whole_streams() -> None:
    script = (
        "import sys; from deploy import cli\n"
        "sys.argv = ['upward', 'settings']\n"
        "try: cli.main()\n"
        "except SystemExit: print(*(type(to.buffer).__name__ for to in (sys.stdout, sys.stderr)))"
    )
    ran = subprocess.run(
        [sys.executable, "-u", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "BufferedWriter BufferedWriter"


@pytest.mark.parametrize("width", [20, 60, 80, 100, 120, 200])
def test_a_table_shows_every_character_of_every_cell(width: int) -> None:
    place, reason = "upward.participants.v1/11/1234567", "envelope: specversion is missing"
    headers = ("Service", "Id", "Where", "Reason", "Since")
    letter = ("enrollment", "dl_kbsga72vayig7rhabcdefghijk", place, reason, "2026-01-01 00:00:00")
    written = io.StringIO()
    print_table(headers, [letter], ("Service", "Id"), Console(file=written, width=width))
    _, _, _, *lines, _ = written.getvalue().splitlines()
    cells = [line.split("│")[1:-1] for line in lines]
    shown = ["".join(part) for part in zip(*cells, strict=True)]
    assert [re.sub(r"\s", "", each) for each in shown] == [re.sub(r"\s", "", c) for c in letter]
    assert f" {letter[1]} " in lines[0]
    assert len({len(line) for line in lines}) == 1


async def refused(error: Exception) -> None:
    raise error


def told(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(typer.Exit) as ended:
        run(refused(error))
    assert ended.value.exit_code == 1
    return capsys.readouterr().err


def problem(detail: str, *errors: tuple[str, str]) -> ApiError:
    listed = [{"field": field, "message": message} for field, message in errors]
    return ApiError(
        "POST /x", Answer(422, json.dumps({"detail": detail, "errors": listed}).encode())
    )


def test_a_refusal_tells_each_message_once_and_each_field(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = told(problem("No column x.", ("employee_id", "No column x.")), capsys)
    assert ours.count("No column x.") == ours.count("employee_id") == 1
    parsed = told(problem("title: a string", ("title", "a string")), capsys)
    assert parsed.count("title: a string") == parsed.count("title") == 1
    several = told(problem("2 faults", ("a", "one"), ("b", "two")), capsys)
    assert [line.strip() for line in several.splitlines()[1:]] == ["a: one", "b: two"]


def test_a_right_that_kafka_misses_is_told_with_its_user(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPWARD_KAFKA_SASL_USERNAME", "upward-operator")
    said = told(GroupAuthorizationFailedError("upward.reporting"), capsys)
    assert "The Kafka user upward-operator lacks a right: " in said
    assert "upward.reporting" in said
