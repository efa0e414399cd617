"""Instruments as versioned data: their items, their scales, and how answers become scores. Pure.

A published version never changes, since answers refer to it: another wording is another version.
"""

from collections.abc import Mapping
from statistics import fmean

from pydantic import BaseModel, ConfigDict

from shared.errors import InvalidInputError


class Item(BaseModel):
    """One statement and the scale on which people answer it; `scale` names the score it feeds."""

    model_config = ConfigDict(frozen=True)

    item_id: str
    scale: str
    text: str
    minimum: int
    maximum: int
    minimum_label: str
    maximum_label: str


class Instrument(BaseModel):
    """A questionnaire in one version."""

    model_config = ConfigDict(frozen=True)

    instrument: str
    version: int
    items: tuple[Item, ...]

    def check(self, answers: Mapping[str, int]) -> None:
        """Raise InvalidInputError naming the first item whose answer breaks a rule, and the rule.

        Every item is answered, nothing else is, and every answer lies on its item's scale.
        """
        known = {item.item_id for item in self.items}
        for item_id in answers:
            if item_id not in known:
                _refuse(item_id, "unknown_item", "The survey has no such item.")
        for item in self.items:
            if item.item_id not in answers:
                _refuse(item.item_id, "missing_item", "Answer every item of the survey.")
            if not item.minimum <= answers[item.item_id] <= item.maximum:
                message = f"Answer from {item.minimum} to {item.maximum}."
                _refuse(item.item_id, "out_of_scale", message)

    def score(self, answers: Mapping[str, int]) -> dict[str, float]:
        """Return the score of each scale: the mean of its items. Takes checked answers only."""
        scales: dict[str, list[int]] = {}
        for item in self.items:
            scales.setdefault(item.scale, []).append(answers[item.item_id])
        return {scale: fmean(values) for scale, values in scales.items()}


def _refuse(item_id: str, rule: str, message: str) -> None:
    raise InvalidInputError(message, code=rule, field=f"answers.{item_id}")


_PULSE_1 = Instrument(
    instrument="pulse",
    version=1,
    items=(
        Item(
            item_id="satisfaction",
            scale="satisfaction",
            text="How satisfied are you with this session?",
            minimum=1,
            maximum=5,
            minimum_label="Not at all",
            maximum_label="Very",
        ),
    ),
)

_INSTRUMENTS = {(known.instrument, known.version): known for known in (_PULSE_1,)}


def instrument_of(name: str, version: int) -> Instrument:
    """Return the instrument. Raises InvalidInputError for one that this release does not have."""
    found = _INSTRUMENTS.get((name, version))
    if found is None:
        raise InvalidInputError(
            f"This release has no instrument {name!r} in version {version}.",
            code="unknown_instrument",
            field="instrument",
        )
    return found
