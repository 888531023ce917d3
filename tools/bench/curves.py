"""How time and memory of a step, of ranks and of the second stage grow with their sizes.

    python -m tools.bench.curves --out experiments/curves/cost.png

Self-contained: random weights and inputs from tools/bench/gpu.py. Each point runs in a separate
process, so that its peak memory is its own: of the whole process on a CPU, of the allocator on an
accelerator. A point that does not fit is reported and left out. Steps are DiffTMR's with its whole
loss, in bfloat16, with an encoder of MiniLM's size (SciBERT's on an accelerator); time is the
median of the steps after compilation.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

from tmr_jax.data.files import cache_folder
from tmr_jax.eval.rank import rank
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.runtime import keep_freed_memory, use_compile_cache
from tools.bench.common import altered, peak_gib, seconds
from tools.bench.gpu import FULL, SHRUNK, Sizes, second_stage, trainer, work

MINILM = BertConfig(30_522, 384, 6, 12, 1_536, pooler=False)
CURVES: dict[str, tuple[str, tuple[int, ...]]] = {
    "batch": ("a step, by pairs in a batch", (32, 64, 128, 256, 512, 1024, 2048, 4096)),
    "text length": ("a step of 32 pairs, by word pieces of a text", (32, 64, 128, 256)),
    "pool": ("ranks of 32 queries, by candidates", (1_000, 10_000, 100_000, 1_000_000)),
    "S": ("32 queries reranked, by sampling steps", (1, 10, 25, 50, 100)),
    "F": ("32 queries reranked, by perturbations", (0, 5, 15, 30, 60)),
    "K": ("32 queries reranked, by denoised candidates", (8, 16, 32, 64, 128)),
}
SETTING = {"S": "steps", "F": "samples", "K": "candidates"}
LOGARITHMIC = {"batch": 2, "pool": 10}  # bases
QUERIES, POOL, DIM = 32, 3_300, 300
TIMED = 4  # repeats after the first
ENOUGH_S = 60  # after which a point is not repeated further
OF_MEMORY = 0.85  # share of free memory that a point on a CPU may use
LIMIT_S = 900  # of one point


@dataclass(frozen=True)
class Arguments:
    out: Path = Path("cost.png")
    curves: tuple[str, ...] = tuple(CURVES)
    """Some of: batch, text length, pool, S, F, K."""
    most: int = 1_000_000_000
    """Largest value of a point."""
    shrunk: bool = False
    """A toy model, for tests."""
    point: tuple[str, int] | None = None
    """Internal: measure this point and print it."""


def size_of(args: Arguments) -> Sizes:
    if args.shrunk:
        return SHRUNK
    return FULL if jax.default_backend() != "cpu" else FULL._replace(bert=MINILM)


def step(size: Sizes, batch: int, length: int = 0) -> list[float]:
    """Seconds of steps; `length`: word pieces of every text."""
    size = size._replace(pairs=max(2 * batch, 64), width=length or size.width)
    task = work(size, "packed", batch)
    if length:
        text = task.data.text
        offsets = np.arange(size.pairs + 1) * length
        tokens = np.resize(text.tokens, offsets[-1])
        fixed = task.data._replace(text=text._replace(tokens=tokens, offsets=offsets))
        shapes = fixed.shapes._replace(text=(length,), rows=(batch,))
        task = task._replace(data=fixed._replace(shapes=shapes))
    loader, state = trainer(task)
    plan, key = task.data.composition.epoch(0, 0), jax.random.key(0)

    def once() -> None:
        nonlocal state
        answer = loader(state, plan[:1], key)
        state = answer.state
        jax.block_until_ready(answer.metrics)

    return repeated(once)


def repeated(once: Callable[[], object]) -> list[float]:
    """Seconds of the first run and of `TIMED` more, fewer if they take longer than `ENOUGH_S`."""
    taken: list[float] = []
    while len(taken) <= TIMED and not (len(taken) > 1 and sum(taken) > ENOUGH_S):
        taken.append(seconds(once))
    return taken


def ranks(count: int) -> list[float]:
    random = np.random.default_rng(0)
    pool = random.standard_normal((count, DIM), np.float32)
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    each = np.arange(count)
    return repeated(lambda: rank(pool[:QUERIES], pool, each[:QUERIES], each))


def reranked(size: Sizes, setting: str, value: int) -> list[float]:
    task = work(size, "packed", size.small)
    changes: dict[str, Any] = {f"eval.refine.{SETTING[setting]}": value}
    model = task.model
    if setting == "S":
        steps = max(value, task.config.model.hdan.steps)
        changes["model.hdan.steps"] = steps
        model = model.clone(hdan=dataclasses.replace(task.config.model.hdan, steps=steps))
    task = task._replace(config=altered(task.config, changes), model=model)
    random, count = np.random.default_rng(0), min(size.pool, POOL)
    parts = [np.clip(random.poisson(n, count), 1, size.width) for n in (size.width // 3, 30)]
    reranker, text, mol = second_stage(task, *parts)
    target = np.where(np.arange(count) < QUERIES, np.arange(count), -1)
    return repeated(lambda: reranker.lists(text, mol, "t2m", target))


def bound_memory() -> None:
    """Makes an allocation beyond free memory fail here, before the system kills some process."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    most = int(OF_MEMORY * free * 1024)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def point(args: Arguments, curve: str, value: int) -> dict[str, float]:
    size = size_of(args)
    if jax.default_backend() == "cpu" and Path("/proc/meminfo").exists():
        bound_memory()
    if curve == "batch":
        taken = step(size, value)
    elif curve == "text length":
        taken = step(size, size.small, value)
    elif curve == "pool":
        taken = ranks(value)
    else:
        taken = reranked(size, curve, value)
    stats = jax.devices()[0].memory_stats()
    peak = stats["peak_bytes_in_use"] / 2**30 if stats else 0.0
    peak = peak or peak_gib()
    return {"seconds": statistics.median(taken[1:]), "first": taken[0], "gib": peak}


