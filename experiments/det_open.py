"""The dual encoder on freely available pairs, tested on ChEBI-20 and PCdes.

Paper: none; scores are "open-pairs training" and compare with no published number.
Run: TMR_JAX_DATA=DIR make train EXP=det_open
Hardware: 2 CPU cores, 40 minutes of training.
Result: of version 1: chebi20-molt5/test-split t2m 22.5, m2t 20.1 Hits@1; 681c1f9, 2026-11-21.
Differs: 21,687 pairs, none with the connectivity of a test molecule; MiniLM, stereo features.
"""

from tmr_jax.config import (
    DataConfig,
    EvalConfig,
    Experiment,
    FeatureConfig,
    GraphEncoderConfig,
    ModelConfig,
    OptimConfig,
    TextEncoderConfig,
    TrainConfig,
)

CONFIG = Experiment(
    data=DataConfig(name="open", version="2"),
    features=FeatureConfig(molecule="ogb_morgan", max_tokens=128),
    model=ModelConfig(
        text=TextEncoderConfig(source="minilm", pooling="mean", dropout=0.0),
        graph=GraphEncoderConfig("residual", layers=5, dropout=0.1, readout="mean_mlp"),
    ),
    optim=OptimConfig(text_lr=1e-4, base_lr=7e-4, warmup=300, schedule="cosine"),
    train=TrainConfig(
        epochs=7,
        batch_size=64,
        text_buckets=(16, 32, 64, 96, 128),
        precision="bfloat16",
        eval_every=7,
    ),
    eval=EvalConfig(
        protocols=("chebi20-molt5/test-split", "chebi20-molt5/full-33008", "pcdes/file-order")
    ),
)
