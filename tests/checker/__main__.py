"""python -m tests.checker EVENTS.ndjson SUMMARY.json [--allow-redelivery]"""

import argparse
import json
import sys
from pathlib import Path

from tests.checker.check import check


def main(arguments: list[str] | None = None) -> int:
    """Print what was found; return 1 if it was anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.checker", description=__doc__)
    parser.add_argument("events", type=Path, help="the event log, one CloudEvent a line")
    parser.add_argument("summary", type=Path, help="the summary, with as_of and program")
    parser.add_argument(
        "--allow-redelivery",
        action="store_true",
        help="later identical copies of an event are no violation",
    )
    options = parser.parse_args(arguments)
    told = json.loads(options.summary.read_text(encoding="utf-8"))
    with options.events.open(encoding="utf-8") as lines:
        report = check(lines, told, allow_redelivery=options.allow_redelivery)
    sys.stdout.write("\n".join(report.lines()) + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
