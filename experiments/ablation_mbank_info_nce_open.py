"""Ablation on real pairs: Memory Bank with InfoNCE in place of the triplet.

Paper: none: the paper has the triplet alone.
Run: TMR_JAX_DATA=DIR make train EXP=ablation_mbank_info_nce_open
Hardware: 2 CPU cores, minutes: the text encoder's states are computed once.
Result: not run yet; the table: make table NAME=ablation_open.
Differs: as ablation_mbank_open; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("ablation_mbank_open")
CONFIG = replace(
    BASE, model=replace(BASE.model, bank=replace(BASE.model.bank, first_order="info_nce"))
)
