"""Every fault of the table on real Kafka and MongoDB: nothing lost, nothing twice, in order."""

import asyncio
import os
import shutil
from collections.abc import Callable, Collection

import pytest

from tests.faults.cluster.campaign import Outcome, may_mount
from tests.faults.cluster.campaigns import Campaigns
from tests.faults.cluster.evidence import Evidence
from tests.faults.cluster.faults import FAULTS, Fault
from tests.faults.cluster.invariants import all_findings
from tests.faults.cluster.matrix import PROPERTY, part_of
from tests.faults.cluster.mutations import mutants
from tests.support.servers import ServerError

# They share a platform, so one process runs all of them.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.xdist_group("faults")]

# One seed is part of `make test-cluster`; `make faults` asks for more.
_SEEDS = range(1, int(os.environ.get("SEEDS", "1")) + 1)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.number)
@pytest.mark.parametrize("seed", _SEEDS)
async def test_a_fault_loses_nothing_doubles_nothing_and_keeps_the_order(
    fault: Fault, seed: int, campaigns: Campaigns, record_property: Callable[[str, object], None]
) -> None:
    def tell(result: str, outcome: Outcome | None = None) -> None:
        record_property(PROPERTY, part_of(fault.number, seed, result, outcome))

    reason = may_mount() if fault.fills else ""
    if fault.kills_mongo and os.environ.get("MONGODB_URI"):
        reason = "the server of MONGODB_URI is not ours to kill"
    if reason:
        tell(f"not run: {reason}")
        pytest.skip(reason)
    try:
        campaign = await asyncio.to_thread(campaigns.get, seed, fault)
    except ServerError as error:
        if shutil.which("java") is not None:
            raise
        tell("not run: there is no Java")
        pytest.skip(str(error))
    campaign.broken = True
    try:
        outcome = await campaign.attack(fault.inject, fault.number, at_rest=fault.at_rest)
    except BaseException as error:
        tell(f"failed: seed {seed}: {error!r:.300}")
        raise
    campaign.broken = False
    tell("passed", outcome)


async def test_the_invariants_find_every_mutation_of_a_good_run(
    campaigns: Campaigns, record_property: Callable[[str, object], None]
) -> None:
    good = await campaigns.good_run()

    def found(evidence: Evidence) -> Collection[str]:
        return all_findings(evidence, good.effects, good.kpis, good.secrets)

    assert not found(good.evidence)
    seen = {name: invariant in found(mutant) for name, invariant, mutant in mutants(good.evidence)}
    record_property(PROPERTY, {"mutants": seen})
    assert all(seen.values()), seen
