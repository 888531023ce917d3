"""Memory that a step has used is kept for the next step (Linux with glibc, training on CPU).

XLA asks for each step's temporary buffers, some gigabytes, and gives them back after it. By
default glibc returns blocks of that size to the system at once, and the next step pays for fresh
pages. Gradients of a MiniLM-sized encoder take 1.37 times as long that way
(tools/bench_cpu_step.py, experiments/LOG.md).
"""

from __future__ import annotations

import ctypes
import sys

# Numbers of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Call it before the first array is made. False where this is not glibc, and nothing changes.

    One heap that never shrinks, large blocks included: what is freed is found again. The price is
    that the process stays as large as its largest step was, and some more for the gaps.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))
    return all(mallopt(number, value) == 1 for number, value in settings)
