"""Every mentor against every mentee: the facts that rules and scores compare, as arrays."""

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from services.matching.engine.hours import overlap_minutes, utc_week
from services.matching.engine.model import Candidate, Policy

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int32]
Codes = NDArray[np.intp]
Fact = Callable[[Candidate], str | None]

_UNKNOWN = -1  # as an index: the last column, which every lookup table keeps for it


class Grid:
    """Facts about pairs; every matrix is mentors by mentees.

    A fact is made when it is first asked for, so that a few rules on a few people stay cheap.
    """

    def __init__(
        self, mentors: Sequence[Candidate], mentees: Sequence[Candidate], policy: Policy
    ) -> None:
        self.mentors = mentors
        self.mentees = mentees
        self.policy = policy

    @property
    def shape(self) -> tuple[int, int]:
        """How many mentors, how many mentees."""
        return len(self.mentors), len(self.mentees)

    @cached_property
    def level_distance(self) -> Numbers:
        """How many levels the mentor is below the mentee; says nothing unless `levels_known`."""
        return np.subtract.outer(
            np.array([mentor.level or 0 for mentor in self.mentors], dtype=np.int32),
            np.array([mentee.level or 0 for mentee in self.mentees], dtype=np.int32),
        )

    @cached_property
    def levels_known(self) -> Mask:
        """Both levels are known."""
        return np.logical_and.outer(
            np.array([mentor.level is not None for mentor in self.mentors], dtype=np.bool_),
            np.array([mentee.level is not None for mentee in self.mentees], dtype=np.bool_),
        )

    def differ(self, fact: Fact) -> Mask:
        """Both facts are known, and they are not the same."""
        mentors, mentees, _ = self._codes(fact)
        known = np.logical_and.outer(mentors != _UNKNOWN, mentees != _UNKNOWN)
        mask: Mask = known & (mentors[:, None] != mentees)
        return mask

    def agree(self, fact: Fact) -> Mask:
        """Both facts are known, and they are the same."""
        mentors, mentees, _ = self._codes(fact)
        mask: Mask = (mentors[:, None] == mentees) & (mentors != _UNKNOWN)[:, None]
        return mask

    def named(self, people: Callable[[Candidate], Iterable[str]]) -> Mask:
        """One of the two has the other among their `people` (person ids), at any place.

        Costs what the lists are long, not mentors times mentees.
        """
        mask = np.zeros(self.shape, dtype=np.bool_)
        rows = _places(self.mentors)
        columns = _places(self.mentees)
        for row, mentor in enumerate(self.mentors):
            for person in people(mentor):
                mask[row, columns.get(person, [])] = True
        for column, mentee in enumerate(self.mentees):
            for person in people(mentee):
                mask[rows.get(person, []), column] = True
        return mask

    @cached_property
    def overlap(self) -> Numbers:
        """Minutes of a day in which both work, as `overlap_minutes` counts them."""
        middle = self.policy.term_middle
        mentor_kinds, mentor_weeks = _weeks(self.mentors, middle)
        mentee_kinds, mentee_weeks = _weeks(self.mentees, middle)
        by_kind = overlap_minutes(mentor_weeks, mentee_weeks)
        return by_kind[np.ix_(mentor_kinds, mentee_kinds)]

    @cached_property
    def common_language(self) -> Mask:
        """At least one language is common."""
        # Counts of languages are exact in float32, which is what has a fast product.
        mentors = _members(self.mentors, languages, self._spoken).astype(np.float32)
        mentees = _members(self.mentees, languages, self._spoken).astype(np.float32)
        return mentors @ mentees.T > 0

    @cached_property
    def first_languages_spoken(self) -> Numbers:
        """How many of the two name first a language that the other speaks: 0, 1 or 2."""
        mentors, mentees, _ = self._codes(_first_language, self._spoken)
        by_mentor = _members(self.mentors, languages, self._spoken)[:, mentees]
        by_mentee = _members(self.mentees, languages, self._spoken)[:, mentors].T
        return by_mentor.astype(np.int32) + by_mentee

    @cached_property
    def region_wishes_met(self) -> Numbers:
        """How many of the two are content with the other's region: 0, 1 or 2.

        Who wishes for none is content with any; an unknown region fulfills no wish.
        """
        wished = vocabulary(
            region for person in self._people for region in person.preferences.regions
        )
        mentors, mentees, regions = self._codes(lambda person: person.region, wished)

        def contents(people: Sequence[Candidate]) -> Mask:
            mask = _members(people, lambda person: person.preferences.regions, regions)
            mask[[not person.preferences.regions for person in people]] = True
            return mask

        by_mentor = contents(self.mentors)[:, mentees]
        by_mentee = contents(self.mentees)[:, mentors].T
        return by_mentor.astype(np.int32) + by_mentee

    @property
    def _people(self) -> Iterable[Candidate]:
        yield from self.mentors
        yield from self.mentees

    @cached_property
    def _spoken(self) -> dict[str, int]:
        return vocabulary(tag for person in self._people for tag in languages(person))

    def _codes(
        self, fact: Fact, known: dict[str, int] | None = None
    ) -> tuple[Codes, Codes, dict[str, int]]:
        codes = dict(known or {})

        def encode(people: Sequence[Candidate]) -> Codes:
            values = map(fact, people)
            return np.array(
                [
                    _UNKNOWN if value is None else codes.setdefault(value, len(codes))
                    for value in values
                ],
                dtype=np.intp,
            )

        return encode(self.mentors), encode(self.mentees), codes


def languages(person: Candidate) -> tuple[str, ...]:
    """Return the primary subtags of what the person speaks: en-GB and en-US are one language."""
    return tuple(tag.split("-")[0].lower() for tag in person.languages)


def _first_language(person: Candidate) -> str | None:
    return next(iter(languages(person)), None)


def _places(people: Sequence[Candidate]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, person in enumerate(people):
        places.setdefault(person.person_id, []).append(place)
    return places


def vocabulary(words: Iterable[str]) -> dict[str, int]:
    """Return a small integer for each word, by first appearance."""
    return {word: code for code, word in enumerate(dict.fromkeys(words))}


def _members(
    people: Sequence[Candidate],
    words: Callable[[Candidate], Iterable[str]],
    codes: dict[str, int],
) -> Mask:
    mask = np.zeros((len(people), len(codes) + 1), dtype=np.bool_)
    for row, person in enumerate(people):
        mask[row, [codes[word] for word in words(person)]] = True
    return mask


def _weeks(people: Sequence[Candidate], on: date) -> tuple[Codes, NDArray[np.int32]]:
    # Many people share a zone and hours: overlaps are worked out once per kind of week.
    kinds: dict[tuple[str | None, tuple[int, ...], str, str], int] = {}
    weeks: list[NDArray[np.int32]] = []
    of_person = np.empty(len(people), dtype=np.intp)
    for place, person in enumerate(people):
        hours = person.working_hours
        kind = person.timezone, hours.days, hours.start, hours.end
        if kind not in kinds:
            kinds[kind] = len(weeks)
            weeks.append(utc_week(hours, person.timezone, on))
        of_person[place] = kinds[kind]
    return of_person, np.array(weeks, dtype=np.int32).reshape(-1, 7, 2)
