"""The base of the table of levers: det_open for a quarter of an hour, measured on validation.

Paper: none; all rows of the table levers have this budget.
Run: TMR_JAX_DATA=DIR make train EXP=levers_open
Hardware: 2 CPU cores, a quarter of an hour.
Result: not run yet; the table: make table NAME=levers.
Differs: det_open with packed texts, two epochs, ChEBI-20's validation in place of the test pools.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("det_open")
CONFIG = replace(
    BASE,
    train=replace(BASE.train, texts="packed", epochs=2, eval_every=2),
    eval=replace(BASE.eval, protocols=("chebi20-molt5/validation",)),
)
