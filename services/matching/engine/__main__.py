"""One round in a process of its own: a task on standard input, its result on standard output."""

import sys

from services.matching.engine.large import compile_all
from services.matching.engine.solve import solve
from services.matching.engine.task import RESULT, Task


def main() -> None:
    """Solve the task; ends by itself when whoever asked is gone.

    With `--compile` it compiles what large pools need, which is then kept on disk, and ends.
    """
    if sys.argv[1:] == ["--compile"]:
        compile_all()
        return
    task = Task.model_validate_json(sys.stdin.buffer.read())
    sys.stdout.buffer.write(RESULT.dump_json(solve(task.pool, task.policy, task.seed)))


if __name__ == "__main__":
    main()
