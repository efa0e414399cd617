"""One round in a process of its own: a task on standard input, its result on standard output."""

import contextlib
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

from services.matching.engine.large import compile_all
from services.matching.engine.solve import solve
from services.matching.engine.task import OUT_OF_MEMORY, Line, read_task, tell, told
from services.matching.engine.watch import Progress, Watch
from services.matching.engine.what_if import what_if

_SHARE_OF_MEMORY = 0.75
_NICENESS = 10


def main() -> None:
    """Solve the task; ends by itself when whoever asked is gone.

    With `--compile` it compiles what large pools need, which is then kept on disk, and ends.
    """
    if sys.argv[1:] == ["--compile"]:
        compile_all()
        return
    _step_back()
    out = sys.stdout.buffer

    def hear(progress: Progress) -> None:
        out.write(told(Line(progress=progress)))
        out.flush()

    try:
        task = read_task(sys.stdin.buffer)
        order, pool = task.order, task.pool()
        watch = Watch(hear=hear, seconds=order.seconds)
        result = solve(pool, order.policy, order.seed, watch)
        if order.what_if:
            result = replace(result, what_if=what_if(pool, order.policy, order.seed, watch))
    except MemoryError:
        # What is left is too little to say more.
        os._exit(OUT_OF_MEMORY)
    out.writelines(tell(result))


def _step_back() -> None:
    """Leave the machine to the services: its time, and its memory when that runs out."""
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    most = int(_SHARE_OF_MEMORY * _memory())
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _memory() -> int:
    """Return how many bytes there are, in this container or in this machine."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return min(machine, int(Path(file).read_text()))
    return machine


if __name__ == "__main__":
    main()
