"""What a shortlist costs: python tools/shortlist_loss.py --run runs/difftmr_open

In: a run with a second stage, and a pool (ChEBI-20's test texts against all 33,008 molecules). Out:
Hits@1 from text to molecule of TAPR on the shortlist and on the whole pool, and of the denoiser on
K candidates and on more, with the difference and its interval of 95 % over queries (paired
bootstrap). What a search shows is the short form; the tables of the papers are of the whole pool.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.progress import Progress

from tmr_jax.data.cache import cache_folder
from tmr_jax.data.pools import load_pool
from tmr_jax.eval.evaluate import chosen_alpha, read_config
from tmr_jax.eval.metrics import gains, metrics
from tmr_jax.eval.ood import Sides
from tmr_jax.eval.pools import encode_pools
from tmr_jax.eval.rerank import Lists
from tmr_jax.eval.restore import Restored, open_run
from tmr_jax.models.runtime import keep_freed_memory, use_compile_cache


@dataclass(frozen=True)
class Arguments:
    run: Path
    pool: str = "chebi20-molt5/full-33008"
    queries: int = 0
    """How many texts ask, drawn by the seed; 0: all of the pool."""
    candidates: int = 32
    more: int = 200
    """Candidates that are denoised in the longer form."""
    seed: int = 0


def main(told: Arguments) -> None:
    keep_freed_memory()
    use_compile_cache(cache_folder())
    config = read_config(told.run)
    model = open_run(told.run, "best")
    if model.refiner is None:
        raise SystemExit(f"error: expected a run with a second stage, got {told.run}; try another")
    alpha = chosen_alpha(told.run, config, model)
    [sides], _ = encode_pools(model, [load_pool(told.pool, config.data)])
    target = drawn(sides.pool.text_target, told)
    count, size = int((target >= 0).sum()), len(np.unique(sides.mol.group))
    print(f"{told.pool}, t2m, {count:,} queries, seed {told.seed}; {size:,} distinct inputs")
    short = model.refiner.settings.shortlist
    forms = {
        f"tapr, K1 = {short}": ("tapr", {"shortlist": short, "candidates": told.candidates}),
        f"tapr, K1 = {size} (all)": ("tapr", {"shortlist": size, "candidates": told.candidates}),
        f"fused, K = {told.candidates}": ("fused", {"candidates": told.candidates}),
        f"fused, K = {told.more}": ("fused", {"candidates": told.more}),
    }
    base = model.refiner.settings
    found = {}
    for name, (tier, changes) in forms.items():
        model.refiner.settings = dataclasses.replace(base, **changes)
        found[name] = refined(model, sides, target, name).ranking(tier, alpha)
        print(f"{name}: Hits@1 {100 * metrics(found[name])['hits@1']:.2f}", flush=True)
    for one, other in zip(list(forms)[::2], list(forms)[1::2], strict=True):
        mean, low, high = (100 * x for x in gains(found[one], found[other])["hits@1"])
        print(f"{one} against {other}: {mean:+.2f} points ({low:+.2f} to {high:+.2f})")


def drawn(target: np.ndarray, told: Arguments) -> np.ndarray:
    """Targets of the queries that take part, -1 of the others."""
    asks = np.flatnonzero(target >= 0)
    if told.queries:
        asks = np.random.default_rng(told.seed).permutation(asks)[: told.queries]
    kept = np.full_like(target, -1)
    kept[asks] = target[asks]
    return kept


def refined(model: Restored, sides: Sides, target: np.ndarray, name: str) -> Lists:
    with Progress(transient=True) as bar:
        task = bar.add_task(name, total=int((target >= 0).sum()))
        return model.refiner.lists(
            sides.text, sides.mol, "t2m", target, lambda done: bar.update(task, completed=done)
        )


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
