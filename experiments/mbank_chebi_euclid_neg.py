"""Memory Bank on ChEBI-20 with the natural sign: far items get less mass.

Paper: none; the released code has the other sign (MODELS.md 6.2).
Run: make train EXP=mbank_chebi_euclid_neg
Hardware: one GPU; the paper and its code give neither hardware nor time.
Result: not run here: the training texts and SciBERT's weights need a network.
Differs: as mbank_chebi; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("mbank_chebi")
CONFIG = replace(
    BASE,
    model=replace(BASE.model, second_order=replace(BASE.model.second_order, kernel="euclid_neg")),
)
