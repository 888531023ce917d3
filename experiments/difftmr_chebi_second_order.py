"""DiffTMR on ChEBI-20 with the second-order losses of Memory Bank.

Paper: none: of two papers, neither of which tried it.
Run: make train EXP=difftmr_chebi_second_order
Hardware: one GPU; the paper names an A40 and gives no time.
Result: not run here: the training texts and SciBERT's weights need a network.
Differs: as difftmr_chebi; u2u and u2c of weight 1, MODELS.md 6.2.
"""

from dataclasses import replace

from tmr_jax.config import SecondOrderConfig, load_experiment

BASE = load_experiment("difftmr_chebi")
CONFIG = replace(BASE, model=replace(BASE.model, second_order=SecondOrderConfig(u2u=1.0, u2c=1.0)))
