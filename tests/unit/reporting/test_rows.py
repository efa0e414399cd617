"""Rows of a breakdown, and the attacker who subtracts them."""

from hypothesis import given
from hypothesis import strategies as st

from services.reporting.kpis.bucket import SCORE_UNIT, Bucket
from services.reporting.kpis.rows import Row, rows

DAY = 86_400
JANUARY = 1_767_225_600  # 2026-01-01T00:00Z


def pulses(people: int) -> Bucket:
    return {
        "pulses": people,
        "satisfied": people // 2,
        "score_sum": 4 * people * SCORE_UNIT,
        "respondents": people,
    }


def by_department(people: dict[str, int]) -> dict[str, Row]:
    buckets = {name: pulses(count) for name, count in people.items() if count}
    found = rows("department", buckets, as_of=JANUARY, cadence_days=14, threshold=5)
    return {row.value: row for row in found if row.kpi.unit == "mean_1_to_5"}


def test_rows_stand_in_the_order_of_the_kpis_then_of_the_values() -> None:
    buckets = {"Sales": pulses(9), "Finance": pulses(9)}
    found = rows("department", buckets, as_of=JANUARY, cadence_days=14, threshold=5)

    assert [(row.kpi.unit, row.value) for row in found] == [
        ("share", "Finance"),
        ("share", "Sales"),
        ("mean_1_to_5", "Finance"),
        ("mean_1_to_5", "Sales"),
    ]


def test_a_hidden_row_has_no_figure_but_a_reason() -> None:
    found = by_department({"Finance": 9, "Legal": 2, "Sales": 30})

    assert found["Legal"].figure is None
    assert found["Legal"].why_hidden == "fewer than 5 people"
    assert found["Finance"].figure is None
    assert found["Finance"].why_hidden == "would reveal a hidden figure"
    assert found["Sales"].figure is not None


def test_totals_know_only_the_threshold() -> None:
    (share, _) = rows("all", {"": pulses(4)}, as_of=JANUARY, cadence_days=14, threshold=5)

    assert share.why_hidden == "fewer than 5 people"


def test_a_kpi_has_no_row_in_a_dimension_that_it_is_not_defined_for() -> None:
    bucket = {"rotated": 9, "matched": 9, "pooled": 9, "rosters:mentor": 1}
    names = {
        kind: {
            row.kpi.name
            for row in rows(kind, {"2026-01": bucket}, as_of=JANUARY, cadence_days=14, threshold=5)
        }
        for kind in ("role", "region", "month")
    }

    assert names["role"] == {"participation", "match_rate"}
    assert names["region"] == {"rotation"}
    assert names["month"] == {"match_rate", "rotation"}


def test_a_months_active_time_ends_with_it_or_with_the_present() -> None:
    # Five pairs from January 1 on; a session each in January and one each in February.
    buckets = {
        "2026-01": {"began": 5, "starts": 5, "starts_at": 5 * JANUARY, "held": 5},
        "2026-02": {"held": 5},
    }
    as_of = JANUARY + (31 + 14) * DAY
    found = rows("month", buckets, as_of=as_of, cadence_days=14, threshold=5)
    values = {row.value: row.figure.value for row in found if row.figure is not None}

    assert values == {"2026-01": 14 / 31, "2026-02": 1.0}


def test_a_month_at_the_calendars_end_can_be_answered() -> None:
    assert rows("month", {"9999-12": pulses(9)}, as_of=JANUARY, cadence_days=14, threshold=5)


@given(st.dictionaries(st.sampled_from("ABCDEFGH"), st.integers(1, 12), min_size=1))
def test_the_total_less_what_is_shown_never_tells_of_few_people(people: dict[str, int]) -> None:
    found = by_department(people)
    shown = [name for name, row in found.items() if row.figure is not None]
    rest = sum(people.values()) - sum(people[name] for name in shown)

    assert rest == 0 or rest >= 5 or not shown
    assert len(people) - len(shown) != 1 or not shown
