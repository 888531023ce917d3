"""Ablation on real pairs: the dual encoder with second-order losses.

Paper: none; MODELS.md 6.2 on another model.
Run: TMR_JAX_DATA=DIR make train EXP=ablation_second_order_open
Hardware: 2 CPU cores, minutes: the text encoder's states are computed once.
Result: not run yet; the table: make table NAME=ablation_open.
Differs: as ablation_open; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import SecondOrderConfig, load_experiment

BASE = load_experiment("ablation_open")
CONFIG = replace(BASE, model=replace(BASE.model, second_order=SecondOrderConfig(u2u=1.0, u2c=1.0)))
