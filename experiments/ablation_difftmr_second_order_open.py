"""Ablation on real pairs: DiffTMR with second-order losses.

Paper: none: of two papers, neither of which tried it.
Run: TMR_JAX_DATA=DIR make train EXP=ablation_difftmr_second_order_open
Hardware: 2 CPU cores, minutes: the text encoder's states are computed once.
Result: in README.md here, under “The ablation”; make table NAME=ablation_open, 2026-11-26.
Differs: as ablation_difftmr_open; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import SecondOrderConfig, load_experiment

BASE = load_experiment("ablation_difftmr_open")
CONFIG = replace(BASE, model=replace(BASE.model, second_order=SecondOrderConfig(u2u=1.0, u2c=1.0)))
