"""Time and memory of the second stage on a run's own test pool, and time against S, F and K:

    TMR_JAX_DATA=DIR python -m tools.bench.refine --run runs/difftmr_open

First all queries of the pool in both directions with the run's settings, from embeddings in
memory, compilation included; then a fifth of the text queries for each value of one setting at a
time (the faster of two runs counts). Writes refine_time.png into the run. Only the shape of the
curves carries over to other machines.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from tmr_jax.data.files import cache_folder
from tmr_jax.data.pools import load_pool
from tmr_jax.eval.evaluate import default_protocols, read_config
from tmr_jax.eval.pools import encode_pools
from tmr_jax.eval.restore import open_run
from tmr_jax.models.runtime import keep_freed_memory, use_compile_cache
from tools.bench.common import peak_gib, seconds

SWEEPS = {
    "steps": (1, 5, 10, 25, 50),
    "samples": (0, 5, 15, 30, 60),
    "candidates": (8, 16, 32, 64, 128),
}
NAMES = {"steps": "S, sampling steps", "samples": "F, perturbations", "candidates": "K, denoised"}
SHARE = 5  # one query in so many takes part in a sweep


@dataclass(frozen=True)
class Arguments:
    run: Path
    protocol: str = ""
    """A pool with queries on both sides; without it the run's first."""


def timed(reranker: Any, text: Any, mol: Any, direction: str, target: np.ndarray) -> float:
    return seconds(lambda: reranker.lists(text, mol, direction, target))


def fewer(target: np.ndarray) -> np.ndarray:
    kept = np.full_like(target, -1)
    kept[::SHARE] = target[::SHARE]
    return kept


def draw(path: Path, found: dict[str, list[tuple[int, float]]], queries: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, points) in enumerate(found.items(), 1):
        axes = figure.add_subplot(1, len(found), place)
        axes.plot(*zip(*points, strict=True), marker="o")
        axes.set(xlabel=NAMES[name], ylabel="ms a query" if place == 1 else "", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.suptitle(f"second stage, text to molecule, {queries} queries")
    figure.savefig(path, dpi=110)


def main() -> None:
    chosen = tyro.cli(Arguments, description=__doc__)
    keep_freed_memory()
    use_compile_cache(cache_folder())
    config = read_config(chosen.run)
    protocol = chosen.protocol or default_protocols(config)[0]
    model = open_run(chosen.run, "best")
    assert model.reranker is not None, "expected a run of a model with a second stage"
    [(pool, text, mol)], _ = encode_pools(model, [load_pool(protocol, config.data)])
    before = peak_gib()
    total = 0.0
    for direction, target in (("t2m", pool.text_target), ("m2t", pool.mol_target)):
        taken = timed(model.reranker, text, mol, direction, target)
        total += taken
        print(f"{protocol}, {direction}: {(target >= 0).sum()} queries in {taken:.1f} s")
    print(f"both: {total:.1f} s; peak memory {peak_gib():.2f} GiB, {before:.2f} before refining")
    print(f"settings: {model.reranker.settings}")
    target, found = fewer(pool.text_target), {}
    base = model.reranker.settings
    for name, values in SWEEPS.items():
        found[name] = []
        for value in values:
            changes: dict[str, Any] = {name: value}
            model.reranker.settings = dataclasses.replace(base, **changes)
            taken = min(timed(model.reranker, text, mol, "t2m", target) for _ in range(2))
            each = 1e3 * taken / (target >= 0).sum()
            found[name].append((value, each))
            print(f"{NAMES[name]} = {value}: {each:.2f} ms a query", flush=True)
    draw(chosen.run / "refine_time.png", found, int((target >= 0).sum()))


if __name__ == "__main__":
    main()
