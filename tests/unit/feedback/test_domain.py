"""The rules of surveys, answers and pseudonyms."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.feedback.domain import (
    HeldSession,
    Member,
    Pair,
    Program,
    Pseudonyms,
    Response,
    Survey,
)
from services.feedback.instruments import Instrument, Item, instrument_of
from shared.errors import InvalidInputError, RuleViolationError
from shared.events.participants import Role
from shared.events.programs import SurveyPlan
from tests.unit.feedback.builders import PULSE

NOW = datetime(2026, 2, 6, 7, 30, tzinfo=UTC)
PSEUDONYMS = Pseudonyms(b"k" * 32)


def member(name: str, role: Role = "mentor") -> Member:
    return Member(
        participant_id=f"pt_{name}",
        person_id=f"p_{name}",
        role=role,
        department="Digital",
        region=None,
    )


def session(*attended: str) -> HeldSession:
    return HeldSession(
        id="se_1",
        program_id="program",
        pair_id="pr_1",
        attended=attended,
        held_on=date(2026, 2, 5),
    )


def pair() -> Pair:
    return Pair(id="pr_1").form((member("kim"), member("lou", "mentee")))


def survey() -> Survey:
    program = Program(id="program").follow([PULSE], 1)
    (found,) = session("pt_kim").survey(program, pair())
    return found


def test_a_pulse_is_due_a_week_after_the_session_for_each_attending_member() -> None:
    program = Program(id="program").follow([PULSE], 1)

    surveys = session("pt_lou", "pt_stranger", "pt_kim", "pt_kim").survey(program, pair())

    assert [(found.participant_id, found.person_id, found.role) for found in surveys] == [
        ("pt_kim", "p_kim", "mentor"),
        ("pt_lou", "p_lou", "mentee"),
    ]
    assert {found.due_on for found in surveys} == {date(2026, 2, 12)}
    assert {found.state for found in surveys} == {"due"}


def test_who_did_not_attend_is_not_asked() -> None:
    program = Program(id="program").follow([PULSE], 1)

    assert [found.participant_id for found in session("pt_lou").survey(program, pair())] == [
        "pt_lou"
    ]


def test_a_program_without_a_pulse_asks_nothing() -> None:
    plan = SurveyPlan(kind="end", instrument="end", instrument_version=1, day=180)
    program = Program(id="program").follow([plan], 1)

    assert program.known
    assert session("pt_kim").survey(program, pair()) == []


def test_a_program_follows_newer_versions_only() -> None:
    second = Program(id="program").follow([PULSE], 2)

    assert second.follow([], 1) is second
    assert second.follow([], 2) is second
    assert second.follow([], 3).pulse is None


def test_a_program_with_an_unknown_pulse_is_refused_and_what_stood_stands() -> None:
    program = Program(id="program").follow([PULSE], 1)
    unknown = PULSE.model_copy(update={"instrument_version": 99})

    with pytest.raises(InvalidInputError) as refused:
        program.follow([unknown], 2)

    assert refused.value.code == "unknown_instrument"
    assert program.follow([unknown], 1) is program


def test_the_members_of_a_pair_never_change() -> None:
    known = pair()

    assert known.form((member("mallory"),)) is known


def test_a_survey_is_answered_once_and_the_answer_stands() -> None:
    due = survey()
    response = due.answer({"satisfaction": 4}, PSEUDONYMS.response(due), NOW)
    completed = due.complete(response)

    assert (completed.state, completed.response_id) == ("completed", response.id)
    assert completed.complete(response) is completed
    assert response.repeat({"satisfaction": 4}) is response
    with pytest.raises(RuleViolationError, match="an answer stands"):
        response.repeat({"satisfaction": 5})
    with pytest.raises(RuleViolationError, match="an answer stands"):
        completed.complete(response.changed(id="re_other"))


def test_a_response_keeps_the_date_in_utc_and_no_time() -> None:
    late_evening = datetime(2026, 2, 6, 23, 30, tzinfo=timezone(timedelta(hours=-5)))

    response = survey().answer({"satisfaction": 1}, "re_1", late_evening)

    assert response.submitted_on == date(2026, 2, 7)
    assert not any(isinstance(value, datetime) for value in response.model_dump().values())
    assert "session" not in "".join(Response.model_fields)


@given(value=st.integers(1, 5))
def test_an_answer_on_the_scale_is_scored(value: int) -> None:
    response = survey().answer({"satisfaction": value}, "re_1", NOW)

    assert response.scores == {"satisfaction": float(value)}


@given(
    answers=st.dictionaries(st.sampled_from(["satisfaction", "mood"]), st.integers(-9, 9)).filter(
        lambda answers: answers.keys() != {"satisfaction"} or not 1 <= answers["satisfaction"] <= 5
    )
)
def test_any_other_answer_is_refused_naming_the_item_and_the_rule(answers: dict[str, int]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        survey().answer(answers, "re_1", NOW)

    if "mood" in answers:
        expected = ("answers.mood", "unknown_item")
    else:
        expected = ("answers.satisfaction", "out_of_scale" if answers else "missing_item")
    assert (refused.value.field, refused.value.code) == expected


def test_a_scale_is_scored_as_the_mean_of_its_items() -> None:
    def item(item_id: str, scale: str) -> Item:
        pulse = instrument_of("pulse", 1).items[0]
        return pulse.model_copy(update={"item_id": item_id, "scale": scale})

    instrument = Instrument(
        instrument="trial",
        version=1,
        items=(item("first", "ease"), item("second", "ease"), item("third", "trust")),
    )

    assert instrument.score({"first": 2, "second": 5, "third": 1}) == {"ease": 3.5, "trust": 1.0}


def test_a_respondent_is_the_same_within_a_program_and_another_in_the_next() -> None:
    first = survey()
    later = first.changed(id="su_later", session_id="se_2")
    elsewhere = first.changed(program_id="other", participant_id="pt_kim_elsewhere")

    assert PSEUDONYMS.respondent(first) == PSEUDONYMS.respondent(later)
    assert PSEUDONYMS.respondent(first) != PSEUDONYMS.respondent(elsewhere)
    assert PSEUDONYMS.respondent(first) != PSEUDONYMS.respondent(first.changed(program_id="other"))
    assert PSEUDONYMS.response(first) != PSEUDONYMS.response(later)


def test_pseudonyms_depend_on_the_key_and_do_not_print_it() -> None:
    other = Pseudonyms(b"l" * 32)

    assert other.respondent(survey()) != PSEUDONYMS.respondent(survey())
    assert other.response(survey()) != PSEUDONYMS.response(survey())
    assert "kkk" not in repr(PSEUDONYMS)
