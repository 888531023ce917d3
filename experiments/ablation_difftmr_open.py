"""Ablation on real pairs: DiffTMR with all its parts, trained in one stage.

Paper: DiffTMR (ACM MM 2025), main row, in small.
Run: TMR_JAX_DATA=DIR make train EXP=ablation_difftmr_open
Hardware: 2 CPU cores, minutes: the text encoder's states are computed once.
Result: of version 1, in README.md here, “The ablation”; make table NAME=ablation_open, 2026-11-26.
Differs: as ablation_open; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import HdanConfig, load_experiment

BASE = load_experiment("ablation_open")
CONFIG = replace(
    BASE,
    model=replace(BASE.model, name="difftmr", hdan=HdanConfig(steps=50, gamma=0.4, inputs="unit")),
)
