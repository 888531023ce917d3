"""The text encoder that all rows of the ablation on real pairs start from, frozen.

Paper: none; not a row of a table: the start of the rows of ablation_open.
Run: TMR_JAX_DATA=DIR make train EXP=ablation_start_open
Hardware: 2 CPU cores, a quarter of an hour.
Result: none of its own; few epochs, so that it does not memorise its pairs (LOG.md).
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
