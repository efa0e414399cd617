"""The event contract as the checker reads it: topic, subject and fields of every type.

A field is `name:kind`. A kind is a scalar of `reading.SCALARS`, a set of `CODES` or a part of
`PARTS`; `*` means a list of it, `%` an object of it by any key, `?` that it may be null or absent.
"""

from dataclasses import dataclass

CODES: dict[str, frozenset[str]] = {
    name: frozenset(values.split())
    for name, values in {
        "format": "one_to_one circle mixed",
        "mode": "cohort rolling",
        "survey_kind": "start pulse mid end",
        "role": "mentor mentee",
        "enrolled_role": "mentor mentee both",
        "origin": "round rotation coordinator informal project",
        "round_kind": "round rotation",
        "pause_reason": "participant_paused level_gap reporting_line same_department same_boss",
        "rotation_reason": "term request mismatch",
        "end_reason": "completed withdrawn departed org_changed program_closed",
        "scope": "general individuals",
        "meeting": "virtual in_person hybrid",
        "tag": "tech_support ordinary_mentoring",
        "flag": "drift concierge",
    }.items()
}

PARTS: dict[str, str] = {
    "topic": "topic_id:id title:text",
    "survey": "kind:survey_kind instrument:id instrument_version:int day:int?",
    "thresholds": "scores:int comments:int",
    "skill": "topic_id:id proficiency:int",
    "hours": "days:int* start:clock end:clock",
    "org": "level:int? department:text? manager_chain:id*",
    "side": "participant_id:id person_id:id level:int department:text region:text?",
    "term": "term:id points:int text:text",
    "counts": "mentors:int mentees:int",
}

_PARTICIPANT = "participant_id:id person_id:id program_id:id"
_STATE = (
    f"{_PARTICIPANT} role:enrolled_role level:int? department:text? region:text? country:text?"
    " timezone:text? manager_chain:id* teaches:skill* wants:skill* languages:id*"
    " working_hours:hours hired_on:date? ready:bool ready_at:time? enrolled_at:time"
)
_PAIR = "pair_id:id program_id:id"
_PROPOSAL = (
    f"{_PAIR} round_id:id? mentor:side mentees:side* score:int rationale:term* rules:id*"
    " origin:origin expires_at:time"
)
_SESSION = "session_id:id pair_id:id program_id:id"
_PLAN = (
    f"{_SESSION} number:int starts_at:time minutes:int mode:meeting topics:id* agenda_set:bool"
    " agenda_by:id"
)
_CONCERN = "concern_id:id program_id:id at:time"
_VOICE = "id:id program_id:id at:time"

