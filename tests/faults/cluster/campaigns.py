"""Which platform a fault is tried on: as many faults as can share one, do."""

import asyncio
import random
from pathlib import Path

from tests.faults.cluster.campaign import Campaign, GoodRun
from tests.faults.cluster.faults import Fault
from tests.faults.cluster.reference import Undisturbed

_LONGEST = 20
"""Steps of the story that one fault may take; one with fewer left begins the story anew."""


class Campaigns:
    """One campaign at a time: the machine is small. Its methods block, but for `good_run`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reference: Undisturbed | None = None
        self._now: Campaign | None = None
        self._good: GoodRun | None = None
        self._count = 0

    def get(self, seed: int, fault: Fault) -> Campaign:
        """Return the running campaign if it will do, else another one."""
        now = self._now
        if (
            now is None
            or now.broken
            or now.steps_left < _LONGEST
            or (now.seed, now.nodes, now.fills) != (seed, fault.nodes, fault.fills)
        ):
            self.stop()
            self._count += 1
            reference = Undisturbed(self._folder / f"undisturbed-{self._count}", seed)
            reference.start()
            self._reference = reference
            now = Campaign(
                self._folder / f"campaign-{self._count}",
                seed,
                reference,
                nodes=fault.nodes,
                fills=fault.fills,
            )
            self._now = now
            now.start()
        return now

    async def good_run(self) -> GoodRun:
        """Return what was found after a fault without findings; without one yet, after none."""
        if self._now is not None:
            self._good = self._now.good or self._good
        if self._good is None:
            campaign = await asyncio.to_thread(self.get, 1, Fault("", "", _nothing))
            await campaign.attack(_nothing, "")
            self._good = campaign.good
        assert self._good is not None
        return self._good

    def stop(self) -> None:
        """End the running campaign."""
        if self._now is not None:
            self._good = self._now.good or self._good
            self._now.stop()
            self._now = None
        if self._reference is not None:
            self._reference.stop()
            self._reference = None


async def _nothing(_campaign: Campaign, _luck: random.Random) -> None:
    """No fault at all."""
