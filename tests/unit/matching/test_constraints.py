from typing import Any

import pytest

from services.matching.engine.constraints import applied_rules, unknown_fact, violations
from services.matching.engine.model import Policy
from shared.events.participants import WorkingHours
from tests.unit.matching.builders import mentee, mentor, policy


def broken(
    junior: dict[str, Any] | None = None,
    senior: dict[str, Any] | None = None,
    rules: Policy | None = None,
) -> tuple[str, ...]:
    return violations(mentor(**(junior or {})), [mentee(**(senior or {}))], rules or policy())


def test_nothing_forbids_two_who_meet_every_rule() -> None:
    assert broken() == ()


@pytest.mark.parametrize(("level", "codes"), [(4, ()), (3, ("level_gap",)), (1, ("level_gap",))])
def test_a_mentor_is_junior_by_the_programs_gap_at_least(
    level: int, codes: tuple[str, ...]
) -> None:
    assert broken({"level": level}) == codes


def test_peers_may_pair_where_the_gap_is_zero_but_a_senior_never_mentors_a_junior() -> None:
    assert broken({"level": 2}, rules=policy(min_level_gap=0)) == ()
    assert broken({"level": 1}, rules=policy(min_level_gap=0)) == ("level_gap",)


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_nobody_mentors_in_their_own_reporting_line_at_any_depth(depth: int) -> None:
    above = tuple(f"boss-{step}" for step in range(depth))
    assert broken({"manager_chain": (*above, "person-s")}) == ("reporting_line",)
    # Dirty rosters have seniors who report to juniors; the rule holds both ways.
    assert broken(senior={"manager_chain": (*above, "person-m")}) == ("reporting_line",)


def test_a_cycle_in_a_reporting_line_blocks_only_those_in_it() -> None:
    assert broken({"manager_chain": ("a", "person-m", "a")}) == ()


def test_a_direct_report_breaks_the_line_whatever_else_holds() -> None:
    assert broken({"manager_chain": ("person-s",)}) == ("reporting_line",)


def test_a_pair_bridges_two_departments_unless_the_program_says_otherwise() -> None:
    same = {"department": "Legal"}
    assert broken(same, same) == ("same_department",)
    assert broken(same, same, policy(cross_department=False)) == ()


def test_two_with_the_same_boss_do_not_pair_unless_the_program_says_otherwise() -> None:
    same = {"manager_chain": ("boss", "head")}
    assert broken(same, same) == ("same_boss",)
    assert broken(same, same, policy(different_boss=False)) == ()


def test_no_boss_is_not_the_same_boss() -> None:
    assert broken({"manager_chain": ()}, {"manager_chain": ()}) == ()


def test_regions_are_only_crossed_where_the_program_allows_it() -> None:
    other, unknown = {"region": "apac"}, {"region": None}
    within = policy(cross_region=False)
    assert broken(senior=other) == ()
    assert broken(senior=other, rules=within) == ("cross_region",)
    assert broken(unknown, unknown, within) == ("cross_region",)
    assert broken(rules=within) == ()


def test_a_common_language_is_needed_and_its_variants_are_one() -> None:
    assert broken({"languages": ("en-GB", "fr")}, {"languages": ("de", "EN-us")}) == ()
    assert broken({"languages": ("fr",)}, {"languages": ("de",)}) == ("no_common_language",)
    assert broken({"languages": ()}) == ("no_common_language",)


def test_the_working_hours_of_one_day_overlap_enough() -> None:
    late = {"working_hours": WorkingHours(start="16:00", end="22:00")}
    assert broken(late) == ()
    assert broken(late, rules=policy(min_overlap_minutes=61)) == ("working_hours",)
    assert broken(late, {"timezone": "Asia/Tokyo"}, policy(min_overlap_minutes=0)) == ()


@pytest.mark.parametrize(
    ("field", "code"), [("former_partners", "former_partner"), ("vetoes", "veto")]
)
def test_former_partners_and_vetoes_of_either_one_are_final(field: str, code: str) -> None:
    assert broken({field: ("x", "person-s")}) == (code,)
    assert broken(senior={field: ("person-m",)}) == (code,)


def test_nobody_is_paired_with_themself() -> None:
    assert broken({"person_id": "p"}, {"person_id": "p"}) == ("same_person",)


@pytest.mark.parametrize(
    ("facts", "codes"),
    [
        ({"level": None}, ("level_unknown", "level_gap")),
        ({"department": None}, ("department_unknown", "same_department")),
        ({"timezone": None}, ("timezone_unknown", "working_hours")),
        ({"timezone": "Mars/Phobos"}, ("timezone_unknown", "working_hours")),
    ],
)
def test_an_unknown_fact_satisfies_no_rule(facts: dict[str, Any], codes: tuple[str, ...]) -> None:
    assert unknown_fact(mentor(**facts)) == codes[0]
    assert broken(facts) == codes
    assert broken(senior=facts) == codes


def test_an_unknown_fact_forbids_a_pair_also_where_no_rule_needs_it() -> None:
    relaxed = policy(cross_department=False, min_overlap_minutes=0)
    assert broken({"department": None}, rules=relaxed) == ("department_unknown",)
    assert broken({"timezone": None}, rules=relaxed) == ("timezone_unknown",)


def test_one_mentee_who_may_not_be_there_forbids_the_whole_circle() -> None:
    circle = [mentee("a"), mentee("b", level=5)]
    assert violations(mentor(), circle, policy()) == ("level_gap",)


def test_a_policy_names_the_rules_that_it_applies() -> None:
    relaxed = policy(
        cross_department=False, different_boss=False, cross_region=True, min_overlap_minutes=0
    )
    assert applied_rules(relaxed) == (
        "level_gap", "reporting_line", "no_common_language", "former_partner", "veto",
        "same_person",
    )  # fmt: skip
    assert len(applied_rules(policy(cross_region=False))) == 10
