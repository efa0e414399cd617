"""Where the time of a run goes."""

import cProfile
import pstats
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.load.measure import Cost, Profile

_DEAREST = 40


async def profiled(title: str, run: Callable[[], Awaitable[object]]) -> Profile:
    """Return the functions of this thread that a run spends most processor time in, without their
    callees.
    """
    profiler = cProfile.Profile(time.thread_time)
    profiler.enable()
    try:
        await run()
    finally:
        profiler.disable()
    profile = pstats.Stats(profiler).get_stats_profile()
    costs = [
        Cost(
            function=f"{Path(found.file_name).name}:{found.line_number} {name}",
            share=found.cumtime / profile.total_tt,
            own_share=found.tottime / profile.total_tt,
            calls=int(found.ncalls.partition("/")[0]),
        )
        for name, found in profile.func_profiles.items()
    ]
    dearest = sorted(costs, key=lambda cost: -cost.own_share)[:_DEAREST]
    return Profile(run=title, costs=tuple(dearest))
