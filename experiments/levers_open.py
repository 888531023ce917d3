"""The base of the table of levers: det_open for ten minutes, measured on validation.

Paper: none; all rows of the table levers have this budget.
Run: TMR_JAX_DATA=DIR make train EXP=levers_open
Hardware: 2 CPU cores, ten minutes.
Result: not run yet; the table: make table NAME=levers.
Differs: det_open with packed texts, one epoch, ChEBI-20's validation in place of the test pools.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("det_open")
CONFIG = replace(
    BASE,
    train=replace(BASE.train, texts="packed", epochs=1),
    eval=replace(BASE.eval, protocols=("chebi20-molt5/validation",)),
)
