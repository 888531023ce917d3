"""Memory Bank on ChEBI-20 with cosines in the second-order losses.

Paper: none; an alternative in the released code (MODELS.md 6.2).
Run: make train EXP=mbank_chebi_cos
Hardware: one GPU; the paper and its code give neither hardware nor time.
Result: not run here: the training texts and SciBERT's weights need a network.
Differs: as mbank_chebi; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("mbank_chebi")
CONFIG = replace(
    BASE, model=replace(BASE.model, second_order=replace(BASE.model.second_order, kernel="cos"))
)
