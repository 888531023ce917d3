"""Time and memory of first-stage ranks in ChEBI-20's full pool: python -m tools.bench.rank

3,300 text queries among 33,008 molecules: random rows of length one, memory-mapped from disk as
cached embeddings are; by index, then by identity. A matrix product of fixed size before and after
shows how fast the machine was. Each time is of one run on all cores that the process may use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from tmr_jax.data.files import cache_folder
from tmr_jax.eval.metrics import metrics
from tmr_jax.eval.rank import rank
from tmr_jax.models.encode import l2_normalize
from tools.bench.common import peak_gib, seconds

QUERIES, POOL, DIM = 3_300, 33_008, 300
SQUARE = 4_096  # side of the matrices of the fixed product
DUPLICATES = 0.1  # share of candidates with the model input, text or molecule of another one


@dataclass(frozen=True)
class Arguments:
    folder: Path = cache_folder() / "bench_rank"
    """Where the embeddings are kept after the first run."""


def vectors(folder: Path, name: str, count: int, seed: int) -> np.ndarray:
    """Rows as a memory map, so that rows that are not read take no memory."""
    path = folder / f"{name}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(seed)
        np.save(path, l2_normalize(random.normal(size=(count, DIM)).astype(np.float32)))
    return np.load(path, mmap_mode="r", allow_pickle=False)


def with_duplicates(seed: int) -> np.ndarray:
    """Labels of the pool; a share of them repeats another label."""
    random, label = np.random.default_rng(seed), np.arange(POOL)
    repeated = random.choice(POOL, int(DUPLICATES * POOL), replace=False)
    label[repeated] = random.integers(0, POOL, len(repeated))
    return label


def timed(what: str, run: Callable[[], object]) -> None:
    taken = seconds(run)
    print(f"{what}: {taken:.2f} s, peak memory so far {peak_gib():.2f} GiB", flush=True)


def product() -> None:
    square = np.ones((SQUARE, SQUARE), np.float32)
    np.matmul(square, square)


def measure(folder: Path) -> None:
    query = vectors(folder, "query", QUERIES, 0)
    candidate = vectors(folder, "candidate", POOL, 1)
    target, group = np.arange(POOL - QUERIES, POOL), with_duplicates(2)
    labels = np.stack([with_duplicates(3), with_duplicates(4)])
    print(f"{QUERIES:,} queries x {POOL:,} candidates x {DIM}")
    timed("fixed product before", product)
    timed("ranks by index", lambda: metrics(rank(query, candidate, target, group)))
    timed("ranks by identity", lambda: metrics(rank(query, candidate, target, group, labels)))
    timed("fixed product after", product)


if __name__ == "__main__":
    measure(tyro.cli(Arguments, description=__doc__).folder)
