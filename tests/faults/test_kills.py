"""kill -9 between every two steps of command → commit → relay → log → consumer → commit."""

import json
import random
import time
from pathlib import Path

import pytest

from shared.failpoints import FAILPOINTS
from tests.support.demo import DemoRun, figures, kill_group


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """A demo that nobody killed; its figures are what every other run must end with."""
    run = DemoRun(tmp_path_factory.mktemp("undisturbed"))
    begun = time.monotonic()
    run.finish()
    run.seconds = time.monotonic() - begun
    run.check()
    return run


def _must_equal(run: DemoRun, undisturbed: DemoRun) -> None:
    summary = run.finish()
    run.check(redelivery=True)
    expected = json.loads(undisturbed.summary_file.read_bytes())
    assert figures(summary) == figures(expected)
    assert set(summary["violations"].values()) <= {0}


def _dies_and_recovers(name: str, hit: int, folder: Path, undisturbed: DemoRun) -> None:
    run = DemoRun(folder)
    process = run.start(UPWARD_FAILPOINT=f"{name}:{hit}")
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0, f"{name} was not hit {hit} times\n{said.decode()[-1000:]}"
    _must_equal(run, undisturbed)


# Early hits strike while people enroll, late ones in the middle of sessions and feedback.
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("hit", [3, 20, 60])
@pytest.mark.parametrize("name", FAILPOINTS)
def test_a_kill_at_any_failpoint_loses_and_doubles_nothing(
    name: str, hit: int, tmp_path: Path, undisturbed: DemoRun
) -> None:
    _dies_and_recovers(name, hit, tmp_path, undisturbed)


def _kill_again_and_again(run: DemoRun, undisturbed: DemoRun, kills: int, seed: int) -> None:
    moments = random.Random(seed)
    # A third of its work between all of them: it is not to end before the last one.
    apart = min(1, undisturbed.seconds / (1.5 * kills))
    for number in range(kills):
        process = run.start()
        # Counted from the moment at which the platform answers: before it there is no load.
        run.wait_until_serving(process)
        time.sleep(moments.uniform(0, apart))
        assert process.poll() is None, f"seed {seed}: the demo ended after {number} kills"
        kill_group(process)
        process.communicate()


@pytest.mark.timeout(300)
def test_a_kill_at_a_random_moment_loses_and_doubles_nothing(
    tmp_path: Path, undisturbed: DemoRun
) -> None:
    run = DemoRun(tmp_path)
    _kill_again_and_again(run, undisturbed, kills=1, seed=3)
    _must_equal(run, undisturbed)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [20260105, 7])
def test_twenty_kills_at_random_moments_lose_and_double_nothing(
    seed: int, tmp_path: Path, undisturbed: DemoRun
) -> None:
    run = DemoRun(tmp_path)
    _kill_again_and_again(run, undisturbed, kills=20, seed=seed)
    _must_equal(run, undisturbed)
