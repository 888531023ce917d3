"""DiffTMR on ChEBI-20 trained with T = 1000 diffusion steps.

Paper: DiffTMR (ACM MM 2025), Table 3c, 1000 -> 10, 50, 100, 500: 70.0, 70.7, 70.9, 71.0 Hits@1.
Run: make train EXP=difftmr_chebi_steps1000
Hardware: one GPU; the paper names an A40 and gives no time.
Result: not run here: the training texts and SciBERT's weights need a network.
Differs: as difftmr_chebi, but one noise level drawn for each query and step.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("difftmr_chebi")
# A thousand levels in every step would cost twenty times what fifty do: one at random.
HDAN = replace(BASE.model.hdan, steps=1000, objective="random_step")
CONFIG = replace(BASE, model=replace(BASE.model, hdan=HDAN))
