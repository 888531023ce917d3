"""What grows with what: time and memory of a step, of ranks and of the second stage.

    python -m tools.bench.curves --out experiments/curves/cost.png

Self-contained: random weights and inputs, as tools/bench/gpu.py draws them. Each point is a process
of its own, so that its peak memory is its own; on a CPU that is all of the process, on an
accelerator what its allocator had at most. A value that does not fit is a point that is missing,
and said. Steps are DiffTMR's, all of its loss, in bfloat16, of an encoder of MiniLM's size (of
SciBERT's on an accelerator); time is the median of the steps after compilation.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from tmr_jax.data.cache import cache_folder
from tmr_jax.eval.rank import rank
from tmr_jax.eval.rerank import PoolReranker, settings_of
from tmr_jax.models.encode import Encoded, unit
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.runtime import keep_freed_memory, use_compile_cache
from tmr_jax.models.state import new_state
from tmr_jax.train.loader import feed_of
from tmr_jax.train.optim import build_optimizer
from tools.bench.gpu import FULL, SHRUNK, Sizes, parameters, side, work

MINILM = BertConfig(30_522, 384, 6, 12, 1_536, pooler=False)
CURVES: dict[str, tuple[int, ...]] = {
    "batch": (32, 64, 128, 256, 512, 1024, 2048, 4096),
    "text length": (32, 64, 128, 256),
    "pool": (1_000, 10_000, 100_000, 1_000_000),
    "S": (1, 10, 25, 50, 100),
    "F": (0, 5, 15, 30, 60),
    "K": (8, 16, 32, 64, 128),
}
UNITS = {
    "batch": "a step, batch of so many pairs",
    "text length": "a step, 32 pairs of so many word pieces",
    "pool": "ranks of 32 queries among so many",
    "S": "32 queries refined, so many steps",
    "F": "32 queries refined, so many perturbations",
    "K": "32 queries refined, so many denoised",
}
SETTING = {"S": "steps", "F": "samples", "K": "candidates"}
QUERIES, POOL, DIM = 32, 3_300, 300
TIMED = 4  # repeats after the first
ENOUGH_S = 60  # after which a point is not repeated further
OF_MEMORY = 0.85  # what a point on a CPU may take of the memory that is free: no other process dies
LIMIT_S = 900  # of one point


@dataclass(frozen=True)
class Arguments:
    out: Path = Path("cost.png")
    curves: tuple[str, ...] = tuple(CURVES)
    """Some of: batch, text length, pool, S, F, K."""
    most: int = 1_000_000_000
    """No point beyond this value, for a small machine."""
    shrunk: bool = False
    """A toy model: what a test runs."""
    point: tuple[str, int] | None = None
    """For the program itself: measure this one and print it."""


def size_of(told: Arguments) -> Sizes:
    if told.shrunk:
        return SHRUNK
    return FULL if jax.default_backend() != "cpu" else FULL._replace(bert=MINILM)


def step(size: Sizes, batch: int, length: int = 0) -> list[float]:
    """Seconds of steps; with a length every text has it."""
    size = size._replace(pairs=max(2 * batch, 64), width=length or size.width)
    task = work(size, "packed", batch)
    if length:
        text = task.data.text
        offsets = np.arange(size.pairs + 1) * length
        tokens = np.resize(text.tokens, offsets[-1])
        fixed = task.data._replace(text=text._replace(tokens=tokens, offsets=offsets))
        shapes = fixed.shapes._replace(text=(length,), rows=(batch,))
        task = task._replace(data=fixed._replace(shapes=shapes))
    params = parameters(task)
    optimizer = build_optimizer(task.config.optim, 100, params, task.model.groups)
    state, key = new_state(params, optimizer), jax.random.key(0)
    feed = feed_of(task.data, task.model, optimizer, frozenset(), None, 0)
    plan = task.data.composition.epoch(0, 0)
    held = [state]

    def once() -> None:
        answer = feed(held[0], plan[:1], key)
        held[0] = answer.state
        jax.block_until_ready(answer.metrics)

    return repeated(once)


def repeated(once: Callable[[], object]) -> list[float]:
    """Seconds of each turn: `TIMED` after the first, or as many as `ENOUGH_S` has room for."""
    seconds: list[float] = []
    while len(seconds) <= TIMED and not (len(seconds) > 1 and sum(seconds) > ENOUGH_S):
        start = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - start)
    return seconds


def ranks(count: int) -> list[float]:
    random = np.random.default_rng(0)
    pool = random.standard_normal((count, DIM), np.float32)
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    each = np.arange(count)
    return repeated(lambda: rank(pool[:QUERIES], pool, each[:QUERIES], each))


def refined(size: Sizes, setting: str, value: int) -> list[float]:
    task = work(size, "packed", size.small)
    config = task.config
    told = dataclasses.replace(config.eval.refine, **{SETTING[setting]: value})
    hdan = dataclasses.replace(config.model.hdan, steps=max(value, config.model.hdan.steps))
    model = dataclasses.replace(config.model, hdan=hdan if setting == "S" else config.model.hdan)
    config = dataclasses.replace(
        config, model=model, eval=dataclasses.replace(config.eval, refine=told)
    )
    assembly: Any = dataclasses.make_dataclass("Model", ["model", "config"])(task.model, config)
    if setting == "S":
        assembly.model = task.model.clone(hdan=hdan)
    refiner = PoolReranker(assembly, parameters(task), settings_of(config))
    random = np.random.default_rng(0)
    count = min(size.pool, POOL)
    parts = [np.clip(random.poisson(n, count), 1, size.width) for n in (size.width // 3, 30)]
    sides = [side(count, p, config.model.dim, i) for i, p in enumerate(parts)]
    each = np.arange(count)
    text, mol = (Encoded(unit(s.pooled), each, s) for s in sides)
    target = np.where(each < QUERIES, each, -1)
    return repeated(lambda: refiner.lists(text, mol, "t2m", target))


def bound_memory() -> None:
    """An allocation beyond what the machine has fails here, and ends no process at random."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    most = int(OF_MEMORY * free * 1024)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def point(told: Arguments, curve: str, value: int) -> dict[str, float]:
    size = size_of(told)
    if jax.default_backend() == "cpu" and Path("/proc/meminfo").exists():
        bound_memory()
    if curve == "batch":
        seconds = step(size, value)
    elif curve == "text length":
        seconds = step(size, size.small, value)
    elif curve == "pool":
        seconds = ranks(value)
    else:
        seconds = refined(size, curve, value)
    stats = jax.devices()[0].memory_stats()
    peak = stats["peak_bytes_in_use"] / 2**30 if stats else 0.0
    peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": statistics.median(seconds[1:]), "first": seconds[0], "gib": peak}


