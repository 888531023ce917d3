"""Ablation on real pairs: Memory Bank without the loss of unimodal on cross-modal ones.

Paper: Memory Bank (BIBM 2024), ablation, in small; the table is not in MODELS.md, so no number.
Run: TMR_JAX_DATA=DIR make train EXP=ablation_mbank_no_u2c_open
Hardware: 2 CPU cores, minutes: the text encoder's states are computed once.
Result: in README.md here, under “The ablation”; make table NAME=ablation_open, 2026-11-26.
Differs: as ablation_mbank_open; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("ablation_mbank_open")
CONFIG = replace(
    BASE, model=replace(BASE.model, second_order=replace(BASE.model.second_order, u2c=0.0))
)
