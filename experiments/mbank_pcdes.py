"""Memory Bank on PCdes with the released settings, from scratch.

Paper: none; the released code trains it, and starts from ChEBI-20's checkpoint.
Run: make train EXP=mbank_pcdes
Hardware: one GPU; the code gives neither hardware nor time.
Result: not run here: SciBERT's weights need a network.
Differs: no start from ChEBI-20, whose training molecules are in PCdes' test set; file order.
"""

from dataclasses import replace

from tmr_jax.config import DataConfig, EvalConfig, load_experiment

BASE = load_experiment("mbank_chebi")
CONFIG = replace(
    BASE,
    data=DataConfig(name="pcdes", version="file-order"),
    optim=replace(BASE.optim, text_lr=5e-5),
    train=replace(BASE.train, epochs=30, batch_size=64),
    eval=EvalConfig(protocols=("pcdes/file-order",)),
)
