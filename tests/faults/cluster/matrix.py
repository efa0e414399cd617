"""The table that a run ends with: faults by seeds, and how the harness itself was tested."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.cluster.campaign import Outcome
from tests.faults.cluster.faults import FAULTS, NOT_RUN

PROPERTY = "faults"
"""Under what name a test's report carries its part of the table to whoever prints it."""


def part_of(number: str, seed: int, result: str, outcome: Outcome | None = None) -> dict[str, Any]:
    """Return what became of one fault and seed, as a report carries it."""
    told = None if outcome is None else asdict(outcome)
    return {"number": number, "seed": seed, "result": result, "outcome": told}


@dataclass
class Matrix:
    """What became of each fault and seed."""

    results: dict[tuple[str, int], str] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    mutants: dict[str, bool] = field(default_factory=dict)

    def add(self, part: Mapping[str, Any]) -> None:
        """Take what a report carries: one fault and seed, or the mutants."""
        if "mutants" in part:
            self.mutants |= part["mutants"]
            return
        number = part["number"]
        self.results[number, part["seed"]] = part["result"]
        if part["outcome"] is not None:
            self.outcomes.setdefault(number, []).append(Outcome(**part["outcome"]))

    def lines(self) -> Iterator[str]:
        """Yield the table's lines."""
        seeds = sorted({seed for _, seed in self.results})
        head = " ".join(f"seed {seed}".ljust(8) for seed in seeds)
        yield f"{'fault':5} {'what':52} {head} live s  dropped"
        for fault in FAULTS:
            told = [self.results.get((fault.number, seed), "-") for seed in seeds]
            if set(told) == {"-"}:
                continue
            outcomes = self.outcomes.get(fault.number, [])
            live = max((outcome.live_seconds for outcome in outcomes), default=0.0)
            dropped = sum(outcome.duplicates for outcome in outcomes)
            row = " ".join(text.split(":")[0].ljust(8) for text in told)
            yield f"{fault.number:5} {fault.name:52} {row} {live:6.1f} {dropped:8}"
            for text in sorted({text for text in told if ":" in text}):
                yield f"      {text}"
            for outcome in outcomes:
                yield from (f"      {note}" for note in outcome.notes)
        for left in NOT_RUN:
            yield f"{left.number:5} {left.name:52} not run: {left.reason}"
        counted = [text.split(":")[0] for text in self.results.values()]
        yield (
            f"{counted.count('passed')} passed, {counted.count('failed')} failed,"
            f" {counted.count('not run')} not run of {len(counted)} runs"
        )
        found = sum(self.mutants.values())
        yield f"the harness itself: {found} of {len(self.mutants)} mutations of a good run found"
        yield from (f"      NOT found: {name}" for name, seen in self.mutants.items() if not seen)
