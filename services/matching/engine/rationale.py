"""Why these two: the score's own breakdown in words, the same for all members of a pair."""

from collections.abc import Callable, Mapping, Sequence

from services.matching.engine.grid import languages
from services.matching.engine.hours import shared_minutes
from services.matching.engine.model import SCORE_TERMS, Candidate, FoundPair, Policy
from services.matching.engine.score import topics_covered
from shared.events.pairs import RationaleTerm
from shared.events.programs import ScoreTerm


def rationale(
    found: FoundPair,
    mentor: Candidate,
    mentees: Sequence[Candidate],
    policy: Policy,
    titles: Mapping[str, str],
) -> tuple[RationaleTerm, ...]:
    """Return a text and the points of every term that the policy weighs.

    All members read it, so it says what is common to them: no name, no proficiency, and no wish,
    veto or refusal of one of them. A topic without a title in `titles` goes by its id.
    """
    shared = min(
        shared_minutes(
            mentor.working_hours,
            mentor.timezone,
            mentee.working_hours,
            mentee.timezone,
            policy.term_middle,
        )
        for mentee in mentees
    )
    texts: dict[ScoreTerm, str] = {
        "coverage": _coverage(pair_topics(mentor, mentees), titles),
        "difference": _difference(mentor, mentees),
        "overlap": _overlap(shared),
        "language": _language(mentor, mentees),
        "preference": "How far the format and the regions suit the wishes of all.",
        "waiting": "Time spent waiting for a match counts a little.",
    }
    return tuple(
        RationaleTerm(term=term, points=found.terms[term], text=texts[term])
        for term in SCORE_TERMS
        if policy.weight(term)
    )


def pair_topics(mentor: Candidate, mentees: Sequence[Candidate]) -> tuple[str, ...]:
    """Return the ids of all topics that some mentee can learn from the mentor, each once."""
    return tuple(
        dict.fromkeys(topic for mentee in mentees for topic in topics_covered(mentor, mentee))
    )


def _coverage(topics: Sequence[str], titles: Mapping[str, str]) -> str:
    if not topics:
        return "No topic is both taught and wanted; you will find your own."
    return f"Taught and wanted: {', '.join(titles.get(topic, topic) for topic in topics)}."


def _difference(mentor: Candidate, mentees: Sequence[Candidate]) -> str:
    def differ(fact: Callable[[Candidate], str | None]) -> bool:
        mine, theirs = fact(mentor), [fact(mentee) for mentee in mentees]
        return mine is not None and None not in theirs and mine not in theirs

    parts = []
    if differ(lambda person: person.department):
        parts.append("in different departments")
    if differ(lambda person: person.region):
        parts.append("in different regions")
    elif differ(lambda person: person.country):
        parts.append("in different countries")
    levels = 0
    known = [mentee.level for mentee in mentees if mentee.level is not None]
    if mentor.level is not None and len(known) == len(mentees):
        levels = mentor.level - max(known)
    if levels > 0:
        parts.append(f"{levels} {'level' if levels == 1 else 'levels'} apart")
    if not parts:
        return "You work close to each other."
    return f"You work {_listed(parts)}."


def _overlap(minutes: int) -> str:
    if minutes <= 0:
        return "Your working hours do not meet."
    hours, rest = divmod(minutes, 60)
    words = [f"{hours} h"] * (hours > 0) + [f"{rest} min"] * (rest > 0)
    return f"Your working hours share {' '.join(words)} of a day."


def _language(mentor: Candidate, mentees: Sequence[Candidate]) -> str:
    common = set(languages(mentor)).intersection(*(languages(mentee) for mentee in mentees))
    if not common:
        return (
            "Each of you shares a language with the mentor."
            if len(mentees) > 1
            else ("You have no language in common.")
        )
    return f"You have in common: {', '.join(sorted(common))}."


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
