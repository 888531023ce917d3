"""What the benchmarks share: settings, clocks, memory."""

from __future__ import annotations

import functools
import json
import operator
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tmr_jax.config import Experiment, from_json, to_json
from tmr_jax.data.files import write_json
from tmr_jax.models.runtime import EXPORTED


def altered(config: Experiment, changes: dict[str, Any]) -> Experiment:
    """The experiment with other values of settings such as `train.epochs`. Errors: UserError for an
    unknown field, KeyError or TypeError for an unknown section."""
    values = json.loads(to_json(config))
    for path, value in changes.items():
        *sections, name = path.split(".")
        functools.reduce(operator.getitem, sections, values)[name] = value
    return from_json(json.dumps(values))


def keep(run: Path, name: str, record: dict[str, Any]) -> None:
    """Writes a record into a run; a folder of exported weights stays as it was exported."""
    if not (run / EXPORTED).is_file():
        write_json(run / name, record, indent=2)


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
