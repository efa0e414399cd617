"""Making previews: the pool as it is, a process that solves it, nothing proposed."""

from datetime import datetime

from services.matching.domain.preview import Preview
from services.matching.engine.task import Order, Task
from services.matching.engine.watch import UNWATCHED
from services.matching.jobs import for_each
from services.matching.repository import every, require_program
from services.matching.rounds import LIMIT_SECONDS, read_pool
from services.matching.solver import solve_apart
from shared.clock import Clock
from shared.errors import StaleWriteError, UnavailableError, code_of
from shared.logging import get_logger
from shared.store.port import Store, Transaction


class PreviewRunner:
    """Makes the previews that were requested; one that a crash cut off is made again."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._log = get_logger("matching")

    async def run_previews(self, _now: datetime) -> None:
        """Make every preview that waits, one after the other."""
        await for_each(
            every(self._store, Preview, {"status": "requested"}, order_by="requested_at"),
            self._run,
        )

    async def _run(self, asked: Preview) -> None:
        try:
            program = await require_program(self._store, asked.program_id)
            gathered = await read_pool(self._store, program, asked.policy, self._clock.now())
            order = Order(
                policy=asked.policy,
                seed=asked.seed,
                seconds=LIMIT_SECONDS,
                what_if=asked.with_what_if,
            )
            result = await solve_apart(Task(order, gathered.lines), UNWATCHED.hear)
            done = asked.complete(result, self._clock.now())
        except (UnavailableError, StaleWriteError):
            raise
        except Exception as error:
            self._log.error("preview_failed", preview_id=asked.id, exc_info=error)
            done = asked.fail(code_of(error), self._clock.now())
        await self._store.transact(_keep, done)


async def _keep(tx: Transaction, done: Preview) -> None:
    # Another replica may have made it meanwhile, and a newer one may have been asked for since.
    known = await tx.require(Preview, done.id)
    if known.version == done.version:
        tx.put(done)
