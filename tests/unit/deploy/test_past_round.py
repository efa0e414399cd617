"""What the log tells of a round's pool, and what it withholds."""

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from services.matching.engine.model import Candidate, Policy, Snapshot
from shared.events.envelope import Event
from shared.events.pairs import (
    PairDeclined,
    Paired,
    PairEnded,
    PairProposed,
    PairSide,
    RoleCounts,
    RoundCompleted,
)
from tests.unit.matching.builders import NOW, enrolled, mentee, mentor, policy, published

LATER = NOW + timedelta(days=2)


def side(name: str, level: int) -> PairSide:
    return PairSide(
        participant_id=name, person_id=f"person-{name}", level=level, department="d", region="emea"
    )


def proposed(round_id: str = "before") -> PairProposed:
    return PairProposed(
        pair_id=f"pair-{round_id}",
        program_id="program",
        round_id=round_id,
        mentor=side("m", 6),
        mentees=(side("s", 2),),
        score=1,
        rationale=(),
        rules=(),
        origin="round",
        expires_at=LATER,
    )


def completed(pool: Sequence[Candidate], rules: Policy) -> RoundCompleted:
    snapshot = Snapshot()
    for one in pool:
        snapshot.add(one)
    return RoundCompleted(
        round_id="round",
        program_id="program",
        kind="round",
        pool=RoleCounts(mentors=1, mentees=1),
        matched=RoleCounts(mentors=0, mentees=0),
        proposed=0,
        unmatched={},
        objective=0,
        bound=0,
        gap=0,
        mean_dissimilarity=None,
        mean_dissimilarity_random=None,
        seed=1,
        snapshot=snapshot.id(rules),
        started_at=LATER,
    )


def log_of(folder: Path, *between: Event, end: RoundCompleted) -> Path:
    events = [published(), enrolled("m"), enrolled("s", role="mentee"), *between, end]
    lines = [
        {
            "id": str(number),
            "type": event.type(),
            "subject": event.subject,
            "time": (LATER if event is end else NOW).isoformat(),
            "program": "program",
            "aggregateversion": 1,
            "data": event.model_dump(mode="json"),
        }
        for number, event in enumerate(events)
    ]
    file = folder / "events.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def rebuild(log: Path) -> tuple[int, str, list[Candidate]]:
    pool, rules = log.parent / "pool.ndjson", log.parent / "policy.toml"
    arguments = ["match", "round", str(log), "--round", "round", "--out", str(pool)]
    done = CliRunner().invoke(app, [*arguments, "--policy", str(rules)])
    found = [Candidate.model_validate_json(line) for line in pool.read_text().splitlines()]
    return done.exit_code, " ".join(done.output.split()), found


RULES = policy(term_middle=(LATER + timedelta(days=7 + 90)).date())
FREE = [
    mentor("m", capacity=1, waited_days=2),
    mentee("s", capacity=1, waited_days=2),
]


def test_who_was_free_when_a_round_began_is_its_pool(tmp_path: Path) -> None:
    code, said, pool = rebuild(log_of(tmp_path, end=completed(FREE, RULES)))
    assert (code, pool) == (0, FREE), said


def test_who_has_a_partner_is_not_in_the_pool_and_who_had_one_does_not_meet_them_again(
    tmp_path: Path,
) -> None:
    paired = Paired(**dict(proposed()), started_at=NOW, ends_at=LATER, waited_days={"m": 0, "s": 0})
    end = completed([], RULES)
    code, said, pool = rebuild(log_of(tmp_path, proposed(), paired, end=end))
    assert (code, pool) == (0, []), said
    over = PairEnded(pair_id="pair-before", program_id="program", reason="withdrawn", ended_at=NOW)
    former = [
        one.model_copy(update={"former_partners": (f"person-{other}",)})
        for one, other in zip(FREE, ("s", "m"), strict=True)
    ]
    end = completed(former, RULES)
    code, said, pool = rebuild(log_of(tmp_path, proposed(), paired, over, end=end))
    assert (code, pool) == (0, former), said


def test_who_declined_is_not_in_the_log_and_a_round_after_it_is_not_proven(tmp_path: Path) -> None:
    no = PairDeclined(pair_id="pair-before", program_id="program", at=NOW)
    seen = [
        FREE[0].model_copy(update={"vetoes": ("person-s",), "declines": 1}),
        FREE[1].model_copy(update={"vetoes": ("person-m",)}),
    ]
    code, said, pool = rebuild(log_of(tmp_path, proposed(), no, end=completed(seen, RULES)))
    assert (code, "1 were before it" in said) == (1, True)
    assert pool == [one.model_copy(update={"declines": 0}) for one in seen]


def test_the_rounds_own_proposals_and_their_answers_are_not_before_it(tmp_path: Path) -> None:
    no = PairDeclined(pair_id="pair-round", program_id="program", at=NOW)
    code, said, pool = rebuild(log_of(tmp_path, proposed("round"), no, end=completed(FREE, RULES)))
    assert (code, pool) == (0, FREE), said


@pytest.mark.parametrize("missing", ["the round", "its beginning"])
def test_a_log_without_the_round_is_refused_with_the_reason(tmp_path: Path, missing: str) -> None:
    end = completed(FREE, RULES)
    changes = {"round_id": "other"} if missing == "the round" else {"started_at": None}
    refused(log_of(tmp_path, end=end.model_copy(update=changes)), "does not tell")


def refused(log: Path, reason: str) -> None:
    files = ["--out", str(log.parent / "pool"), "--policy", str(log.parent / "policy")]
    done = CliRunner().invoke(app, ["match", "round", str(log), "--round", "round", *files])
    # The terminal's lines break anywhere in a path.
    said = "".join(done.output.split())
    assert (done.exit_code, "".join(reason.split()) in said) == (1, True), said
    assert not (log.parent / "pool").exists()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (lambda _: "no JSON", "events.ndjson:2: Invalid JSON"),
        (lambda told: json.dumps({"id": told["id"]}), "events.ndjson:2: type: Field required"),
        (
            lambda told: json.dumps(told | {"data": {}}),
            "events.ndjson:2: program_id: Field required",
        ),
    ],
)
def test_what_is_no_export_is_refused_with_its_line_and_field(
    tmp_path: Path, changed: Callable[[dict[str, object]], str], reason: str
) -> None:
    log = log_of(tmp_path, end=completed(FREE, RULES))
    lines = log.read_text().splitlines()
    lines[1] = changed(json.loads(lines[1]))
    log.write_text("\n".join(lines))
    refused(log, reason)


def test_a_log_without_its_beginning_is_refused(tmp_path: Path) -> None:
    no = PairDeclined(pair_id="pair-before", program_id="program", at=NOW)
    log = log_of(tmp_path, no, end=completed(FREE, RULES))
    refused(log, "events.ndjson:4: tells of pair-before, of which no line before it does")


def test_a_log_without_the_rounds_program_is_refused(tmp_path: Path) -> None:
    log = log_of(tmp_path, end=completed(FREE, RULES))
    log.write_text("\n".join(log.read_text().splitlines()[1:]))
    refused(log, "does not tell the round's program as it was")
