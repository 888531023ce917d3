"""Memory Bank on the open pairs: a bank and a head above the encoders of det_open.

Paper: none; scores are "open-pairs training" and compare with no published number.
Run: TMR_JAX_DATA=../shared/data make train EXP=mbank_open
Hardware: 2 CPU cores, 40 minutes for det_open if it is not there, then minutes.
Result: not run in this form; others: LOG.md, 2026-11-22.
Differs: begins with det_open's encoders, that of texts frozen; statistics of each modality.
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
    train=replace(
        BASE.train,
        start="det_open",
        start_with="encoders",
        freeze="text",
        epochs=2,
        text_buckets=(128,),
        pool_batches=0,
        eval_every=1,
    ),
)
