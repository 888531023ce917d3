"""Ablation on real pairs: Memory Bank with running statistics that mix both modalities.

Paper: Memory Bank (BIBM 2024), as its code has it, in small.
Run: TMR_JAX_DATA=DIR make train EXP=ablation_mbank_mixed_open
Hardware: 2 CPU cores, minutes: the text encoder's states are computed once.
Result: not run yet; the table: make table NAME=ablation_open.
Differs: as ablation_mbank_open; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("ablation_mbank_open")
CONFIG = replace(BASE, model=replace(BASE.model, bank=replace(BASE.model.bank, statistics="mixed")))
