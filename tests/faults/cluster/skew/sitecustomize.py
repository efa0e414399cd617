"""Gives a Python process a wall clock of its own: that of the machine and what a file says.

Put this folder on PYTHONPATH; WALL_CLOCK_SKEW names the file, which holds whole seconds.
"""

import os
import time

_file = os.open(os.environ["WALL_CLOCK_SKEW"], os.O_RDONLY)
_time, _time_ns = time.time, time.time_ns


def _skew() -> int:
    return int(os.pread(_file, 16, 0) or b"0")


time.time = lambda: _time() + _skew()
time.time_ns = lambda: _time_ns() + _skew() * 1_000_000_000
