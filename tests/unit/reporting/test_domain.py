"""Facts: what they learn, in any order, and what they then add to the buckets."""

from collections import Counter
from collections.abc import Iterable
from datetime import date, timedelta
from itertools import accumulate, combinations, permutations

import pytest

from services.reporting.domain import (
    Held,
    PairFact,
    ParticipantFact,
    PersonFact,
    ProgramFact,
    RespondentFact,
    Response,
    RosterFact,
    Sessions,
    add_round,
    seconds,
)
from services.reporting.kpis.bucket import ALL, SCORE_UNIT, WHOLE, Bucket, Cell, Cells, Contribution
from shared.errors import InvalidInputError
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import PairEvent, PairState, RoundCompleted
from shared.events.participants import (
    ParticipantEvent,
    ParticipantState,
    ProfileChanged,
    Role,
    RosterCounted,
)
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from tests.support.golden import golden_event
from tests.unit.reporting.builders import PROGRAM, START, Said, Story


def pair_after(said: Iterable[Said]) -> PairFact:
    fact = PairFact(id="pr_1", program_id=PROGRAM)
    for each in said:
        fact = learned(fact, each)
    return fact


def all_told_by(said: Iterable[Said]) -> Contribution:
    """Return what a pair's fact and its sessions add."""
    fact, found = PairFact(id="pr_1", program_id=PROGRAM), Contribution()
    for each in said:
        fact = learned(fact, each, found)
    fact.add_to(found, 1)
    return found


def learned(fact: PairFact, each: Said, found: Contribution | None = None) -> PairFact:
    if isinstance(each.event, SessionHeld):
        return fact.after_sessions(held(each.event), found or Contribution())
    assert isinstance(each.event, PairState | PairEvent)
    return fact.after(each.event, each.version)


def held(event: SessionHeld) -> Sessions:
    session = Held.of(event)
    return Sessions(session.pair_id, session.program_id, {session.month: 1})


def participant_after(said: Iterable[Said]) -> ParticipantFact:
    fact = ParticipantFact(id="pt_ann", program_id=PROGRAM)
    for each in said:
        assert isinstance(each.event, ParticipantState | ParticipantEvent)
        fact = fact.after(each.event, each.version)
    return fact


def of_response(event: FeedbackSubmitted) -> Contribution:
    found = Contribution()
    response = Response.of(event)
    if response is not None:
        response.add_to(found)
    return found


def of(fact: PairFact | ParticipantFact) -> Contribution:
    """Return what a fact adds to buckets that know nothing of it yet."""
    found = Contribution()
    fact.add_to(found, 1)
    return found


def people(found: Contribution) -> dict[str, dict[tuple[Cell, str], int]]:
    """Return how often each person is seen, cell by cell, where that changes."""
    told: dict[str, Counter[tuple[Cell, str]]] = {}
    for person, sightings in found.people.items():
        for (cells, measure), often in sightings.items():
            for cell in cells.each:
                told.setdefault(person, Counter())[cell, measure] += often
    changed = {
        person: {place: often for place, often in places.items() if often}
        for person, places in told.items()
    }
    return {person: places for person, places in changed.items() if places}


def whole(found: Contribution) -> Bucket:
    return found.by_cell().get(WHOLE, {})


def active_days(found: Contribution, story: Story) -> float:
    bucket, now = whole(found), seconds(story.now)
    return (
        (bucket.get("starts", 0) - bucket.get("stops", 0)) * now
        - bucket.get("starts_at", 0)
        + bucket.get("stops_at", 0)
    ) / 86_400


def pair_with_everything() -> Story:
    """Ten days active, five paused, twenty active, then rotated; three sessions."""
    story = Story()
    proposal = story.propose("pr_1", "ann", "bob")
    story.pair(proposal)
    story.go_on(10)
    story.hold("pr_1", 1)
    story.pause("pr_1")
    story.go_on(5)
    story.resume("pr_1")
    story.go_on(10)
    story.hold("pr_1", 2)
    story.go_on(10)
    story.hold("pr_1", 3)
    story.rotate("pr_1")
    story.go_on(100)
    return story


def test_a_pair_adds_its_wait_its_acceptance_its_sessions_and_its_end() -> None:
    story = pair_with_everything()
    bucket = whole(all_told_by(story.said))

    assert bucket["waited:3"] == bucket["waited:5"] == 1
    assert bucket["accepted"] == bucket["began"] == bucket["left"] == bucket["rotated"] == 1
    assert bucket["held"] == 3


def test_active_time_leaves_out_pauses_and_ends_with_the_pair() -> None:
    story = pair_with_everything()

    assert active_days(of(pair_after(story.said)), story) == 30


