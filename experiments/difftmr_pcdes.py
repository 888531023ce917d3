"""DiffTMR on PCdes as published, except the split, which the paper does not name.

Paper: DiffTMR (ACM MM 2025), Table 2, text to molecule 69.0, molecule to text 66.8 Recall@1.
Run: make train EXP=difftmr_pcdes
Hardware: one GPU; the paper names an A40 and gives no time.
Result: not run here: SciBERT's weights need a network.
Differs: as difftmr_chebi; split by file order: docs/papers.md#protocols.
"""

from dataclasses import replace

from tmr_jax.config import DataConfig, EvalConfig, load_experiment

CONFIG = replace(
    load_experiment("difftmr_chebi"),
    data=DataConfig(name="pcdes", version="file-order"),
    eval=EvalConfig(protocols=("pcdes/file-order",)),
)