def measured(args: Arguments, curve: str, value: int) -> dict[str, float] | None:
    """A point from a separate process; None if it fails."""
    words = ["--point", curve, str(value), *(["--shrunk"] if args.shrunk else [])]
    command = [sys.executable, "-m", "tools.bench.curves", *words]
    name = f"{CURVES[curve][0]}: {value:,}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        print(f"{name}: not within {LIMIT_S} s", flush=True)
        return None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        print(f"{name}: does not fit or failed ({last[:100]})", flush=True)
        return None
    figures = json.loads(done.stdout.splitlines()[-1])
    times = "{seconds:.3f} s (first {first:.1f} s), {gib:.2f} GiB".format(**figures)
    print(f"{name}: {times}", flush=True)
    return figures


def draw(curves: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="tight")
    for place, (curve, points) in enumerate(curves.items(), 1):
        axis = figure.add_subplot(rows, columns, place)
        axis.plot(list(points), [p["seconds"] for p in points.values()], "o-", color="C0")
        axis.set_xlabel(CURVES[curve][0], fontsize=8)
        axis.set_ylabel("seconds", color="C0")
        if curve in LOGARITHMIC:
            axis.set_xscale("log", base=LOGARITHMIC[curve])
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        memory = axis.twinx()
        memory.plot(list(points), [p["gib"] for p in points.values()], "s--", color="C1")
        memory.set_ylabel("GiB at most", color="C1")
        memory.set_ylim(bottom=0)
    figure.savefig(path, dpi=110)


def main(args: Arguments) -> None:
    unknown = set(args.curves) - set(CURVES)
    if unknown:
        raise SystemExit(f"expected curves of {', '.join(CURVES)}; got {', '.join(unknown)}")
    keep_freed_memory()
    use_compile_cache(cache_folder())
    if args.point:
        print(json.dumps(point(args, *args.point)))
        return
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}", flush=True)
    found: dict[str, dict[int, dict[str, float]]] = {}
    for curve in args.curves:
        for value in (v for v in CURVES[curve][1] if v <= args.most):
            one = measured(args, curve, value)
            if one is None:
                break  # larger ones do not fit either
            found.setdefault(curve, {})[value] = one
    args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, args.out)
    print(args.out)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
