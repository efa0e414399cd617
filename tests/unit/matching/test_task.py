"""A round on its way to another process and back, and what is heard of it meanwhile."""

import resource
import subprocess
import sys

import pytest

from services.matching.engine import assignment
from services.matching.engine.large import solve_large
from services.matching.engine.model import Candidate, Result, Snapshot
from services.matching.engine.solve import solve
from services.matching.engine.task import (
    OUT_OF_MEMORY,
    Answer,
    Line,
    Order,
    Task,
    read_task,
    tell,
    told,
)
from services.matching.engine.watch import Progress, Watch
from tests.unit.matching.builders import mentee, mentor, policy

_MEGABYTE = 1 << 20


def pool_of(pairs: int) -> list[Candidate]:
    return [
        *(mentor(f"m{number}", waited_days=number % 90) for number in range(pairs)),
        *(mentee(f"s{number}", waited_days=number % 80) for number in range(pairs + 3)),
        mentee("t", level=6),
    ]


def task_of(pool: list[Candidate]) -> Task:
    snapshot = Snapshot()
    lines = [snapshot.add(each) for each in sorted(pool, key=lambda one: one.participant_id)]
    return Task(Order(policy=policy(), seed=3, seconds=60), lines)


def heard_of(result: Result) -> Answer:
    answer = Answer()
    for line in tell(result):
        answer.hear(line)
    return answer


def test_a_task_and_its_result_survive_their_lines() -> None:
    task = task_of(pool_of(250))
    written = b"".join(task.written()).splitlines()
    assert read_task(written) == task
    assert sorted(one.participant_id for one in task.pool()) == sorted(
        one.participant_id for one in pool_of(250)
    )
    for pool in ([], pool_of(250)):
        result = solve(pool, task.order.policy, task.order.seed)
        assert heard_of(result).result == result


def test_the_process_answers_as_the_function_does() -> None:
    task = task_of(pool_of(20))
    done = subprocess.run(
        [sys.executable, "-m", "services.matching.engine"],
        input=b"".join(task.written()),
        capture_output=True,
        check=True,
    )
    answer = Answer()
    for line in done.stdout.splitlines():
        answer.hear(line)
    assert answer.result == solve(task.pool(), task.order.policy, task.order.seed)


def test_progress_is_heard_between_the_lines_of_a_result() -> None:
    answer = Answer()
    progress = Progress("bidding", 0.6, 0.01)
    answer.hear(told(Line(progress=progress)))
    assert (answer.progress, answer.result) == (progress, None)


def test_a_large_round_tells_how_far_it_is() -> None:
    heard: list[Progress] = []
    solve_large(pool_of(30), policy(), 1, watch=Watch(hear=heard.append))
    shares = [progress.done for progress in heard]
    assert shares == sorted(shares)
    assert (shares[0], heard[-1].stage) == (0, "explaining")
    assert all(share < 1 for share in shares)


@pytest.mark.parametrize(("seconds", "limited"), [(-1.0, True), (3600.0, False)])
def test_when_the_time_is_up_the_best_so_far_is_the_result(
    monkeypatch: pytest.MonkeyPatch, seconds: float, limited: bool
) -> None:
    # Nothing is ever good enough: rounds go on until the time is up, or as long as they may.
    monkeypatch.setattr(assignment, "TOLERANCE_PER_MILLE", -1)
    found = solve_large(pool_of(30), policy(), 1, watch=Watch(seconds=seconds), proved_up_to=0)
    assert (found.limited, found.matched.mentors) == (limited, 30)
    assert found.objective <= found.bound


def test_a_pool_that_does_not_fit_into_memory_has_an_exit_code_of_its_own() -> None:
    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (300 * _MEGABYTE, 300 * _MEGABYTE))

    done = subprocess.run(
        [sys.executable, "-m", "services.matching.engine"],
        input=b"".join(task_of(pool_of(2000)).written()),
        capture_output=True,
        check=False,
        preexec_fn=bounded,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin"},
    )
    assert done.returncode == OUT_OF_MEMORY, done.stderr[-500:]
    answer = Answer()
    for line in done.stdout.splitlines():
        answer.hear(line)
    assert answer == Answer(progress=answer.progress)
