"""Memory Bank on ChEBI-20 without the loss of unimodal on cross-modal distributions.

Paper: Memory Bank (BIBM 2024), ablation; the table is not in MODELS.md, so no number.
Run: make train EXP=mbank_chebi_no_u2c
Hardware: one GPU; the paper and its code give neither hardware nor time.
Result: not run here: the training texts and SciBERT's weights need a network.
Differs: as mbank_chebi; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("mbank_chebi")
CONFIG = replace(
    BASE, model=replace(BASE.model, second_order=replace(BASE.model.second_order, u2c=0.0))
)
