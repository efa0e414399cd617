"""The summary's figures: none can be wrong, missing, invented or shown against the threshold."""

import json
from pathlib import Path

import pytest

from tests.checker.__main__ import main
from tests.checker.check import check
from tests.checker.expected import KpiRow, Summary, valid_summary
from tests.checker.kpis import compute
from tests.checker.reading import MalformedError, instant, read
from tests.checker.replay import replay
from tests.checker.report import Report
from tests.checker.summary import compare_rows
from tests.checker.synthetic import AS_OF, PROGRAM, dump, valid_log

_LINES = dump(valid_log())
_WORLD = replay(read(_LINES, Report()))
_RECOMPUTED = compute(_WORLD, PROGRAM, instant(AS_OF))
_ROWS = range(len(valid_summary()["kpis"]))


def _differences(summary: Summary) -> int:
    report = check(_LINES, summary)
    assert not report.violations
    return len(report.differences)


def _row_differences(summary: Summary) -> int:
    report = Report()
    compare_rows(_RECOMPUTED, summary, report)
    return len(report.differences)


def _shown(row: KpiRow) -> bool:
    return bool(row["shown"])


@pytest.mark.parametrize("figure", ["value", "n", "low", "high"])
def test_no_figure_of_any_row_can_differ(figure: str) -> None:
    for place in _ROWS:
        for factor in (1 + 1e-6, 0, -1):
            summary = valid_summary()
            row = summary["kpis"][place]
            if row[figure] is not None:
                row[figure] *= factor
                assert _row_differences(summary) == 1, row


@pytest.mark.parametrize("figure", ["value", "n", "low", "high"])
def test_no_figure_can_be_given_where_there_is_none_or_kept_back_where_there_is(
    figure: str,
) -> None:
    for place in _ROWS:
        summary = valid_summary()
        row = summary["kpis"][place]
        row[figure] = 1 if row[figure] is None else None
        assert _row_differences(summary) == 1, row


def test_no_hidden_row_can_be_shown_and_no_shown_row_hidden() -> None:
    for place in _ROWS:
        summary = valid_summary()
        row = summary["kpis"][place]
        row["shown"] = not _shown(row)
        assert _row_differences(summary) == 1, row


def test_a_hidden_row_says_why() -> None:
    reasons = ["fewer than 3 people", "would reveal a hidden figure", "fewer than 5 people", None]
    for place in _ROWS:
        for reason in reasons:
            summary = valid_summary()
            row = summary["kpis"][place]
            if row["why_hidden"] != reason:
                row["why_hidden"] = reason
                assert _row_differences(summary) == 1, row


def test_no_row_can_be_missing_or_come_twice() -> None:
    for place in _ROWS:
        summary = valid_summary()
        row = summary["kpis"].pop(place)
        assert _row_differences(summary) == 1, row
        summary["kpis"] += [row, row]
        assert _row_differences(summary) == 1, row


@pytest.mark.parametrize(
    "change",
    [
        {"period": "2024-12"},
        {"kpi": "fairness"},
        {"unit": "percent"},
        {"breakdown": {"region": "europe", "role": "mentee"}},
        {"breakdown": {"topic": "ai"}},
    ],
)
def test_no_row_can_be_invented(change: KpiRow) -> None:
    summary = valid_summary()
    summary["kpis"].append(summary["kpis"][0] | change)
    assert _differences(summary) == 1


def test_a_row_of_another_program_is_found() -> None:
    summary = valid_summary()
    summary["kpis"][0]["program"] = "prog-2"
    assert _differences(summary) == 1


def test_a_row_without_all_its_fields_is_found() -> None:
    summary = valid_summary()
    del summary["kpis"][0]["low"]
    assert _differences(summary) == 2


def test_every_count_of_events_is_compared() -> None:
    for name in valid_summary()["events"]:
        for wrong in (0, 1000):
            summary = valid_summary()
            summary["events"][name] = wrong
            assert _differences(summary) == 1, name
    summary = valid_summary()
    summary["events"]["erased"] = 1
    assert _differences(summary) == 1


def test_a_violation_that_the_summary_itself_tells_is_found() -> None:
    summary = valid_summary()
    summary["violations"]["C11"] = 1
    assert _differences(summary) == 1
    del summary["violations"]
    assert _differences(summary) == 1


def test_the_program_of_the_summary_is_in_the_log() -> None:
    assert _differences(valid_summary() | {"program": "prog-2"}) == 1


def test_a_pair_still_active_counts_until_the_summary_was_taken() -> None:
    assert _differences(valid_summary() | {"as_of": "2025-04-28T00:00:01.000000Z"}) > 0


def test_a_summary_without_its_time_cannot_be_checked() -> None:
    with pytest.raises(MalformedError):
        check(_LINES, valid_summary() | {"as_of": "2025-04-28"})


def test_the_command_tells_what_differs_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events, summary = tmp_path / "events.ndjson", tmp_path / "summary.json"
    events.write_text("\n".join(_LINES) + "\n")
    summary.write_text(json.dumps(valid_summary()))
    assert main([str(events), str(summary)]) == 0
    assert "no violation" in capsys.readouterr().out

    last = json.loads(_LINES[-1])
    again = json.dumps(last | {"logoffset": last["logoffset"] + 1})
    events.write_text("\n".join([*_LINES, again]) + "\n")
    assert main([str(events), str(summary), "--allow-redelivery"]) == 0
    assert main([str(events), str(summary)]) == 1
    assert last["id"] in capsys.readouterr().out
