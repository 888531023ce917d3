"""DiffTMR's generator on the encoder of det_open: two stages, hard negatives, all four tiers.

Paper: none; scores are "open-pairs training" and compare with no published number.
Run: TMR_JAX_DATA=DIR make train EXP=difftmr_open
Hardware: 2 CPU cores; 6 minutes of training after the encoder's 40.
Result: of version 1: chebi20-molt5/test-split fused m2t MRR .0041 above det; 681c1f9, 2026-11-21.
Differs: det_open's encoder, frozen; HDAN starts from its posterior; half of each text is read.
"""

from dataclasses import replace

from tmr_jax.config import HdanConfig, OptimConfig, TaprConfig, load_experiment

BASE = load_experiment("det_open")
CONFIG = replace(
    BASE,
    model=replace(
        BASE.model,
        name="difftmr",
        tapr=TaprConfig(mode="matrix", bias=-5.0),
        hdan=HdanConfig(steps=50, gamma=0.4, inputs="posterior"),
    ),
    optim=OptimConfig(denoiser_lr=3e-4, warmup=100),
    train=replace(
        BASE.train,
        start="det_open",
        epochs=2,
        pool_batches=0,
        alike=132,
        word_dropout=0.5,
        eval_every=2,
    ),
)
