"""DiffTMR on ChEBI-20 with the local score alone.

Paper: DiffTMR (ACM MM 2025), gamma; the paper chose 0.4, MODELS.md has no other number.
Run: make train EXP=difftmr_chebi_gamma1
Hardware: one GPU; the paper names an A40 and gives no time.
Result: not run here: the training texts and SciBERT's weights need a network.
Differs: as difftmr_chebi; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("difftmr_chebi")
CONFIG = replace(BASE, model=replace(BASE.model, hdan=replace(BASE.model.hdan, gamma=1.0)))
