"""Companies of any size that nobody's data is in: drawn by a seed, hard in one way each."""

import random
from collections.abc import Iterator
from typing import Literal, get_args

from services.matching.engine.model import Candidate
from shared.events.participants import Preferences, TopicLevel, WorkingHours
from tests.unit.matching.builders import policy

Shape = Literal[
    "usual", "tight", "few_languages", "one_department", "one_zone", "unknown_levels", "circles"
]
SHAPES: tuple[Shape, ...] = get_args(Shape)

POLICY = policy()

_ZONES = {
    "Europe/London": ("emea", "GB", 20),
    "Europe/Berlin": ("emea", "DE", 12),
    "Asia/Kolkata": ("apac", "IN", 20),
    "America/New_York": ("amer", "US", 15),
    "America/Los_Angeles": ("amer", "US", 8),
    "Asia/Tokyo": ("apac", "JP", 6),
    "Asia/Kathmandu": ("apac", "NP", 1),
    "Australia/Sydney": ("apac", "AU", 4),
    "America/Sao_Paulo": ("amer", "BR", 6),
    "Africa/Lagos": ("emea", "NG", 8),
}
_LANGUAGES = ("de", "hi", "es", "ja", "pt", "fr")
_HOURS = (("08:00", "16:00"), ("08:30", "16:30"), ("09:00", "17:00"), ("10:00", "18:00"))
_TOPICS = tuple(f"topic-{number:02}" for number in range(24))
_REGIONS = ("amer", "apac", "emea")


def pool(mentors: int, mentees: int, seed: int, shape: Shape = "usual") -> Iterator[Candidate]:
    """Yield a company's mentors, then its mentees.

    In the usual one about two of five pairs are allowed, in a tight one about one of eight.
    """
    luck = random.Random(f"{seed} {shape}")
    for number in range(mentors):
        yield _person(f"mentor-{number}", "mentor", mentees, luck, shape)
    for number in range(mentees):
        yield _person(f"mentee-{number}", "mentee", mentees, luck, shape)


def _person(
    name: str, role: Literal["mentor", "mentee"], seniors: int, luck: random.Random, shape: Shape
) -> Candidate:
    zone = luck.choices(list(_ZONES), [share for _, _, share in _ZONES.values()])[0]
    zone = "Europe/London" if shape == "one_zone" else zone
    region, country, _ = _ZONES[zone]
    english = luck.random() < (0.1 if shape == "few_languages" else 0.75)
    spoken = [tag for tag in luck.sample(_LANGUAGES, 2) if luck.random() < 0.4]
    spoken = (["en"] if english else []) + spoken or [luck.choice(_LANGUAGES)]
    luck.shuffle(spoken)
    start, end = luck.choice(_HOURS)
    giant = shape == "one_department" and luck.random() < 0.7
    skills = luck.sample(_TOPICS, luck.randint(2, 6) if role == "mentor" else luck.randint(1, 4))
    rated = tuple(
        TopicLevel.model_construct(
            topic_id=topic,
            proficiency=luck.randint(2, 5) if role == "mentor" else luck.randint(1, 3),
        )
        for topic in skills
    )
    # Not validated: a company of a million is made in the time that checking it would take.
    return Candidate.model_construct(
        participant_id=name,
        person_id=f"person-{name}",
        role=role,
        level=_level(role, luck, shape),
        department="giant" if giant else f"department-{int(luck.random() ** 2 * 60)}",
        region=region,
        country=country,
        timezone=zone,
        manager_chain=(
            f"boss-{luck.randrange(max(seniors // 8, 1))}",
            f"person-mentee-{luck.randrange(max(seniors, 1))}",
            "person-mentee-0",
        ),
        teaches=rated if role == "mentor" else (),
        wants=rated if role == "mentee" else (),
        languages=tuple(spoken),
        working_hours=WorkingHours.model_construct(days=(1, 2, 3, 4, 5), start=start, end=end),
        preferences=Preferences.model_construct(
            format=luck.choice((None, "mixed", "one_to_one", "circle")),
            regions=tuple(luck.sample(_REGIONS, luck.choice((0, 0, 0, 1, 2)))),
        ),
        capacity=luck.choice((1, 2, 3)) if shape == "circles" and role == "mentor" else 1,
        vetoes=(),
        former_partners=tuple(
            f"person-mentee-{luck.randrange(max(seniors, 1))}"
            for _ in range(luck.choice((0, 0, 1)))
        )
        if role == "mentor"
        else (),
        waited_days=luck.randrange(120),
        declines=luck.choice((0, 0, 0, 1, 3)),
    )


def _level(role: str, luck: random.Random, shape: Shape) -> int | None:
    if shape == "unknown_levels" and luck.random() < 0.5:
        return None
    if shape == "tight":
        return luck.choice((2, 3, 4) if role == "mentee" else (4, 5))
    return luck.choice((0, 1, 2, 2, 3, 3) if role == "mentee" else (4, 5, 5, 6, 6, 6, 7))
