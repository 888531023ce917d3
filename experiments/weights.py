"""The weights that come with tmr_jax: a dual encoder on text whose licence is known, and facts.

Paper: none; scores compare with no published number.
Run: TMR_JAX_DATA=DIR make train EXP=weights
Hardware: 2 CPU cores, 75 minutes with facts on a CPU without AVX-512.
Result: chebi20-molt5/test-split t2m 74.8, m2t 68.4 Hits@1 with facts; c3012bc, 2026-12-01.
Differs: det_open with fragment counts, levels, licensed pairs, a linear branch, and facts.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("det_open")
CONFIG = replace(
    BASE,
    data=replace(BASE.data, version="licensed"),
    features=replace(BASE.features, molecule="ogb_counts"),
    train=replace(
        BASE.train,
        texts="packed",
        levels=(0.5, 0.25, 0.25),
        epochs=7,
        precision="float32",  # of what a CPU without bfloat16 in hardware trains
        eval_every=7,
        lexical=256,
        facts=True,
    ),
    eval=replace(
        BASE.eval,
        protocols=(
            *BASE.eval.protocols,
            "chebi20-molt5/first-sentence",
            "chebi20-molt5/clause",
        ),
    ),
)
