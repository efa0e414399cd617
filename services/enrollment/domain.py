"""The rules of enrollment: people, programs, participants. Pure; time and ids are parameters."""

import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Annotated, ClassVar, Literal, Self
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from shared.clock import Instant, WrittenDate
from shared.errors import InvalidInputError, RuleViolationError
from shared.events.participants import (
    EnrolledRole,
    OrgFacts,
    Preferences,
    Role,
    TopicLevel,
    WorkingHours,
)
from shared.events.programs import (
    Eligibility,
    PairFormat,
    ProgramTopic,
    ScoreTerm,
    SurveyPlan,
    Thresholds,
    Training,
)
from shared.ids import derived_id
from shared.store.port import Document, Index

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?")
ZONES = frozenset(available_timezones())


class Person(Document):
    """Somebody on the roster. Names exist here and nowhere else.

    `manager_person_id` is the pseudonym of the manager, whether or not the manager has a row.
    """

    collection: ClassVar[str] = "people"
    indexes: ClassVar[tuple[Index, ...]] = (
        Index(("employee_id",), unique=True),
        Index(("manager_person_id",)),
    )

    employee_id: str
    name: str | None
    job_title: str | None
    level: int | None
    department: str | None
    manager_person_id: str | None
    location: str | None
    country: str | None
    region: str | None
    timezone: str | None
    hired_on: date | None
    left_on: date | None = None

    def has_left(self, now: datetime) -> bool:
        """Return whether the person's last day is over or today (in UTC)."""
        return self.left_on is not None and self.left_on <= now.date()

    def same_facts(self, other: "Person") -> bool:
        """Return whether the roster says the same of both."""
        return self.model_dump(exclude={"version"}) == other.model_dump(exclude={"version"})


