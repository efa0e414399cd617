import pytest

from services.matching.domain.round import Round
from services.matching.engine.solve import solve
from shared.errors import RuleViolationError
from tests.unit.matching.builders import NOW, mentee, mentor, policy

RESULT = solve([mentor(), mentee(), mentee("t", level=6)], policy(), seed=1)


def requested() -> Round:
    return Round.request("program", "rotation", "2026-09", NOW)


def test_the_same_occasion_is_the_same_round_and_the_same_seed() -> None:
    assert requested() == requested()
    others = [
        Round.request("program", "round", "2026-09", NOW),
        Round.request("program", "rotation", "2026-10", NOW),
    ]
    assert len({one.id for one in (requested(), *others)}) == 3
    assert len({one.seed for one in (requested(), *others)}) == 3
    assert Round.request("program", "round", "a", NOW, seed=7).seed == 7


def test_a_mentor_has_one_pair_id_in_a_round() -> None:
    assert requested().pair_id("m") == requested().pair_id("m") != requested().pair_id("n")


def test_a_round_that_ran_tells_its_result() -> None:
    done = requested().start("snapshot", NOW).complete(RESULT, NOW)
    event = done.as_completed()
    assert (event.round_id, event.kind, event.seed) == (done.id, "rotation", done.seed)
    assert (event.proposed, event.matched.mentees, event.pool.mentees) == (1, 1, 2)
    assert event.unmatched == {"level_gap": 1}
    assert event.objective == event.bound == RESULT.objective
    assert event.snapshot == "snapshot"
    assert Round.model_validate_json(done.model_dump_json()) == done


def test_repeating_a_transition_of_a_round_changes_nothing() -> None:
    running = requested().start("snapshot", NOW)
    assert running.start("snapshot", NOW) is running
    done = running.complete(RESULT, NOW)
    assert done.complete(RESULT, NOW) is done
    failed = running.fail("timeout", NOW)
    assert failed.fail("crash", NOW) is failed


def test_a_round_that_crashed_starts_again_on_the_pool_of_now() -> None:
    assert requested().start("old", NOW).start("new", NOW).snapshot == "new"


@pytest.mark.parametrize("transition", ["start", "complete", "fail", "as_completed"])
def test_a_finished_round_stays_finished(transition: str) -> None:
    running = requested().start("snapshot", NOW)
    calls = {
        "start": lambda: running.complete(RESULT, NOW).start("snapshot", NOW),
        "complete": lambda: running.fail("crash", NOW).complete(RESULT, NOW),
        "fail": lambda: running.complete(RESULT, NOW).fail("crash", NOW),
        "as_completed": running.as_completed,
    }
    with pytest.raises(RuleViolationError, match="The round is"):
        calls[transition]()