def test_a_pair_that_ends_while_paused_stays_inactive() -> None:
    story = Story()
    story.pair(story.propose("pr_1", "ann", "bob"))
    story.go_on(10)
    story.pause("pr_1")
    story.go_on(5)
    story.end("pr_1")
    story.go_on(7)

    assert active_days(of(pair_after(story.said)), story) == 10


def test_a_second_pause_for_another_reason_is_part_of_the_first() -> None:
    story = Story()
    story.pair(story.propose("pr_1", "ann", "bob"))
    story.go_on(10)
    story.pause("pr_1")
    story.go_on(5)
    story.pause("pr_1")
    story.go_on(5)
    story.resume("pr_1")
    story.go_on(1)

    assert active_days(of(pair_after(story.said)), story) == 11


def test_every_order_of_a_pairs_events_gives_the_same_fact() -> None:
    said = [each for each in pair_with_everything().said if not isinstance(each.event, SessionHeld)]
    expected = of(pair_after(said))
    for order in permutations(said):
        found = of(pair_after(order))
        assert (found.by_cell(), people(found)) == (expected.by_cell(), people(expected))


def test_what_a_pair_adds_is_told_from_what_it_added_before() -> None:
    said = pair_with_everything().said
    for order in (said, said[::-1]):
        facts = list(accumulate(order, learned, initial=pair_after(())))
        for before, now in combinations(facts, 2):
            found, expected = Contribution(), Contribution()
            now.add_since(before, found)
            now.add_to(expected, 1)
            before.add_to(expected, -1)
            assert found.by_cell() == expected.by_cell()
            assert people(found) == people(expected)


def test_sessions_before_their_pair_wait_for_it() -> None:
    story = Story()
    story.hold("pr_1", 1)
    early = pair_after(story.said)

    assert of(early).by_cell() == {}

    proposal = story.propose("pr_1", "ann", "bob")
    story.pair(proposal)

    assert whole(of(pair_after(story.said)))["held"] == 1


def test_a_session_counts_once_where_its_pair_started_whenever_it_comes() -> None:
    story = Story()
    proposal = story.propose("pr_1", "ann", "bob")
    moved = proposal.mentees[0].model_copy(update={"department": "Research"})
    story.hold("pr_1", 1)
    story.pair(proposal.model_copy(update={"mentees": (moved,)}))
    story.go_on(40)
    story.hold("pr_1", 2)
    story.hold("pr_1", 3)
    expected = all_told_by(story.said).by_cell()

    held = {cell: counts["held"] for cell, counts in expected.items() if "held" in counts}
    assert held[WHOLE] == held[Cell("department", "Research")] == 3
    assert {cell.value for cell in held if cell.kind == "department"} == {"Research"}
    for order in permutations(story.said):
        assert all_told_by(order).by_cell() == expected


def test_a_session_of_a_pair_that_never_started_counts_nowhere() -> None:
    story = Story()
    story.propose("pr_1", "ann", "bob")
    story.hold("pr_1", 1)
    story.decline("pr_1")
    for order in permutations(story.said):
        assert "held" not in whole(all_told_by(order))


def test_sessions_of_a_started_pair_leave_its_fact_as_it_is() -> None:
    story = Story()
    story.pair(story.propose("pr_1", "ann", "bob"))
    started = pair_after(story.said)
    story.hold("pr_1", 1)

    assert learned(started, story.said[-1]) is started


def test_a_pair_counts_where_its_first_mentee_is() -> None:
    story = Story()
    story.pair(story.propose("pr_1", "ann", "bob", "eve"))
    first = story.side("bob")
    cells = of(pair_after(story.said)).by_cell()

    assert {cell for cell in cells if cell.kind == "department"} == {
        Cell("department", first.department)
    }
    assert {cell for cell in cells if cell.kind == "region"} == {
        Cell("region", first.region or "unknown")
    }


@pytest.mark.parametrize("origin", ["coordinator", "informal", "project"])
def test_only_proposals_of_rounds_and_rotations_count_in_acceptance(origin: str) -> None:
    story = Story()
    story.pair(story.propose("pr_1", "ann", "bob", origin=origin))
    found = of(pair_after(story.said))

    assert "accepted" not in whole(found)
    assert whole(found)["began"] == 1
    assert "pt_bob" in people(found)
    assert all(measure == "waiters" for _, measure in people(found)["pt_bob"])


def test_a_declined_proposal_counts_in_the_month_of_the_answer() -> None:
    story = Story()
    story.propose("pr_1", "ann", "bob")
    story.go_on(40)
    story.decline("pr_1")
    cells = of(pair_after(story.said)).by_cell()

    assert cells[Cell("month", "2026-02")] == {"declined": 1}


