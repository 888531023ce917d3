"""The best model of an hour on two cores: Memory Bank on the open pairs, reranked by facts.

Paper: none; scores are "open-pairs training" and compare with no published number.
Run: TMR_JAX_DATA=DIR make train EXP=best_open
Hardware: 2 CPU cores, an hour at most.
Result: without counts and branch: test-split t2m 67.4, m2t 65.6 Hits@1; cc485fc, 2026-11-30.
Differs: mbank_open with fragment counts, a linear branch and facts, 6 epochs.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("mbank_open")
CONFIG = replace(
    BASE,
    features=replace(BASE.features, molecule="ogb_counts"),
    train=replace(BASE.train, epochs=6, eval_every=6, lexical=256, facts=True),
)
