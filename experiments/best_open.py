"""The best model of an hour on two cores: Memory Bank on the open pairs, reranked by facts.

Paper: none; scores are "open-pairs training" and compare with no published number.
Run: TMR_JAX_DATA=DIR make train EXP=best_open
Hardware: 2 CPU cores, an hour at most.
Result: chebi20-molt5/test-split t2m 67.4, m2t 65.6 Hits@1 with facts; cc485fc, 2026-11-30.
Differs: mbank_open with the second stage that reads facts (docs/search.md#facts), 6 epochs.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("mbank_open")
CONFIG = replace(BASE, train=replace(BASE.train, epochs=6, eval_every=6, facts=True))
