"""Freed blocks stay with the process, so that using them again costs no page faults."""

import subprocess
import sys

PROGRAM = """
import resource
import numpy as np
from tmr_jax.models.malloc import keep_freed_memory

kept = {use} and keep_freed_memory()
for i in range(6):
    if i == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)  # 128 MB, touched and freed
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(use: bool) -> tuple[bool, int]:
    command = [sys.executable, "-c", PROGRAM.format(use=use)]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return words[0] == "1", int(words[1])


def test_the_next_large_block_is_the_last_one():
    kept, few = faults(True)
    if kept:  # a C library without mallopt changes nothing
        assert few < faults(False)[1] / 10
