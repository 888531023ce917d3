"""Memory Bank on the open pairs, starting from MiniLM.

Paper: none; scores are "open-pairs training" and compare with no published number.
Run: TMR_JAX_DATA=DIR make train EXP=mbank_open
Hardware: 2 CPU cores, an hour at most.
Result: of version 1: chebi20-molt5/test-split t2m 25.1, m2t 25.9 Hits@1; 7e44cca, 2026-11-26.
Differs: det_open with the model, packed texts, 9 epochs; BatchNorm statistics of each modality.
"""

from dataclasses import replace

from tmr_jax.config import BankConfig, SecondOrderConfig, load_experiment

BASE = load_experiment("det_open")
CONFIG = replace(
    BASE,
    model=replace(
        BASE.model,
        name="mbank",
        bank=BankConfig(statistics="own"),
        second_order=SecondOrderConfig(u2u=1.0, u2c=1.0),
    ),
    train=replace(BASE.train, texts="packed", epochs=9, eval_every=9),
)
