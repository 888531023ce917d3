"""Memory Bank on the open pairs, with the encoders and the budget of det_open.

Paper: none; scores are "open-pairs training" and compare with no published number.
Run: TMR_JAX_DATA=../shared/data make train EXP=mbank_open
Hardware: 2 CPU cores, about as long as difftmr_open.
Result: not run yet.
Differs: MiniLM, bond-aware graph encoder, InfoNCE, statistics of each modality, 8 epochs of 64.
"""

from dataclasses import replace

from tmr_jax.config import BankConfig, SecondOrderConfig, load_experiment

BASE = load_experiment("det_open")
CONFIG = replace(
    BASE,
    model=replace(
        BASE.model,
        name="mbank",
        bank=BankConfig(slots=28, first_order="info_nce", statistics="own"),
        second_order=SecondOrderConfig(u2u=1.0, u2c=1.0),
    ),
    train=replace(BASE.train, epochs=8, eval_every=8),
)
