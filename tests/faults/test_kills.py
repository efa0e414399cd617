"""kill -9 between every two steps of command → commit → relay → log → consumer → commit."""

import json
import random
import subprocess
import time
from pathlib import Path

import pytest

from shared.failpoints import FAILPOINTS
from tests.support.demo import DemoRun, figures, kill_group


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """A demo that nobody killed; its figures are what every other run must end with."""
    run = DemoRun(tmp_path_factory.mktemp("undisturbed"))
    run.finish()
    run.check()
    return run


def _must_equal(run: DemoRun, undisturbed: DemoRun) -> None:
    summary = run.finish()
    run.check(redelivery=True)
    expected = json.loads(undisturbed.summary_file.read_bytes())
    assert figures(summary) == figures(expected)
    assert set(summary["violations"].values()) <= {0}


def _wait_for_death(process: "subprocess.Popen[bytes]", seconds: float = 120) -> str:
    said, _ = process.communicate(timeout=seconds)
    return said.decode()


# Early hits strike while people enroll, late ones in the middle of sessions and feedback.
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("hit", [40])
@pytest.mark.parametrize("name", FAILPOINTS)
def test_a_kill_at_a_failpoint_loses_and_doubles_nothing(
    name: str, hit: int, tmp_path: Path, undisturbed: DemoRun
) -> None:
    run = DemoRun(tmp_path)
    process = run.start(UPWARD_FAILPOINT=f"{name}:{hit}")
    said = _wait_for_death(process)
    assert process.returncode != 0, f"the failpoint {name} was never hit\n{said[-1000:]}"
    _must_equal(run, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_at_random_moments_lose_and_double_nothing(
    tmp_path: Path, undisturbed: DemoRun
) -> None:
    run, seed = DemoRun(tmp_path), 20260105
    moments = random.Random(seed)
    kills = 0
    while kills < 20:
        process = run.start()
        # Counted from the moment at which the platform answers: before it there is no load.
        run.wait_until_serving(process)
        time.sleep(moments.uniform(0, 2))
        if process.poll() is not None:
            break
        kill_group(process)
        process.communicate()
        kills += 1
    assert kills == 20, f"seed {seed}: the demo ended after {kills} kills"
    _must_equal(run, undisturbed)
