"""DiffTMR on ChEBI-20 without perturbation.

Paper: DiffTMR (ACM MM 2025), without TAPR; MODELS.md has no number of it.
Run: make train EXP=difftmr_chebi_no_tapr
Hardware: one GPU; the paper names an A40 and gives no time.
Result: not run here: the training texts and SciBERT's weights need a network.
Differs: as difftmr_chebi; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("difftmr_chebi")
CONFIG = replace(BASE, model=replace(BASE.model, tapr=replace(BASE.model.tapr, mode="off")))