_TYPES: dict[tuple[str, str], dict[tuple[str, str], str]] = {
    ("upward.programs.v1", "enrollment"): {
        ("program-published", "program_id"): (
            "program_id:id version:int title:text topics:topic* format:format circle_capacity:int"
            " cadence_days:int term_days:int proposal_expiry_days:int starts_on:date ends_on:date"
            " mode:mode min_level_gap:int cross_department:bool cross_region:bool"
            " min_overlap_minutes:int surveys:survey* thresholds:thresholds different_boss:bool?"
        ),
        ("program-closed", "program_id"): "program_id:id version:int",
    },
    ("upward.participants.v1", "enrollment"): {
        ("enrolled", "participant_id"): _STATE,
        ("profile-changed", "participant_id"): _STATE,
        ("consent-changed", "participant_id"): f"{_PARTICIPANT} purposes:bool%",
        ("training-completed", "participant_id"): (
            f"{_PARTICIPANT} module:id ready:bool ready_at:time?"
        ),
        ("paused", "participant_id"): f"{_PARTICIPANT} at:time",
        ("resumed", "participant_id"): f"{_PARTICIPANT} at:time",
        ("withdrawn", "participant_id"): f"{_PARTICIPANT} at:time",
        ("org-changed", "participant_id"): f"{_PARTICIPANT} previous:org current:org",
        ("departed", "participant_id"): f"{_PARTICIPANT} left_on:date",
        ("erased", "participant_id"): _PARTICIPANT,
        ("roster-counted", "program_id"): (
            "program_id:id role:role level_band:text? department:text? employed:int? left:int?"
            " as_of:time"
        ),
    },
    ("upward.pairs.v1", "matching"): {
        ("pair-proposed", "pair_id"): _PROPOSAL,
        ("paired", "pair_id"): (f"{_PROPOSAL} started_at:time ends_at:time waited_days:number%"),
        ("pair-declined", "pair_id"): f"{_PAIR} at:time",
        ("pair-expired", "pair_id"): f"{_PAIR} at:time",
        ("pair-paused", "pair_id"): f"{_PAIR} reason:pause_reason at:time",
        ("pair-resumed", "pair_id"): f"{_PAIR} reason:pause_reason at:time",
        ("pair-rotated", "pair_id"): (
            f"{_PAIR} reason:rotation_reason ended_at:time next_round_id:id"
        ),
        ("pair-ended", "pair_id"): f"{_PAIR} reason:end_reason ended_at:time",
        ("round-completed", "round_id"): (
            "round_id:id program_id:id kind:round_kind pool:counts matched:counts proposed:int"
            " unmatched:int% objective:int bound:int gap:number mean_dissimilarity:number?"
            " mean_dissimilarity_random:number? seed:int snapshot:id"
        ),
    },
    ("upward.sessions.v1", "sessions"): {
        ("ground-rules-agreed", "pair_id"): f"{_PAIR} by:id* scope:scope at:time",
        ("session-scheduled", "session_id"): _PLAN,
        ("session-moved", "session_id"): _PLAN,
        ("session-cancelled", "session_id"): f"{_SESSION} at:time",
        ("session-missed", "session_id"): f"{_SESSION} at:time",
        ("session-held", "session_id"): (
            f"{_SESSION} number:int held_at:time minutes:int mode:meeting attended:id* topics:id*"
            " agenda_by:id takeaways:int learned:bool% tags:tag*?"
        ),
        ("action-recorded", "action_id"): "action_id:id pair_id:id program_id:id at:time",
        ("action-adopted", "action_id"): "action_id:id pair_id:id program_id:id at:time",
        ("pair-stalled", "pair_id"): f"{_PAIR} last_held_at:time? days:int",
    },
    ("upward.feedback.v1", "feedback"): {
        ("survey-due", "survey_id"): (
            "survey_id:id program_id:id kind:survey_kind participant_id:id session_id:id?"
            " due_on:date"
        ),
        ("feedback-submitted", "response_id"): (
            "response_id:id program_id:id kind:survey_kind instrument:id instrument_version:int"
            " respondent:id role:role department:text? region:text? scores:number% skills:int%?"
            " flags:flag*? submitted_on:date"
        ),
        ("recognition-given", "id"): _VOICE,
        ("testimonial-published", "id"): _VOICE,
        ("testimonial-withdrawn", "id"): _VOICE,
        ("concern-raised", "concern_id"): _CONCERN,
        ("concern-resolved", "concern_id"): _CONCERN,
    },
    ("upward.surveys.v1", "feedback"): {
        ("survey-completed", "program_id"): (
            "program_id:id kind:survey_kind role:role completed_on:date"
        ),
    },
}


@dataclass(frozen=True)
class EventType:
    """Where a type is published, by whom, and what its data must hold."""

    topic: str
    owner: str
    subject: str
    fields: tuple[tuple[str, str], ...]


def fields_of(text: str) -> tuple[tuple[str, str], ...]:
    """Split `name:kind name:kind …`."""
    pairs = (field.split(":") for field in text.split())
    return tuple((name, kind) for name, kind in pairs)


EVENT_TYPES: dict[str, EventType] = {
    name: EventType(topic, owner, subject, fields_of(fields))
    for (topic, owner), types in _TYPES.items()
    for (name, subject), fields in types.items()
}
