"""ChEBI's own descriptions, from the package; nothing to download.

Paper: none; checks that an installation trains and ranks.
Run: make train EXP=quickstart
Hardware: 2 CPU cores, 13 minutes without AVX-512.
Result: chebi/test t2m 72.9, m2t 57.8 Hits@1 with facts; 561b2c6, 2026-11-30.
Differs: MiniLM, bond-aware residual GCN, fragment counts, a linear branch, 7,908 pairs of chebi.
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
    data=DataConfig(name="chebi"),
    features=FeatureConfig(molecule="ogb_counts", max_tokens=128),
    model=ModelConfig(
        text=TextEncoderConfig(source="minilm", pooling="mean", dropout=0.0),
        graph=GraphEncoderConfig(kind="residual", layers=4, width=600, dropout=0.1),
    ),
    optim=OptimConfig(text_lr=2e-4, base_lr=1.5e-3, warmup=30, schedule="cosine"),
    train=TrainConfig(
        epochs=1,
        batch_size=64,
        texts="packed",
        precision="bfloat16",
        eval_every=1,
        lexical=256,
        facts=True,
    ),
)
