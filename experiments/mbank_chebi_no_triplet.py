"""Memory Bank on ChEBI-20 without a first-order loss.

Paper: Memory Bank (BIBM 2024), ablation; the table is not in MODELS.md, so no number.
Run: make train EXP=mbank_chebi_no_triplet
Hardware: one GPU; the paper and its code give neither hardware nor time.
Result: not run here: the training texts and SciBERT's weights need a network.
Differs: as mbank_chebi; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("mbank_chebi")
CONFIG = replace(BASE, model=replace(BASE.model, bank=replace(BASE.model.bank, first_order="none")))
