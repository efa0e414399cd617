"""Which figures of small groups are hidden, and which others so that no subtraction finds them."""

from collections.abc import Mapping

REVEALING = "would reveal a hidden figure"


def too_few(people: int, threshold: int) -> str | None:
    """Return why a figure about so many people is hidden; None where it may be shown."""
    return f"fewer than {threshold} people" if people < threshold else None


def hidden_parts(people: Mapping[str, int], threshold: int) -> dict[str, str]:
    """Return which parts of one total are hidden, and why; `people` counts each part's people.

    Parts below the threshold are hidden. While what is hidden could be had by subtracting all that
    is shown from the total (a single part, or parts that together stay below the threshold), the
    smallest part still shown is hidden too; of equals the one whose name sorts first.
    """
    reasons = {
        name: reason
        for name, count in people.items()
        if (reason := too_few(count, threshold)) is not None
    }
    shown = sorted((count, name) for name, count in people.items() if name not in reasons)
    hidden_people = sum(people[name] for name in reasons)
    for count, name in shown:
        if not reasons or (len(reasons) > 1 and hidden_people >= threshold):
            break
        reasons[name] = REVEALING
        hidden_people += count
    return reasons
