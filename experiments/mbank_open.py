"""Memory Bank on the open pairs: what stands above the text encoder of det_open.

Paper: none; scores are "open-pairs training" and compare with no published number.
Run: TMR_JAX_DATA=../shared/data make train EXP=mbank_open
Hardware: 2 CPU cores, 40 minutes for det_open if it is not there, then minutes.
Result: not run in this form; InfoNCE from scratch, 8 epochs: LOG.md, 2026-11-22.
Differs: det_open's text encoder, frozen; its graph encoder anew; statistics of each modality.
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
        freeze="text",
        epochs=5,
        text_buckets=(128,),
        pool_batches=0,
        eval_every=1,
    ),
)
