"""A made-up program's events, legal and complete, for the tests of reporting."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from shared.events.envelope import Envelope, Event, data_schema
from shared.events.feedback import FeedbackSubmitted
from shared.events.pairs import (
    PairDeclined,
    Paired,
    PairEnded,
    PairPaused,
    PairProposed,
    PairResumed,
    PairRotated,
    PairSide,
    RoleCounts,
    RoundCompleted,
)
from shared.events.participants import Enrolled, ParticipantState, RosterCounted, Withdrawn
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.events.topics import TOPICS
from shared.ids import derived_id
from shared.messaging.dead_letters import RawRecord
from tests.support.golden import golden_event

E = TypeVar("E", bound=Event)

PROGRAM = "reverse-mentoring"
START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
CADENCE_DAYS = 14
THRESHOLD = 5

REGIONS = ("europe", "africa", "asia", None)
DEPARTMENTS = ("Finance", "Legal", "Sales", "Operations", "Human Resources")
_ROLES = ("mentor", "mentee")


@dataclass(frozen=True)
class Said:
    """An event with what its envelope says of it."""

    event: Event
    version: int
    time: datetime

    @property
    def record(self) -> RawRecord:
        """The record as it stands on the bus."""
        headers = self.envelope.to_headers().items()
        return RawRecord(
            topic=self.event.topic,
            partition=0,
            offset=0,
            key=self.event.subject.encode(),
            value=self.event.model_dump_json().encode(),
            headers=tuple((name, text.encode()) for name, text in headers),
        )

    @property
    def envelope(self) -> Envelope:
        """The envelope its owner would give it; the same event has the same id."""
        return Envelope(
            id=derived_id("ev", self.event.type(), self.event.subject, str(self.version)),
            source=f"/upward/local/{TOPICS[self.event.topic].owner}",
            type=self.event.type(),
            subject=self.event.subject,
            time=self.time,
            dataschema=data_schema(self.event.type()),
            program=self.event.program_id,
            region="local",
            aggregateversion=self.version,
        )


@dataclass
class Story:
    """Tells what happens in a program, one event after the other."""

    seed: int = 0
    program_id: str = PROGRAM
    now: datetime = START
    said: list[Said] = field(default_factory=list)
    _versions: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def say(self, event: Event) -> None:
        """Tell an event now."""
        stream = (TOPICS[event.topic].owner, event.subject)
        self._versions[stream] = self._versions.get(stream, 0) + 1
        self.said.append(Said(event, self._versions[stream], self.now))

    def go_on(self, days: float) -> None:
        """Let time pass."""
        self.now += timedelta(days=days)

    def publish(self, version: int = 1, **changes: object) -> None:
        """Publish a version of the program."""
        fields = {
            "program_id": self.program_id,
            "version": version,
            "cadence_days": CADENCE_DAYS,
            "title": "Reverse mentoring",
            "thresholds": {"scores": THRESHOLD, "comments": 10},
        }
        self.say(_copy(golden_event(ProgramPublished), fields | changes))

    def count_roster(self, mentors: int | None, mentees: int | None) -> None:
        """Tell how many could take part."""
        for role, employed in zip(_ROLES, (mentors, mentees), strict=True):
            changes = {
                "program_id": self.program_id,
                "role": role,
                "level_band": None,
                "department": None,
                "employed": employed,
                "left": 0,
                "as_of": self.now,
            }
            self.say(_copy(golden_event(RosterCounted), changes))

    def enroll(self, name: str, role: str, kind: type[ParticipantState] = Enrolled) -> str:
        """Enroll a participant, or change their profile; return their id."""
        identity = {
            "program_id": self.program_id,
            "participant_id": f"pt_{name}",
            "person_id": f"p_{name}",
            "role": role,
        }
        self.say(_copy(golden_event(kind), identity))
        return f"pt_{name}"

    def withdraw(self, name: str) -> None:
        """Let a participant leave."""
        self.say(
            Withdrawn(
                program_id=self.program_id,
                participant_id=f"pt_{name}",
                person_id=f"p_{name}",
                at=self.now,
            )
        )

    def side(self, name: str) -> PairSide:
        """Return a member of a pair; the same name gives the same place in the company."""
        place = random.Random(name)
        return PairSide(
            participant_id=f"pt_{name}",
            person_id=f"p_{name}",
            level=place.randint(1, 6),
            department=place.choice(DEPARTMENTS),
            region=place.choice(REGIONS),
        )

    def propose(self, pair_id: str, mentor: str, *mentees: str, **changes: object) -> PairProposed:
        """Propose a pair."""
        proposal = _copy(
            golden_event(PairProposed),
            {
                "program_id": self.program_id,
                "pair_id": pair_id,
                "round_id": "ro_1",
                "mentor": self.side(mentor),
                "mentees": [self.side(mentee) for mentee in mentees],
                "origin": "round",
                "expires_at": self.now + timedelta(days=7),
            }
            | changes,
        )
        self.say(proposal)
        return proposal

    def pair(self, proposal: PairProposed, waited: float = 3.5) -> None:
        """Let all accept."""
        members = [proposal.mentor, *proposal.mentees]
        self.say(
            Paired(
                **proposal.model_dump(),
                started_at=self.now,
                ends_at=self.now + timedelta(days=180),
                waited_days={side.participant_id: waited + 2 * i for i, side in enumerate(members)},
            )
        )

    def decline(self, pair_id: str) -> None:
        """Let somebody decline."""
        self.say(PairDeclined(program_id=self.program_id, pair_id=pair_id, at=self.now))

    def pause(self, pair_id: str) -> None:
        """Let a pair rest."""
        self.say(
            PairPaused(program_id=self.program_id, pair_id=pair_id, reason="level_gap", at=self.now)
        )

    def resume(self, pair_id: str) -> None:
        """Let a pair go on."""
        self.say(
            PairResumed(
                program_id=self.program_id, pair_id=pair_id, reason="level_gap", at=self.now
            )
        )

    def rotate(self, pair_id: str) -> None:
        """End a pair by rotation."""
        self.say(
            PairRotated(
                program_id=self.program_id,
                pair_id=pair_id,
                reason="term",
                ended_at=self.now,
                next_round_id="ro_2",
            )
        )

    def end(self, pair_id: str) -> None:
        """End a pair for good."""
        self.say(
            PairEnded(
                program_id=self.program_id, pair_id=pair_id, reason="completed", ended_at=self.now
            )
        )

    def complete_round(self, round_id: str, mentors: int, mentees: int, matched: int) -> None:
        """Tell the result of a round."""
        self.say(
            _copy(
                golden_event(RoundCompleted),
                {
                    "program_id": self.program_id,
                    "round_id": round_id,
                    "pool": RoleCounts(mentors=mentors, mentees=mentees),
                    "matched": RoleCounts(mentors=matched, mentees=matched),
                },
            )
        )

    def hold(self, pair_id: str, number: int) -> None:
        """Hold a session."""
        changes = {
            "program_id": self.program_id,
            "session_id": f"se_{pair_id}_{number}",
            "pair_id": pair_id,
            "number": number,
            "held_at": self.now,
        }
        self.say(_copy(golden_event(SessionHeld), changes))

    def answer(self, response: str, side: PairSide, role: str, score: float) -> None:
        """Answer a pulse."""
        changes = {
            "program_id": self.program_id,
            "response_id": f"re_{response}",
            "kind": "pulse",
            "respondent": f"r_{side.participant_id}",
            "role": role,
            "department": side.department,
            "region": side.region,
            "scores": {"satisfaction": score},
            "submitted_on": self.now.date(),
        }
        self.say(_copy(golden_event(FeedbackSubmitted), changes))


def _copy(event: E, changes: Mapping[str, object]) -> E:
    return type(event).model_validate(event.model_dump() | dict(changes))


def year(pairs: int = 40, seed: int = 1, months: int = 8) -> Story:
    """Tell a program's first months: enrollment, a round, sessions with pulses, a rotation.

    In the order of time, with pauses, declines, circles, withdrawals and people in both roles.
    """
    story = Story(seed)
    chance = story.chance
    story.publish()
    story.count_roster(pairs * 4, pairs * 2)
    for i in range(pairs):
        story.enroll(f"jr{i}", "both" if i % 9 == 0 else "mentor")
        story.enroll(f"sr{i}", "mentee")
    story.go_on(10)
    story.complete_round("ro_1", pairs, pairs, pairs - 2)
    plans: list[tuple[datetime, int]] = []
    proposals = {}
    for i in range(pairs):
        mentees = [f"sr{i}"] if i % 7 else [f"sr{i}", f"sr{(i + 1) % pairs}"]
        proposals[i] = story.propose(f"pr_{i}", f"jr{i}", *mentees)
    for i, proposal in proposals.items():
        story.go_on(chance.uniform(0.01, 0.4))
        if chance.random() < 0.15:
            story.decline(f"pr_{i}")
            continue
        story.pair(proposal, waited=chance.uniform(0.1, 20))
        plans += [
            (story.now + timedelta(days=chance.uniform(5, months * 30)), i)
            for _ in range(chance.randint(0, 2 * months))
        ]
    paused: set[int] = set()
    left: set[int] = set()
    for number, (moment, i) in enumerate(sorted(plans)):
        story.now = max(story.now, moment)
        if i in left:
            continue
        _go_on_with(story, proposals[i], i, number, paused, left)
    story.publish(version=2, thresholds={"scores": 3, "comments": 10}, cadence_days=21)
    story.count_roster(pairs * 5, pairs * 2)
    story.withdraw("jr1")
    return story


def _go_on_with(
    story: Story,
    proposal: PairProposed,
    i: int,
    number: int,
    paused: set[int],
    left: set[int],
) -> None:
    chance, pair_id = story.chance, f"pr_{i}"
    what = chance.random()
    if i in paused and what < 0.7:
        story.resume(pair_id)
        paused.discard(i)
    elif i not in paused and what < 0.1:
        story.pause(pair_id)
        paused.add(i)
    elif what > 0.95:
        left.add(i)
        (story.rotate if chance.random() < 0.6 else story.end)(pair_id)
    elif i not in paused:
        story.hold(pair_id, number + 1)
        for role, side in (("mentor", proposal.mentor), ("mentee", proposal.mentees[0])):
            if chance.random() < 0.8:
                score = chance.choice([1, 2, 3, 4, 4, 4.5, 5, 5, 11 / 3])
                story.answer(f"{pair_id}_{number}_{role}", side, role, score)
