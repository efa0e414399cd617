"""Libraries' lines among ours: as JSON, and not the same one ten times a second."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from shared.logging import LibraryLines, configure_logging, take_over_libraries


class Lines:
    """A library's logger by a clock of the test's own."""

    def __init__(self, stream: io.StringIO) -> None:
        self.time = 100.0
        self.logger = logging.getLogger("somebody.elses")
        self.logger.addHandler(LibraryLines(lambda: self.time))
        self._stream = stream

    def written(self) -> list[dict[str, object]]:
        found = [json.loads(line) for line in self._stream.getvalue().splitlines()]
        self._stream.truncate(0)
        self._stream.seek(0)
        return found


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logging()
    found = Lines(stream)
    yield found
    found.logger.handlers.clear()
    structlog.reset_defaults()


def test_a_library_s_line_is_json_with_its_name(lines: Lines) -> None:
    lines.logger.warning("no node %s", 7)
    (line,) = lines.written()
    assert line.pop("timestamp")
    assert line == {"event": "no node 7", "level": "warning", "library": "somebody.elses"}


def test_lines_of_one_text_are_written_once_in_ten_seconds_with_how_many_were_left_out(
    lines: Lines,
) -> None:
    for _ in range(50):
        lines.logger.warning("no node %s", 1)
        lines.time += 0.1
    lines.logger.error("something else")
    assert [line["event"] for line in lines.written()] == ["no node 1", "something else"]
    lines.time += 10
    lines.logger.warning("no node %s", 2)
    (line,) = lines.written()
    assert (line["event"], line["left_out"]) == ("no node 2", 49)


def test_texts_without_end_are_not_kept(lines: Lines) -> None:
    for number in range(5000):
        lines.logger.warning(f"no node {number}")
    (handler,) = lines.logger.handlers
    assert isinstance(handler, LibraryLines)
    assert len(handler._written) <= 1000
    assert len(lines.written()) == 5000


def test_who_logs_never_fails_for_it(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    lines.logger.warning("bad %d", "no number")
    lines.logger.log(35, "between two levels")
    (line,) = lines.written()
    assert (line["event"], line["level"]) == ("between two levels", "warning")


@pytest.mark.parametrize(("level", "lowest"), [("DEBUG", "WARNING"), ("ERROR", "ERROR")])
def test_libraries_never_tell_what_is_below_a_warning(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, level: str, lowest: str
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    take_over_libraries(level)
    assert logging.getLevelName(root.level) == lowest
    lines.logger.handlers.clear()
    lines.logger.debug("the password is hunter2")
    lines.logger.error("no node")
    assert [line["event"] for line in lines.written()] == ["no node"]


def test_every_exception_is_told_even_under_one_text(lines: Lines) -> None:
    for error in (LookupError("first"), LookupError("second")):
        lines.logger.error("failed", exc_info=error)
    assert ["first" in str(line["exception"]) for line in lines.written()] == [True, False]


def test_a_library_s_exception_is_told_with_its_traceback(lines: Lines) -> None:
    try:
        raise LookupError
    except LookupError:
        lines.logger.exception("failed")
    (line,) = lines.written()
    assert "LookupError" in str(line["exception"])
