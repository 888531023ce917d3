"""The text encoder that all rows of the ablation on real pairs begin with, and keep as it is.

Paper: none; no row of a table, but what stands below the rows of ablation_open.
Run: TMR_JAX_DATA=DIR make train EXP=ablation_start_open
Hardware: 2 CPU cores, a quarter of an hour.
Result: none of its own: it is to know its pairs, but not by heart (LOG.md).
Differs: det_open with 3 epochs of 7 and packed texts, one pool.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("det_open")
CONFIG = replace(
    BASE,
    train=replace(BASE.train, texts="packed", epochs=3, eval_every=3),
    eval=replace(BASE.eval, protocols=("chebi20-molt5/test-split",)),
)
