"""Ablation on real pairs: Memory Bank with all its parts.

Paper: Memory Bank (BIBM 2024), main row, in small.
Run: TMR_JAX_DATA=DIR make train EXP=ablation_mbank_open
Hardware: 2 CPU cores, minutes: the text encoder's states are computed once.
Result: of version 1, in README.md here, “The ablation”; make table NAME=ablation_open, 2026-11-26.
Differs: as ablation_open; BatchNorm statistics of each modality, not mixed.
"""

from dataclasses import replace

from tmr_jax.config import BankConfig, SecondOrderConfig, load_experiment

BASE = load_experiment("ablation_open")
CONFIG = replace(
    BASE,
    model=replace(
        BASE.model,
        name="mbank",
        bank=BankConfig(statistics="own"),
        second_order=SecondOrderConfig(u2u=1.0, u2c=1.0),
    ),
)
