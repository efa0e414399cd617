from collections.abc import Callable

import pytest

from services.matching.domain.round import Round, RoundFigures, Tally
from services.matching.engine.fairness import Group
from services.matching.engine.model import Candidate, FoundPair, Result
from services.matching.engine.solve import solve
from shared.errors import RuleViolationError
from shared.events.pairs import RoleCounts
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


def sides(found: FoundPair) -> tuple[Candidate, list[Candidate]]:
    return mentor(found.mentor_id), [mentee(who) for who in found.mentee_ids]


def finished(begun: Round, result: Result = RESULT) -> Round:
    """Return the round with all of its result proposed."""
    tally = Tally()
    for found in result.pairs:
        tally.propose(found, *sides(found))
    return begun.settle("snapshot", result, parts=1, left="left").counted(tally).complete(0, NOW)


def test_a_round_that_ran_tells_its_result() -> None:
    done = finished(requested().start(NOW))
    event = done.as_completed()
    assert (event.round_id, event.kind, event.seed) == (done.id, "rotation", done.seed)
    assert (event.proposed, event.matched.mentees, event.pool.mentees) == (1, 1, 2)
    assert event.unmatched == {"level_gap": 1}
    assert event.objective == event.bound == RESULT.objective
    assert event.snapshot == "snapshot"
    assert Round.model_validate_json(done.model_dump_json()) == done


def pair(mentor_id: str, *mentees: str, score: int, difference: int) -> FoundPair:
    return FoundPair(
        mentor_id=mentor_id,
        mentee_ids=mentees,
        score=score,
        terms={"coverage": score - difference, "difference": difference},
        rules=("veto",),
    )


THREE = (
    pair("a", "b", score=500, difference=100),
    pair("b", "c", score=300, difference=200),
    pair("d", "e", "f", score=800, difference=400),
)
FOUND = Result(
    pairs=THREE,
    unmatched={"g": "level_gap"},
    pool=RoleCounts(mentors=4, mentees=5),
    matched=RoleCounts(mentors=3, mentees=4),
    objective=1600,
    bound=1600,
    gap=0.0,
    mean_dissimilarity=175.0,
    mean_dissimilarity_random=90.0,
)


def figures_without(*dropped: FoundPair, waiting_on: int) -> RoundFigures:
    settled = requested().start(NOW).settle("snapshot", FOUND, parts=2, left="left")
    for part in (THREE[:2], THREE[2:]):
        tally = Tally()
        for found in part:
            if found in dropped:
                tally.drop(found)
            else:
                tally.propose(found, *sides(found))
        settled = settled.counted(tally)
    assert settled.committed.lost == tuple(
        who for found in dropped for who in (found.mentor_id, *found.mentee_ids)
    )
    figures = settled.complete(waiting_on, NOW).figures
    assert figures is not None
    return figures


def test_a_result_of_which_all_is_proposed_is_told_as_it_was_found() -> None:
    figures = figures_without(waiting_on=0)
    assert (figures.matched, figures.unmatched) == (FOUND.matched, {"level_gap": 1})
    assert (figures.proposed, figures.objective, figures.gap) == (3, 1600, 0)
    assert figures.mean_dissimilarity == 175


def test_a_result_without_a_pair_says_what_is_left() -> None:
    left = figures_without(THREE[1], waiting_on=1)
    assert (left.proposed, left.matched) == (2, RoleCounts(mentors=2, mentees=3))
    assert (left.objective, left.bound, left.gap) == (1300, 1600, 1 - 1300 / 1600)
    assert left.mean_dissimilarity == 500 / 3
    assert (left.pool, left.mean_dissimilarity_random) == (FOUND.pool, 90.0)
    assert left.unmatched == {"level_gap": 1, "no_partner_left": 1}


def test_a_circle_is_dropped_as_a_whole() -> None:
    left = figures_without(THREE[2], waiting_on=3)
    assert left.matched == RoleCounts(mentors=2, mentees=2)
    assert left.unmatched == {"level_gap": 1, "no_partner_left": 3}


def test_a_result_without_any_pair_has_nothing_to_average() -> None:
    left = figures_without(*THREE, waiting_on=6)
    assert (left.proposed, left.objective, left.gap) == (0, 0, 1)
    assert left.mean_dissimilarity is None


def test_repeating_an_end_of_a_round_changes_nothing() -> None:
    running = requested().start(NOW)
    done = finished(running)
    assert done.complete(0, NOW) is done
    failed = running.fail("timeout", NOW)
    assert failed.fail("crash", NOW) is failed
    canceled = running.cancel(NOW)
    assert canceled.cancel(NOW) is canceled


def test_a_round_that_is_begun_again_is_another_attempt() -> None:
    assert requested().start(NOW).attempt == 1
    assert requested().start(NOW).start(NOW).attempt == 2


def test_a_round_with_a_result_can_neither_fail_nor_be_called_off() -> None:
    settled = requested().start(NOW).settle("snapshot", RESULT, parts=1, left="left")
    with pytest.raises(RuleViolationError, match="The round is committing"):
        settled.fail("crash", NOW)
    with pytest.raises(RuleViolationError, match="The round is committing"):
        settled.cancel(NOW)


@pytest.mark.parametrize("transition", ["start", "settle", "fail", "cancel", "as_completed"])
def test_a_finished_round_stays_finished(transition: str) -> None:
    running = requested().start(NOW)
    calls: dict[str, Callable[[], object]] = {
        "start": lambda: finished(running).start(NOW),
        "settle": lambda: running.fail("crash", NOW).settle(
            "snapshot", RESULT, parts=1, left="left"
        ),
        "fail": lambda: finished(running).fail("crash", NOW),
        "cancel": lambda: finished(running).cancel(NOW),
        "as_completed": running.as_completed,
    }
    with pytest.raises(RuleViolationError, match="The round is"):
        calls[transition]()


def test_a_round_tells_how_groups_fared_and_hides_the_small_ones() -> None:
    people = [
        *(mentor(f"m{n}", department="Research") for n in range(6)),
        *(mentor(f"n{n}", department="Works") for n in range(7)),
        *(mentor(f"o{n}", department="Legal") for n in range(2)),
        *(mentee(f"s{n}", region="Europe") for n in range(8)),
    ]
    result = solve(people, policy(), seed=1)
    by_id = {person.participant_id: person for person in people}
    tally = Tally()
    for found in result.pairs:
        tally.propose(found, by_id[found.mentor_id], [by_id[who] for who in found.mentee_ids])
    settled = requested().start(NOW).settle("snapshot", result, parts=1, left="left").counted(tally)
    done = settled.complete(0, NOW)
    rows = {Group(row.role, row.dimension, row.value): row for row in done.fairness(5)}
    everybody = rows[Group("mentee", "all", "")]
    assert (everybody.people, everybody.matched) == (8, 8)
    assert everybody.mean_score == result.objective / 8
    assert rows[Group("mentee", "region", "Europe")].matched == 8

    mentors = {
        value: rows[Group("mentor", "department", value)]
        for value in ("Research", "Works", "Legal")
    }
    assert mentors["Works"].people == 7
    assert (mentors["Legal"].people, mentors["Legal"].why_hidden) == (None, "fewer than 5 people")
    # Otherwise the two of Legal were what lacks to the total.
    assert (mentors["Research"].matched, mentors["Research"].why_hidden) == (
        None,
        "would reveal a hidden figure",
    )
    assert sum(done.committed.scores.values()) == len(result.pairs) == 8
    with pytest.raises(RuleViolationError):
        settled.fairness(5)
