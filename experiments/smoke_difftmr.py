"""DiffTMR in the small run of `make table NAME=smoke`.

Paper: none; scores only show that every part works.
Run: make train EXP=smoke_difftmr
Hardware: one CPU core, seconds.
Result: none; eight steps from random parameters.
Differs: as smoke; four diffusion steps, a shortlist of eight.
"""

from dataclasses import replace

from tmr_jax.config import HdanConfig, RefineConfig, load_experiment

BASE = load_experiment("smoke")
CONFIG = replace(
    BASE,
    model=replace(BASE.model, name="difftmr", hdan=HdanConfig(steps=4)),
    eval=replace(BASE.eval, refine=RefineConfig(shortlist=8, samples=2, candidates=4)),
)