def manager_chain(person_id: str, manager_of: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return the managers above a person, nearest first.

    Ends at the top, at a manager who has no row (who is still named), or where a cycle closes:
    everybody of the cycle is then above everybody else of it, and the person is never above
    themself.
    """
    chain: list[str] = []
    seen = {person_id}
    above = manager_of.get(person_id)
    while above is not None and above not in seen:
        chain.append(above)
        seen.add(above)
        above = manager_of.get(above)
    return tuple(chain)


# What people write has no unknown fields: a misspelled threshold must not become the default. Nor
# has it fields of another type: `true` is no number of days. (Lists are read into tuples, though.)
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class TopicSpec(ProgramTopic):
    """A topic as the program's office writes it."""

    model_config = _STRICT

    topic_id: Title
    title: Title


class EligibilitySpec(Eligibility):
    """The levels as the program's office writes them."""

    model_config = _STRICT


class TrainingSpec(Training):
    """The modules as the program's office writes them."""

    model_config = _STRICT

    mentor: tuple[Slug, ...] = Field(strict=False, default=(), max_length=50)
    mentee: tuple[Slug, ...] = Field(strict=False, default=(), max_length=50)


class SurveySpec(SurveyPlan):
    """A survey as the program's office writes it."""

    model_config = _STRICT

    instrument: Title


class ThresholdsSpec(Thresholds):
    """The thresholds as the program's office writes them."""

    model_config = _STRICT


class ProgramSpec(BaseModel):
    """A program as its office writes it; published whole, as a new version each time."""

    model_config = _STRICT

    title: Title
    objectives: tuple[Title, ...] = Field(strict=False, default=(), max_length=20)
    topics: tuple[TopicSpec, ...] = Field(strict=False, min_length=1, max_length=60)
    format: PairFormat = "one_to_one"
    circle_capacity: int = Field(default=1, ge=1, le=20)
    cadence_days: int = Field(default=14, ge=1, le=366)
    term_days: int = Field(default=182, ge=1, le=1100)
    proposal_expiry_days: int = Field(default=14, ge=1, le=90)
    starts_on: WrittenDate
    ends_on: WrittenDate
    mode: Literal["cohort", "rolling"] = "cohort"
    min_level_gap: int = Field(default=2, ge=0, le=20)
    cross_department: bool = True
    different_boss: bool = True
    cross_region: bool = True
    min_overlap_minutes: int = Field(default=60, ge=0, le=1440)
    eligibility: EligibilitySpec
    training: TrainingSpec = TrainingSpec()
    surveys: tuple[SurveySpec, ...] = Field(strict=False, default=(), max_length=50)
    thresholds: ThresholdsSpec = ThresholdsSpec()
    weights: dict[ScoreTerm, Annotated[int, Field(ge=0, le=1000)]] = Field(default_factory=dict)
    ground_rules: tuple[Title, ...] = Field(strict=False, default=(), max_length=50)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.ends_on <= self.starts_on:
            msg = "ends_on must be later than starts_on"
            raise ValueError(msg)
        if self.format == "one_to_one" and self.circle_capacity != 1:
            msg = "circle_capacity must be 1 in a one_to_one program"
            raise ValueError(msg)
        ids = [topic.topic_id for topic in self.topics]
        if len(set(ids)) != len(ids):
            msg = "topics must have different topic_ids"
            raise ValueError(msg)
        if sum(self.weights.values()) > 1000:
            msg = "weights must add up to 1000 at most"
            raise ValueError(msg)
        return self


class Program(Document):
    """A program in its newest published version."""

    collection: ClassVar[str] = "programs"

    spec: ProgramSpec
    program_version: int
    published_at: Instant
    closed_at: Instant | None = None

    @classmethod
    def publish(cls, program_id: str, spec: ProgramSpec, now: datetime) -> Self:
        """Return the first version."""
        return cls(id=program_id, spec=spec, program_version=1, published_at=now)

    def republish(self, spec: ProgramSpec, now: datetime) -> Self:
        """Return the next version, or self if nothing differs.

        Thresholds were promised to those who enrolled: they stay as first published. Raises
        RuleViolationError for other thresholds and for a closed program.
        """
        self.must_be_open()
        if spec == self.spec:
            return self
        if spec.thresholds != self.spec.thresholds:
            raise RuleViolationError(
                "Thresholds are fixed when a program is first published.",
                code="thresholds_frozen",
                field="thresholds",
            )
        return self.changed(spec=spec, program_version=self.program_version + 1, published_at=now)

    def close(self, now: datetime) -> Self:
        """Return the closed program; closing again changes nothing."""
        return self if self.closed_at is not None else self.changed(closed_at=now)

    def must_be_open(self) -> None:
        """Raise RuleViolationError if the program is closed."""
        if self.closed_at is not None:
            raise RuleViolationError("The program is closed.", code="program_closed")

    def modules(self, role: EnrolledRole) -> frozenset[str]:
        """Return the training modules that the role completes before its first match."""
        training = self.spec.training
        mentor, mentee = frozenset(training.mentor), frozenset(training.mentee)
        return {"mentor": mentor, "mentee": mentee, "both": mentor | mentee}[role]

    def eligible(self, level: int | None, role: Role) -> bool:
        """Return whether a level may take a role. An unknown level may: it waits in matching."""
        if level is None:
            return True
        if role == "mentor":
            return level >= self.spec.eligibility.mentor_min_level
        return level <= self.spec.eligibility.mentee_max_level


class TopicRating(TopicLevel):
    """A topic as the person rates themself in it."""

    model_config = _STRICT

    topic_id: Title


class OwnHours(WorkingHours):
    """The working hours as the person writes them."""

    model_config = _STRICT

    days: tuple[int, ...] = Field(strict=False, default=(1, 2, 3, 4, 5), max_length=7)


class Wishes(Preferences):
    """The preferences as the person writes them."""

    model_config = _STRICT

    regions: tuple[Title, ...] = Field(strict=False, default=(), max_length=50)


class Profile(BaseModel):
    """What a person says of themself when they enroll."""

    model_config = _STRICT

    role: EnrolledRole
    teaches: tuple[TopicRating, ...] = Field(strict=False, default=(), max_length=60)
    wants: tuple[TopicRating, ...] = Field(strict=False, default=(), max_length=60)
    languages: tuple[Annotated[str, StringConstraints(max_length=20)], ...] = Field(
        strict=False, min_length=1, max_length=20
    )
    working_hours: OwnHours = OwnHours()
    preferences: Wishes = Wishes()
    intent: Text | None = None
    eagerness: Text | None = None

    def check(self, program: Program) -> None:
        """Raise InvalidInputError naming the field and the rule that the profile breaks."""
        mentor, mentee = self.role in {"mentor", "both"}, self.role in {"mentee", "both"}
        if mentee and not self.intent:
            _refuse("intent", "Say what you intend to learn: without intent there is no match.")
        if mentor and not self.eagerness:
            _refuse("eagerness", "Say why you are eager to mentor.")
        if mentor and not self.teaches:
            _refuse("teaches", "A mentor names at least one topic to teach.")
        if mentee and not self.wants:
            _refuse("wants", "A mentee names at least one topic to learn.")
        known = {topic.topic_id for topic in program.spec.topics}
        for field, entries in (("teaches", self.teaches), ("wants", self.wants)):
            ids = [entry.topic_id for entry in entries]
            for place, topic_id in enumerate(ids):
                if topic_id not in known:
                    message = f"The program has no topic {topic_id!r}."
                    _refuse(f"{field}.{place}.topic_id", message, code="unknown_topic")
            if len(set(ids)) != len(ids):
                _refuse(field, "Name each topic once.")
        for place, language in enumerate(self.languages):
            if not _LANGUAGE.fullmatch(language):
                _refuse(f"languages.{place}", "Not a BCP 47 tag such as en or pt-BR.")
        hours = self.working_hours
        if hours.end <= hours.start:
            _refuse("working_hours.end", "The working day ends later than it starts.")
        if not hours.days or not set(hours.days) <= set(range(1, 8)):
            _refuse("working_hours.days", "Days are 1 (Monday) to 7, at least one.")


def _refuse(field: str, message: str, code: str = "missing_or_invalid") -> None:
    raise InvalidInputError(message, code=code, field=field)


ParticipantStatus = Literal["enrolled", "paused", "withdrawn", "departed"]


class Participant(Document):
    """One person's enrollment in one program. Only the person makes and changes it."""

    collection: ClassVar[str] = "participants"
    indexes: ClassVar[tuple[Index, ...]] = (
        Index(("program_id", "status")),
        Index(("person_id",)),
    )

    program_id: str
    person_id: str
    status: ParticipantStatus
    profile: Profile
    org: OrgFacts
    completed: tuple[str, ...] = ()
    enrolled_at: Instant
    ready_at: Instant | None = None

    @staticmethod
    def id_of(program_id: str, person_id: str) -> str:
        """Return the id: one person enrolls once in a program."""
        return derived_id("pt", program_id, person_id)

    @classmethod
    def enroll(
        cls, program: Program, person: Person, org: OrgFacts, profile: Profile, now: datetime
    ) -> Self:
        """Return the new enrollment. Raises InvalidInputError and RuleViolationError."""
        _may_enroll(program, person, profile, now)
        ready = not program.modules(profile.role)
        return cls(
            id=cls.id_of(program.id, person.id),
            program_id=program.id,
            person_id=person.id,
            status="enrolled",
            profile=profile,
            org=org,
            enrolled_at=now,
            ready_at=now if ready else None,
        )

    def enroll_again(
        self, program: Program, person: Person, org: OrgFacts, profile: Profile, now: datetime
    ) -> Self:
        """Return the enrollment after a withdrawal or a departure; finished training counts.

        Raises RuleViolationError for somebody who takes part already.
        """
        if self.takes_part:
            raise RuleViolationError("You take part already.", code="already_enrolled")
        _may_enroll(program, person, profile, now)
        return self.changed(
            status="enrolled",
            profile=profile,
            org=org,
            enrolled_at=now,
            ready_at=now if program.modules(profile.role) <= set(self.completed) else None,
        )

    @property
    def ready(self) -> bool:
        """Whether the training before the first match is done."""
        return self.ready_at is not None

    def change_profile(self, program: Program, profile: Profile, now: datetime) -> Self:
        """Return the enrollment with another profile. Raises InvalidInputError."""
        self._must_take_part()
        program.must_be_open()
        _must_be_eligible(program, self.org.level, profile)
        profile.check(program)
        if profile == self.profile:
            return self
        ready_at = self.ready_at
        if not program.modules(profile.role) <= set(self.completed):
            ready_at = None
        elif ready_at is None:
            ready_at = now
        return self.changed(profile=profile, ready_at=ready_at)

    def complete(self, program: Program, module: str, now: datetime) -> Self:
        """Return the enrollment with one more module done; done again changes nothing.

        Raises InvalidInputError for a module that the role does not need.
        """
        self._must_take_part()
        modules = program.modules(self.profile.role)
        if module not in modules:
            raise InvalidInputError(
                "The training of this role has no such module.",
                code="unknown_module",
                field="module",
            )
        if module in self.completed:
            return self
        completed = (*self.completed, module)
        done = self.ready_at is None and modules <= set(completed)
        return self.changed(completed=completed, ready_at=now if done else self.ready_at)

    def pause(self) -> Self:
        """Return the paused enrollment; pausing again changes nothing."""
        self._must_take_part()
        return self if self.status == "paused" else self.changed(status="paused")

    def resume(self) -> Self:
        """Return the enrollment after its pause; resuming again changes nothing."""
        self._must_take_part()
        return self if self.status == "enrolled" else self.changed(status="enrolled")

    def withdraw(self) -> Self:
        """Return the withdrawn enrollment. Needs no reason, so none can be given."""
        if self.status == "withdrawn":
            return self
        self._must_take_part()
        return self.changed(status="withdrawn")

    def depart(self) -> Self:
        """Return the enrollment of somebody who left the company."""
        return self if self.status == "departed" else self.changed(status="departed")

    def moved(self, org: OrgFacts) -> Self:
        """Return the enrollment after a change of the organization."""
        return self if org == self.org else self.changed(org=org)

    @property
    def takes_part(self) -> bool:
        """Whether the person is in the program, paused or not."""
        return self.status in {"enrolled", "paused"}

    def _must_take_part(self) -> None:
        if not self.takes_part:
            raise RuleViolationError("You don't take part in this program.", code="not_enrolled")


def _may_enroll(program: Program, person: Person, profile: Profile, now: datetime) -> None:
    program.must_be_open()
    if person.has_left(now):
        raise RuleViolationError("This person has left the company.", code="departed")
    _must_be_eligible(program, person.level, profile)
    profile.check(program)


def _must_be_eligible(program: Program, level: int | None, profile: Profile) -> None:
    roles: Iterable[Role] = ("mentor", "mentee") if profile.role == "both" else (profile.role,)
    for role in roles:
        if not program.eligible(level, role):
            raise RuleViolationError(
                f"The program does not take a {role} of level {level}.",
                code="not_eligible",
                field="role",
            )
