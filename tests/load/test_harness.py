"""The load harness's own arithmetic, and that every stage runs."""

from collections import Counter
from pathlib import Path

import pytest

from services.matching.engine.model import Candidate
from services.matching.engine.solve import solve_dense
from shared.messaging.parsing import parse
from tests.load.events import history
from tests.load.matching.pools import POLICY, SHAPES, Shape, pool
from tests.load.measure import Budget, Figure, Percentiles
from tests.load.pipeline import STAGES, Options, bench_pipeline
from tests.support.servers import KafkaCluster
from tests.support.servers.process import TOOLS
from tests.unit.reporting.projection import projection


def test_percentiles_are_times_that_were_measured() -> None:
    found = Percentiles.of(number / 1000 for number in range(1000, 0, -1))

    assert found == Percentiles(count=1000, p50=500, p99=990, p999=999)
    assert Percentiles.of([0.25]) == Percentiles(count=1, p50=250, p99=250, p999=250)
    with pytest.raises(ValueError, match="nothing was measured"):
        Percentiles.of([])


def test_a_ratio_is_the_median_of_the_runs_own_ratios() -> None:
    # In the second run the machine was slow for both: the medians alone would say 0.6.
    figure = Figure.beside("x", "1/s", [(50, 100), (6, 12), (60, 100)], "bare")

    assert (figure.value, figure.reference, figure.ratio) == (50, 100, 0.5)
    assert figure.met is None


@pytest.mark.parametrize(
    ("direction", "ratio", "met"),
    [
        ("at least", 0.5, True),
        ("at least", 0.499, False),
        ("at most", 0.5, True),
        ("at most", 0.501, False),
    ],
)
def test_a_budget_is_met_up_to_its_border(direction: str, ratio: float, met: bool) -> None:
    budget = Budget.model_validate({"direction": direction, "ratio": 0.5})

    assert Figure.beside("x", "s", [(ratio, 1)], "bare", budget).met is met


def test_a_history_is_legal_in_order_and_the_same_again() -> None:
    told = list(history(2000))

    assert told == list(history(2000))
    assert len(told) == 2000
    events = [parse(record) for record in told]
    times = [envelope.time for envelope, _ in events]
    assert times == sorted(times)
    assert max(Counter(envelope.id for envelope, _ in events).values()) == 1
    kinds = Counter(event.name for _, event in events)
    assert len(kinds) == 13
    assert kinds["session-held"] > kinds["paired"] > kinds["pair-declined"]


async def test_reporting_refuses_nothing_of_a_history_and_any_batches_give_the_same(
    tmp_path: Path,
) -> None:
    async with projection(tmp_path / "one.db") as one:
        for record in history(600):
            await one.consumer.process([record])
        assert await one.dead_letters() == []
        singly = await one.buckets()
    async with projection(tmp_path / "all.db") as all_at_once:
        await all_at_once.consumer.process(list(history(600)))
        assert await all_at_once.buckets() == singly


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(600)
async def test_every_stage_measures_something(kafka: KafkaCluster) -> None:
    # `kafka` stands for the tools being there: the benchmark starts servers of its own.
    bench = await bench_pipeline(Options(events=10_000, repetitions=1))

    assert [stage.name for stage in bench.stages] == list(STAGES)
    for stage in bench.stages:
        assert stage.figures or stage.profiles, stage.name
        assert all(profile.costs for profile in stage.profiles), stage.name
        for figure in stage.figures:
            assert figure.value > 0, figure
    assert bench.model_validate_json(bench.model_dump_json()) == bench
    if (TOOLS / "peers").is_dir():
        (peers,) = (stage for stage in bench.stages if stage.name == "peers")
        assert not [note for note in peers.notes if "was not run" in note]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_drawn_company_is_valid_the_same_again_and_can_be_matched(shape: Shape) -> None:
    drawn = list(pool(60, 50, 1, shape))

    assert drawn == list(pool(60, 50, 1, shape))
    assert drawn == [Candidate.model_validate(one.model_dump()) for one in drawn]
    assert solve_dense(drawn, POLICY, 1).matched.mentees > 0
