"""What other rules would bring."""

import pytest

from services.matching.engine import solve as solver
from services.matching.engine.model import RuleCode
from services.matching.engine.solve import solve
from services.matching.engine.watch import UNWATCHED, Progress, Watch
from services.matching.engine.what_if import relaxations, what_if
from tests.unit.matching.builders import mentee, mentor, policy


def test_each_rule_that_a_policy_can_relax_is_relaxed_by_a_step_and_alone() -> None:
    strict = policy(
        min_level_gap=2,
        cross_department=True,
        different_boss=True,
        cross_region=False,
        min_overlap_minutes=20,
    )
    assert dict(relaxations(strict)) == {
        "level_gap": {"min_level_gap": 1},
        "same_department": {"cross_department": False},
        "same_boss": {"different_boss": False},
        "cross_region": {"cross_region": True},
        "working_hours": {"min_overlap_minutes": 0},
    }
    loose = policy(
        min_level_gap=0,
        cross_department=False,
        different_boss=False,
        cross_region=True,
        min_overlap_minutes=0,
    )
    assert not dict(relaxations(loose))


def test_what_a_relaxed_rule_brings_is_what_a_round_under_it_finds() -> None:
    pool = [
        mentor("m1", level=4, department="a"),
        mentor("m2", level=3, department="b"),
        mentee("s1", level=2, department="a"),
        mentee("s2", level=2, department="c"),
    ]
    rules = policy(min_level_gap=2)
    found = {one.rule: one for one in what_if(pool, rules, 1, UNWATCHED)}
    assert solve(pool, rules, 1).matched.mentees == 1
    more: dict[RuleCode, int] = {rule: one.matched.mentees for rule, one in found.items()}
    assert (more["level_gap"], more["same_department"], more["same_boss"]) == (2, 1, 1)
    for one in found.values():
        result = solve(pool, rules.model_copy(update=one.changes), 1)
        assert (one.objective, one.matched) == (result.objective, result.matched)


def test_progress_names_the_rule_that_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "DENSE", 0)
    heard: list[Progress] = []
    rules = policy(min_level_gap=2, cross_department=False)
    what_if([mentor(), mentee()], rules, 1, Watch(hear=heard.append))
    stages = {progress.stage.partition(",")[0] for progress in heard}
    assert stages == {f"what if: {rule}" for rule, _ in relaxations(rules)}
