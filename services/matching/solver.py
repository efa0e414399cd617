"""The process that solves rounds: a task to it, what it tells meanwhile, its result."""

import asyncio
import contextlib
import sys
from collections.abc import Callable

from services.matching.engine.model import Result
from services.matching.engine.task import OUT_OF_MEMORY, Answer, Task
from services.matching.engine.watch import Progress
from shared.errors import UpwardError

Heard = Callable[[Progress], None]


class SolverError(UpwardError):
    """The process that solves rounds failed."""

    code = "solver_failed"


class SolverMemoryError(SolverError):
    """The pool does not fit into the memory that the process may have."""

    code = "solver_memory"


async def solve_apart(task: Task, heard: Heard) -> Result:
    """Solve in a process of its own, so that the event loop goes on; `heard` is told how far it is.

    Raises SolverError.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "services.matching.engine",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 24,
        # Ctrl-C is for us, who let the round finish: it must not look like a solver that failed.
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        _, answer, complaint = await asyncio.gather(
            _feed(process.stdin, task), _listen(process.stdout, heard), process.stderr.read()
        )
        await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode == OUT_OF_MEMORY:
        raise SolverMemoryError("The pool does not fit into the memory of the solver.")
    if process.returncode != 0 or answer.result is None:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise SolverError(f"The solver ended with {process.returncode}: {last}")
    return answer.result


async def _feed(stdin: asyncio.StreamWriter, task: Task) -> None:
    # One that dies early has its own way to say so.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for lines in task.written():
            stdin.write(lines)
            await stdin.drain()
        stdin.close()
        await stdin.wait_closed()


async def _listen(stdout: asyncio.StreamReader, heard: Heard) -> Answer:
    answer = Answer()
    async for line in stdout:
        before = answer.progress
        answer.hear(line)
        if answer.progress is not None and answer.progress is not before:
            heard(answer.progress)
    return answer