def test_a_participant_takes_part_until_the_newest_word_says_otherwise() -> None:
    story = Story()
    story.enroll("ann", "mentor")
    story.withdraw("ann")
    gone = list(story.said)
    story.enroll("ann", "both")
    back = story.said

    for order in permutations(gone):
        assert whole(of(participant_after(order))) == {}
    for order in permutations(back):
        assert whole(of(participant_after(order))) == {
            "participants": 1,
            "participants:mentor": 1,
            "participants:mentee": 1,
        }


def test_a_changed_profile_brings_nobody_back() -> None:
    story = Story()
    story.enroll("ann", "mentor")
    story.withdraw("ann")
    story.enroll("ann", "mentee", ProfileChanged)

    for order in permutations(story.said):
        assert whole(of(participant_after(order))) == {}


def test_the_newest_roster_count_stands() -> None:
    story = Story()
    story.count_roster(100, None)
    story.go_on(1)
    story.count_roster(120, 30)
    counts = [each for each in story.said if isinstance(each.event, RosterCounted)]
    for order in permutations(counts):
        facts: dict[Role, RosterFact] = {}
        for each in order:
            assert isinstance(each.event, RosterCounted)
            role = each.event.role
            known = facts.get(role) or RosterFact.unknown(each.event)
            facts[role] = known.after(each.event, each.version)
        assert {role: fact.employed for role, fact in facts.items()} == {
            "mentor": 120,
            "mentee": 30,
        }


def test_thresholds_are_those_of_the_first_version_and_cadence_that_of_the_newest() -> None:
    story = Story()
    story.publish(1, thresholds={"scores": 8, "comments": 10}, cadence_days=7)
    story.publish(2, thresholds={"scores": 3, "comments": 10}, cadence_days=10)
    story.publish(3, thresholds={"scores": 4, "comments": 10}, cadence_days=30)
    versions = [e.event for e in story.said if isinstance(e.event, ProgramPublished)]
    for first, *others in permutations(versions):
        fact = ProgramFact.published(first)
        for event in others:
            fact = fact.after(event)
        assert (fact.first_version, fact.threshold) == (1, 8)
        assert (fact.newest_version, fact.cadence_days) == (3, 30)


def test_a_person_counts_once_however_often_they_are_seen() -> None:
    person = PersonFact(id="p")
    for often, count in ((1, {"waiters": 1}), (1, {}), (-1, {}), (-1, {"waiters": -1})):
        found = Contribution()
        person = person.changed(**person.changed_by({(ALL, "waiters"): often}, found))
        assert whole(found) == count
    assert not person.times


def test_a_respondent_counts_once_in_each_cell_and_is_then_left_as_they_are() -> None:
    finance, january = Cell("department", "Finance"), Cell("month", "2026-01")
    first = Cells((WHOLE, finance))
    respondent, counts = RespondentFact(id="r"), []
    for answers in ([first, first], [first], [Cells((WHOLE, finance, january))]):
        found = Contribution()
        respondent = respondent.changed(**respondent.changed_by(answers, found))
        counts.append(found.by_cell())
    once = {"respondents": 1}

    assert counts == [{WHOLE: once, finance: once}, {}, {january: once}]
    assert respondent.changed_by([first], Contribution()) == {}


def test_a_round_counts_in_the_month_in_which_it_was_told() -> None:
    event = golden_event(RoundCompleted)
    found = Contribution()
    add_round(found, event, START + timedelta(days=31))
    cells = found.by_cell()

    assert cells[WHOLE] == {"pooled": 6, "matched": 4}
    assert cells[Cell("role", "mentor")] == {"pooled": 3, "matched": 2}
    assert cells[Cell("month", "2026-02")] == cells[WHOLE]


def response(**changes: object) -> FeedbackSubmitted:
    golden = golden_event(FeedbackSubmitted).model_dump()
    return FeedbackSubmitted.model_validate(golden | changes)


def test_a_pulse_counts_where_its_respondent_was() -> None:
    cells = of_response(response(region=None, submitted_on=date(2026, 3, 31))).by_cell()

    assert set(cells) == {
        WHOLE,
        Cell("role", "mentee"),
        Cell("region", "unknown"),
        Cell("department", "Finance"),
        Cell("month", "2026-03"),
    }
    assert cells[WHOLE] == {"pulses": 1, "satisfied": 1, "score_sum": 4.5 * SCORE_UNIT}


@pytest.mark.parametrize("changes", [{"kind": "mid"}, {"scores": {}}, {"scores": {"safety": 4}}])
def test_only_pulses_with_a_satisfaction_count(changes: dict[str, object]) -> None:
    assert of_response(response(**changes)).by_cell() == {}


@pytest.mark.parametrize("score", [0.9, 5.1])
def test_a_score_outside_of_its_scale_is_refused(score: float) -> None:
    with pytest.raises(InvalidInputError, match="1 to 5"):
        of_response(response(scores={"satisfaction": score}))
