"""What the benchmarks share: settings, clocks, memory, a folder to work in."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tmr_jax.config import Experiment, from_json, to_json

LOOK = 0.2  # seconds between two readings of a process's memory


def altered(config: Experiment, changes: dict[str, Any]) -> Experiment:
    """The experiment with other values of settings such as `train.epochs`. Errors: UserError for an
    unknown field, KeyError or TypeError for an unknown section."""
    values = json.loads(to_json(config))
    for path, value in changes.items():
        *sections, name = path.split(".")
        functools.reduce(operator.getitem, sections, values)[name] = value
    return from_json(json.dumps(values))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fastest(work: Callable[[], object], runs: int = 3) -> float:
    """Seconds of the fastest run after the first, which compiles and touches the files."""
    work()
    return min(seconds(work) for _ in range(runs))


def recall(scores: Any, best: Any) -> float:
    """The share of places with a score as good as the best; equal scores may change places. -inf is
    a place without a hit."""
    mine, right = np.array(scores), np.array(best)
    real = np.isfinite(right)
    least = np.where(real, right, np.inf).min(axis=1, keepdims=True)
    return float((np.isfinite(mine) & (mine >= least - 1e-6)).sum() / real.sum())


def peak_gib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextlib.contextmanager
def workplace(folder: Path | None, name: str) -> Iterator[Path]:
    """`folder`, or a temporary one that is removed."""
    place = folder or Path(tempfile.mkdtemp(prefix=f"bench_{name}-"))
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def watched(*args: str) -> tuple[float, list[float], str]:
    """Runs `python -m ARGS`: its seconds, its memory in GiB at every reading, what it printed."""
    start, memory = time.perf_counter(), [0.0]
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *args], stdout=out, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            memory.append(_held_gib(process.pid))
            time.sleep(LOOK)
        out.seek(0)
        printed = out.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(args[:2])} failed with {process.returncode}: {printed}")
    return time.perf_counter() - start, [m for m in memory if m] or [0.0], printed


def _held_gib(pid: int) -> float:
    """Of a process and its children; shared pages count in parts."""
    total = 0
    for one in (pid, *_children(pid)):
        with contextlib.suppress(OSError):  # the process has ended
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 2**20


def _children(pid: int) -> list[int]:
    try:
        listed = [p.read_text().split() for p in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for pids in listed for child in pids]
