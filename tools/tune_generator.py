"""Settings of DiffTMR's generator side by side on one frozen encoder:

    TMR_JAX_DATA=DIR python tools/tune_generator.py --start runs/det_open \
        --exp difftmr_open --steps 600 "model.hdan.inputs=unit" "model.hdan.inputs=similarity"

Every word is a variant: fields of the experiment to change, parted by commas ("" changes none). All
are trained for the same steps on the same features and batches, then refine the same queries of the
validation pool in both directions. One line each: loss against chance, MRR of every tier, alpha.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

from tmr_jax.config import load_experiment
from tmr_jax.data import load_pairs_with_report
from tmr_jax.data.cache import cache_folder
from tmr_jax.data.pools import load_pool, validation_protocol
from tmr_jax.eval.pools import encode_pools
from tmr_jax.eval.rerank import Refiner, choose_alpha, settings_of, tier_scores
from tmr_jax.eval.rerank_steps import Direction
from tmr_jax.eval.restore import restored
from tmr_jax.models.encode import Encoded
from tmr_jax.models.run import TrainedModel, with_config
from tmr_jax.models.runtime import keep_freed_memory, use_compile_cache
from tmr_jax.models.state import new_state
from tmr_jax.train.loop import Plan
from tmr_jax.train.optim import build_optimizer
from tmr_jax.train.step import make_train_step
from tmr_jax.train.two_stage import FeatureSet, assemble_for_generator, init_generator
from tmr_jax.types import Pool


@dataclass(frozen=True)
class Arguments:
    variants: tyro.conf.Positional[tuple[str, ...]]
    start: Path
    exp: str = "difftmr_open"
    steps: int = 600
    version: str = ""
    """Of the data: unseen, for pairs that the encoder was not trained on."""
    queries: int = 1000
    """Of the validation pool; all its candidates are ranked."""


def changed(config: Any, words: Sequence[str]) -> Any:
    """The dataclass with fields set: "model.hdan.gamma=0.2" and the like."""
    for word in words:
        path, value = word.split("=", 1)
        config = _set(config, path.split("."), value)
    return config


def _set(part: Any, path: list[str], value: str) -> Any:
    old = getattr(part, path[0])
    new = _set(old, path[1:], value) if len(path) > 1 else type(old)(value)
    return dataclasses.replace(part, **{path[0]: new})


class Asked(NamedTuple):
    """A validation pool, encoded once, of which some queries ask."""

    text: Encoded
    mol: Encoded
    target: dict[Direction, np.ndarray]


def asked(assembly: TrainedModel, encoder: Any, pool: Pool, count: int) -> Asked:
    """`count` queries a direction, evenly over the pool; all its candidates stay."""
    [(sound, text, mol)], _ = encode_pools(restored(assembly, encoder, {}), [pool])
    t2m, m2t = (thinned(target, count) for target in (sound.text_target, sound.mol_target))
    return Asked(text, mol, {"t2m": t2m, "m2t": m2t})


def thinned(target: np.ndarray, count: int) -> np.ndarray:
    asks = np.flatnonzero(target >= 0)
    stays = asks[np.linspace(0, len(asks) - 1, min(count, len(asks))).astype(int)]
    kept = np.full_like(target, -1)
    kept[stays] = target[stays]
    return kept


def run(assembly: TrainedModel, data: FeatureSet, encoder: Any, pool: Asked, steps: int):
    """Mean losses of the last fifth, and the scores of the tiers."""
    config = assembly.config
    plan = Plan(config, data)
    pad = assembly.tokenizer.pad_token
    params = init_generator(
        assembly, data.batch(plan.rows(0, 1)[0], pad), config.train.seed, encoder
    )
    frozen = frozenset(encoder) - assembly.model.generator
    trained = {name: p for name, p in params.items() if name not in frozen}
    optimizer = build_optimizer(config.optim, steps, trained, assembly.model.groups)
    state = new_state(params, optimizer, frozen)
    step = make_train_step(assembly.model, optimizer, 10_000, frozen)
    key, losses = jax.random.key(config.train.seed), []
    for i in range(steps):
        state, found = step(state, data.batch(plan.rows(i, 1)[0], pad), key)
        losses.append([float(found[f"loss/{n}"]) for n in ("dis", "gen_t2m", "gen_m2t")])
    refiner = Refiner(assembly, state.params, settings_of(config))
    lists = {d: refiner.lists(pool.text, pool.mol, d, t) for d, t in pool.target.items()}
    return np.mean(losses[-steps // 5 :], 0), tier_scores(lists, choose_alpha(lists.values()))


def main() -> None:
    chosen = tyro.cli(Arguments, description=__doc__)
    keep_freed_memory()
    use_compile_cache(cache_folder())
    config = load_experiment(chosen.exp)
    config = changed(config, [f"data.version={chosen.version}"])
    pairs, _ = load_pairs_with_report(config.data)
    assembly, data, encoder = assemble_for_generator(config, pairs, chosen.start)
    pool = load_pool(validation_protocol(config.data), config.data)
    queries = asked(assembly, encoder, pool, chosen.queries)
    print(
        f"{chosen.steps} steps, {pool.protocol}, {chosen.queries} queries a direction", flush=True
    )
    for variant in chosen.variants:
        own = changed(config, [word for word in variant.split(",") if word])
        start = time.perf_counter()
        built = with_config(assembly, own, assembly.weights)
        losses, scores = run(built, data, encoder, queries, chosen.steps)
        chance = np.log(own.train.batch_size)
        parts = [f"{name} {v:.2f}" for name, v in zip(("dis", "t2m", "m2t"), losses, strict=True)]
        for direction in ("t2m", "m2t"):
            tiers = (
                f"{scores[f'{direction}/{t}/mrr']:.4f}" for t in ("det", "tapr", "fused", "x0")
            )
            parts.append(f"{direction} {' '.join(tiers)}")
        seconds = time.perf_counter() - start
        print(
            f"[{variant}] loss (chance {chance:.2f}): {', '.join(parts)}, "
            f"alpha {scores['alpha']:g}, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
