"""Generated descriptions of real and enumerated molecules; nothing to download.

Paper: none; checks that an installation trains and ranks.
Run: make train EXP=quickstart
Hardware: 2 CPU cores, under 15 minutes with the installation.
Result: t2m Hits@1 66.6, m2t 64.7 in a pool of 1,000 (generated text), d7897cd, 2026-11-21.
Differs: MiniLM in place of SciBERT, bond-aware residual GCN, generated text.
"""

from tmr_jax.config import (
    DataConfig,
    Experiment,
    FeatureConfig,
    GraphEncoderConfig,
    ModelConfig,
    OptimConfig,
    TextEncoderConfig,
    TrainConfig,
)

CONFIG = Experiment(
    data=DataConfig(name="demo"),
    features=FeatureConfig(molecule="ogb_morgan", max_tokens=128),
    model=ModelConfig(
        text=TextEncoderConfig(source="minilm", pooling="mean", dropout=0.0),
        graph=GraphEncoderConfig(kind="residual", layers=4, width=600, dropout=0.1),
    ),
    optim=OptimConfig(text_lr=2e-4, base_lr=1.5e-3, warmup=100, schedule="cosine"),
    train=TrainConfig(
        epochs=4,
        batch_size=64,
        text_buckets=(48, 64, 96, 128),
        precision="bfloat16",
        eval_every=2,
    ),
)
