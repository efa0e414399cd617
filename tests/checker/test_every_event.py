"""Whatever is lost, doubled, swapped or late in the log, the checker notices."""

import copy
from collections.abc import Iterator

import pytest

from tests.checker.check import check
from tests.checker.expected import valid_summary
from tests.checker.report import Report
from tests.checker.synthetic import Line, dump, renumber, valid_log


def _check(lines: list[Line], *, allow_redelivery: bool = False) -> Report:
    return check(dump(lines), valid_summary(), allow_redelivery=allow_redelivery)


def _aggregate(line: Line) -> tuple[str, str]:
    return line["source"], line["subject"]


def _neighbors() -> Iterator[tuple[int, int]]:
    """Yield the places of every event that has a successor in its aggregate, and of that."""
    lines = valid_log()
    for place, line in enumerate(lines):
        for later in range(place + 1, len(lines)):
            if _aggregate(lines[later]) == _aggregate(line):
                yield place, later
                break


def _places(renumbered: bool) -> range:
    """Every place; with the offsets left as they were, which give it away, every fifth will do."""
    return range(0, len(valid_log()), 1 if renumbered else 5)


def test_the_hand_made_log_and_the_hand_made_summary_agree() -> None:
    report = _check(valid_log())
    assert report.ok, report.lines()


@pytest.mark.parametrize("renumbered", [False, True])
def test_no_event_can_be_dropped(renumbered: bool) -> None:
    unnoticed = []
    for place in _places(renumbered):
        lines = valid_log()
        dropped = lines.pop(place)
        if renumbered:
            renumber(lines)
        if _check(lines).ok:
            unnoticed.append(dropped)
    assert unnoticed == []


@pytest.mark.parametrize("renumbered", [False, True])
def test_no_event_can_be_doubled(renumbered: bool) -> None:
    unnoticed = []
    # A second id is seen alike wherever it stands: every third place will do.
    for place in _places(renumbered)[::3]:
        lines = valid_log()
        lines.append(copy.deepcopy(lines[place]))
        if renumbered:
            renumber(lines)
        if _check(lines).violations["once"] != 1:
            unnoticed.append(lines[place])
    assert unnoticed == []


@pytest.mark.parametrize("renumbered", [False, True])
def test_no_event_can_be_swapped_with_the_next_of_its_aggregate(renumbered: bool) -> None:
    places = list(_neighbors())
    unnoticed = []
    for first, second in places:
        lines = valid_log()
        lines[first], lines[second] = lines[second], lines[first]
        if renumbered:
            renumber(lines)
        if _check(lines).violations["order"] == 0:
            unnoticed.append(lines[first])
    assert unnoticed == []
    assert len(places) > 60


def _one_of_each_type() -> list[int]:
    """Return the place of the first event of every type."""
    first: dict[str, int] = {}
    for place, line in enumerate(valid_log()):
        first.setdefault(line["type"], place)
    return list(first.values())


def _last_of_its_partition(lines: list[Line], place: int) -> int:
    partition = lines[place]["logtopic"], lines[place]["logpartition"]
    return max(
        later
        for later, line in enumerate(lines)
        if (line["logtopic"], line["logpartition"]) == partition
    )


def test_no_event_can_be_late_in_its_partition() -> None:
    tried = 0
    for place in range(0, len(valid_log()), 5):
        lines = valid_log()
        last = _last_of_its_partition(lines, place)
        if last > place:
            lines.insert(last, lines.pop(place))
            assert _check(lines).violations["offset"] > 0
            tried += 1
    assert tried > 20


@pytest.mark.parametrize("place", _one_of_each_type())
def test_an_identical_copy_is_allowed_where_redelivery_is(place: int) -> None:
    lines = valid_log()
    lines.append(copy.deepcopy(lines[place]))
    renumber(lines)
    report = _check(lines, allow_redelivery=True)
    assert report.ok, report.lines()


@pytest.mark.parametrize("place", _one_of_each_type())
def test_a_copy_that_says_something_else_is_never_allowed(place: int) -> None:
    lines = valid_log()
    other = copy.deepcopy(lines[place])
    other["data"]["extra"] = 1
    lines.append(other)
    renumber(lines)
    assert _check(lines, allow_redelivery=True).violations == {"once": 1}


@pytest.mark.parametrize("place", _one_of_each_type())
def test_an_event_can_be_dropped_no_more_where_redelivery_is_allowed(place: int) -> None:
    lines = valid_log()
    del lines[place]
    renumber(lines)
    assert not _check(lines, allow_redelivery=True).ok


@pytest.mark.parametrize("place", _one_of_each_type())
def test_no_event_can_be_doubled_under_a_new_id(place: int) -> None:
    lines = valid_log()
    lines.append(copy.deepcopy(lines[place]) | {"id": "another"})
    renumber(lines)
    assert _check(lines).violations["order"] == 1
