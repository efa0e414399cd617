"""Figures from buckets, against values worked out by hand."""

import pytest

from services.reporting.kpis import formulas
from services.reporting.kpis.bucket import SCORE_UNIT, Bucket
from services.reporting.kpis.formulas import Figure, Slice

DAY = 86_400


def of(bucket: Bucket, until: int = 0) -> Slice:
    return Slice(bucket, cadence_days=14, until=until)


def test_participation_sums_the_roles_and_counts_people_once() -> None:
    bucket = {
        "rosters:mentor": 1,
        "rosters:mentee": 1,
        "eligible:mentor": 90,
        "eligible:mentee": 10,
        "participants:mentor": 12,
        "participants:mentee": 8,
        "participants": 17,
    }

    assert formulas.participation(of(bucket)) == Figure(0.2, 100, people=17)


def test_participation_waits_for_the_roster_of_a_role() -> None:
    mentors = {"rosters:mentor": 1, "eligible:mentor": 90, "participants:mentor": 9}

    assert formulas.participation(of({"participants": 9, "participants:mentor": 9})) is None
    assert formulas.participation(
        of(mentors | {"participants": 14, "participants:mentee": 5})
    ) == Figure(0.1, 90, people=9)


def test_participation_of_nobody_eligible_is_a_row_all_the_same() -> None:
    assert formulas.participation(of({"rosters:mentor": 1})) == Figure(0.0, 0, people=0)


def test_match_rate_is_matched_of_the_pool() -> None:
    assert formulas.match_rate(of({"matched": 30, "pooled": 40})) == Figure(0.75, 40, people=40)


@pytest.mark.parametrize(
    ("waits", "median", "p90"),
    [
        ({"waited:3": 1}, 3, 3),
        ({"waited:3": 1, "waited:9": 1}, 3, 9),
        ({"waited:1": 5, "waited:2": 4, "waited:30": 1}, 1, 2),
        ({"waited:0": 1, "waited:7": 9, "waited:40": 1}, 7, 7),
        # ceil(0.9 · 10) is 9; in binary floats 0.9 · 10 would be over it.
        ({f"waited:{day}": 1 for day in range(1, 11)}, 5, 9),
    ],
)
def test_quantiles_are_the_nearest_rank(waits: Bucket, median: int, p90: int) -> None:
    middle = formulas.time_to_match_median(of(waits))
    late = formulas.time_to_match_p90(of(waits))

    assert middle is not None
    assert late is not None
    assert (middle.value, late.value) == (median, p90)
    assert middle.n == late.n == sum(waits.values())


def test_acceptance_carries_wilsons_interval() -> None:
    figure = formulas.acceptance(of({"accepted": 45, "declined": 5, "answerers": 48}))

    assert figure is not None
    assert (figure.value, figure.n, figure.people) == (0.9, 50, 48)
    # Newcombe's calculator gives 0.7864 to 0.9565.
    assert figure.low == pytest.approx(0.78640, abs=1e-5)
    assert figure.high == pytest.approx(0.95652, abs=1e-5)


def test_cadence_expects_sessions_only_of_active_time() -> None:
    # One pair: active from day 0, paused from day 14 to day 28, and until now, day 42.
    bucket = {
        "began": 1,
        "held": 3,
        "starts": 2,
        "starts_at": 0 + 28 * DAY,
        "stops": 1,
        "stops_at": 14 * DAY,
    }

    assert formulas.cadence(of(bucket, until=42 * DAY)) == Figure(1.5, 3, people=1)


def test_cadence_of_a_month_knows_the_pairs_that_began_before() -> None:
    # Since day 0 and never ended; the month is days 28 to 56.
    slice_ = Slice(
        {"held": 1},
        cadence_days=14,
        until=56 * DAY,
        since=28 * DAY,
        before={"began": 1, "starts": 1, "starts_at": 0},
    )

    assert formulas.cadence(slice_) == Figure(0.5, 1, people=1)


def test_cadence_without_active_time_or_sessions_is_no_figure() -> None:
    assert formulas.cadence(of({"held": 2}, until=DAY)) is None
    assert formulas.cadence(of({"began": 1, "starts": 1}, until=DAY)) is None


def test_satisfaction_is_the_share_of_four_and_five_and_the_mean() -> None:
    bucket = {
        "pulses": 4,
        "satisfied": 3,
        "score_sum": 16 * SCORE_UNIT,
        "respondents": 3,
    }
    share = formulas.satisfaction_share(of(bucket))

    assert share is not None
    assert (share.value, share.n, share.people) == (0.75, 4, 3)
    assert formulas.satisfaction_mean(of(bucket)) == Figure(4.0, 4, people=3)


def test_rotation_is_of_pairs_that_left() -> None:
    assert formulas.rotation(of({"rotated": 6, "ended": 2})) == Figure(0.75, 8, people=8)


@pytest.mark.parametrize(
    "figure",
    [
        formulas.participation,
        formulas.match_rate,
        formulas.time_to_match_median,
        formulas.time_to_match_p90,
        formulas.acceptance,
        formulas.cadence,
        formulas.satisfaction_share,
        formulas.satisfaction_mean,
        formulas.rotation,
    ],
)
def test_without_data_there_is_no_figure(figure: object) -> None:
    assert callable(figure)
    assert figure(of({}, until=DAY)) is None
