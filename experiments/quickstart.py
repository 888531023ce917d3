"""Nothing to download: generated descriptions of real and enumerated molecules.

Paper: none; the smallest honest run, a check that an installation trains and ranks.
Run: make train EXP=quickstart
Hardware: 2 CPU cores, under 15 minutes with the installation.
Result: see README.md, the line `demo/test` (generated text).
Differs: MiniLM in place of SciBERT, bond-aware residual GCN, generated text.
"""

from tmr_jax.config import (
    DataConfig,
    EvalConfig,
    Experiment,
    GraphEncoderConfig,
    ModelConfig,
    OptimConfig,
    TextEncoderConfig,
    TrainConfig,
)

CONFIG = Experiment(
    data=DataConfig(name="demo"),
    model=ModelConfig(
        text=TextEncoderConfig(source="minilm", pooling="mean", dropout=0.0),
        graph=GraphEncoderConfig(kind="residual", layers=4, width=600),
    ),
    optim=OptimConfig(text_lr=1e-4, base_lr=5e-4, warmup=100, schedule="cosine"),
    train=TrainConfig(
        epochs=4, batch_size=64, text_buckets=(32, 64, 96, 128, 256), precision="bfloat16"
    ),
    eval=EvalConfig(protocols=("demo/test",)),
)
