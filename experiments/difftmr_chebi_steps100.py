"""DiffTMR on ChEBI-20 trained with T = 100 diffusion steps.

Paper: DiffTMR (ACM MM 2025), Table 3c, 100 -> 10, 50, 100: 70.3, 71.2, 70.5 Hits@1.
Run: make train EXP=difftmr_chebi_steps100
Hardware: one GPU; the paper names an A40 and gives no time.
Result: not run here: the training texts and SciBERT's weights need a network.
Differs: as difftmr_chebi; nothing else.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("difftmr_chebi")
CONFIG = replace(BASE, model=replace(BASE.model, hdan=replace(BASE.model.hdan, steps=100)))
