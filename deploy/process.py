"""How the interpreter of a service's process is set."""

import gc
import sys


def tune_interpreter() -> None:
    """Set what CPython's defaults get wrong for one loop beside threads that write to disk."""
    # The stores' writer threads wake for microseconds; with CPython's default of 5 ms the loop
    # would wait that long for its turn after each of them.
    sys.setswitchinterval(0.0005)
    # A batch of 8,000 events makes some two to four hundred thousand objects and frees them again,
    # hardly any of them in a cycle: looking for cycles among those of each batch at work takes up
    # to a tenth of its time, in pauses of 40 ms. What was imported never goes.
    gc.freeze()
    gc.set_threshold(400_000, 10, 10)
