"""What the checker found, counted by invariant and told in sentences."""

from collections import Counter
from dataclasses import dataclass, field

# Enough to see what is wrong; a log with one systematic fault has thousands.
_SHOWN = 200


@dataclass
class Report:
    """Violations of the log by invariant code, and where the summary differs from the log."""

    violations: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing at all was found."""
        return not self.violations and not self.differences

    def violation(self, code: str, where: str, what: str) -> None:
        """Count one breach of `code`; `where` names the event or the aggregate."""
        self.violations[code] += 1
        self.messages.append(f"{code}: {where}: {what}")

    def difference(self, what: str) -> None:
        """Note one figure of the summary that the log does not bear out."""
        self.differences.append(what)

    def lines(self) -> list[str]:
        """Return the report for a reader: the counts, then the first findings of both kinds."""
        if self.ok:
            return ["no violation, no difference"]
        counts = [f"{code}: {count} violations" for code, count in sorted(self.violations.items())]
        if self.differences:
            counts.append(f"summary: {len(self.differences)} differences")
        return [*counts, *_first(self.messages), *_first(self.differences)]


def _first(lines: list[str]) -> list[str]:
    left = len(lines) - _SHOWN
    return lines if left <= 0 else [*lines[:_SHOWN], f"… and {left} more"]
