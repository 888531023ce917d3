"""Ablation on real pairs: DiffTMR without perturbation.

Paper: DiffTMR (ACM MM 2025), without TAPR, in small; no number in MODELS.md.
Run: TMR_JAX_DATA=DIR make train EXP=ablation_difftmr_no_tapr_open
Hardware: 2 CPU cores, minutes: the text encoder's states are computed once.
Result: in README.md here, under “The ablation”; make table NAME=ablation_open, 2026-11-26.
Differs: as ablation_difftmr_open; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("ablation_difftmr_open")
CONFIG = replace(BASE, model=replace(BASE.model, tapr=replace(BASE.model.tapr, mode="off")))