def measured(told: Arguments, curve: str, value: int) -> dict[str, float] | None:
    """A point by a process of its own; None where it does not come to its end."""
    words = ["--point", curve, str(value), *(["--shrunk"] if told.shrunk else [])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tools.bench.curves", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        print(f"{UNITS[curve]}: {value:,}: not within {LIMIT_S} s", flush=True)
        return None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        print(f"{UNITS[curve]}: {value:,}: does not fit or failed ({last[:100]})", flush=True)
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{UNITS[curve]}: {value:,}: {found['seconds']:.3f} s (first {found['first']:.1f} s), "
        f"{found['gib']:.2f} GiB",
        flush=True,
    )
    return found


def draw(found: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis, (curve, points) in zip(axes.flat, found.items(), strict=False):
        values = list(points)
        axis.plot(values, [p["seconds"] for p in points.values()], "o-", color="C0")
        axis.set_xlabel(UNITS[curve], fontsize=8)
        axis.set_ylabel("seconds", color="C0")
        if curve in ("batch", "pool"):
            axis.set_xscale("log", base=2 if curve == "batch" else 10)
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        other = axis.twinx()
        other.plot(values, [p["gib"] for p in points.values()], "s--", color="C1")
        other.set_ylabel("GiB at most", color="C1")
        other.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(told: Arguments) -> None:
    keep_freed_memory()
    use_compile_cache(cache_folder())
    if told.point:
        print(json.dumps(point(told, *told.point)))
        return
    unknown = set(told.curves) - set(CURVES)
    if unknown:
        raise SystemExit(f"expected curves of {', '.join(CURVES)}; got {', '.join(unknown)}")
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}", flush=True)
    found: dict[str, dict[int, dict[str, float]]] = {}
    for curve in told.curves:
        for value in (v for v in CURVES[curve] if v <= told.most):
            one = measured(told, curve, value)
            if one is None:
                break  # what is larger does not fit either
            found.setdefault(curve, {})[value] = one
    told.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, told.out)
    print(told.out)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
