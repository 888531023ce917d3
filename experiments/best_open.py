"""The best model of an hour on two cores: the recipe of the shipped weights on all open pairs.

Paper: none; scores are "open-pairs training" and compare with no published number.
Run: TMR_JAX_DATA=DIR make train EXP=best_open
Hardware: 2 CPU cores, an hour at most.
Result: chebi20-molt5/test-split t2m 74.8, m2t 68.9 Hits@1 with facts; f2b4d18, 2026-12-01.
Differs: weights on version 2, three epochs of seven with less warm-up, the pools of det_open.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("weights")
CONFIG = replace(
    BASE,
    data=replace(BASE.data, version="2"),
    optim=replace(BASE.optim, warmup=100),
    train=replace(BASE.train, epochs=3, eval_every=3),
    eval=load_experiment("det_open").eval,
)
