"""The base of the ablation on real pairs: the dual encoder above a frozen text encoder.

Paper: none; all rows of the table ablation_open have this encoder start and this budget.
Run: TMR_JAX_DATA=DIR make train EXP=ablation_open
Hardware: 2 CPU cores, minutes: the text encoder's states are computed once.
Result: not run yet; the table: make table NAME=ablation_open.
Differs: ablation_start_open's frozen text encoder, texts of 64 pieces, 3 layers of 300, one epoch.
"""

from dataclasses import replace

from tmr_jax.config import load_experiment

BASE = load_experiment("det_open")
CONFIG = replace(
    BASE,
    features=replace(BASE.features, max_tokens=64),
    model=replace(BASE.model, graph=replace(BASE.model.graph, layers=3, width=300)),
    train=replace(
        BASE.train,
        freeze="text",
        start="ablation_start_open",
        epochs=1,
        text_buckets=(64,),  # without BERT, compiling a shape costs more than padding
        pool_batches=0,
    ),
    eval=replace(BASE.eval, protocols=("chebi20-molt5/test-split",)),
)
