"""A run of seconds for tests: a random two-layer text encoder on a handful of pairs.

Paper: none.
Run: tmr train --exp tests/experiments/tiny.py --run DIR
Hardware: one CPU core, seconds.
Result: none; its scores mean nothing.
Differs: everything is as small as it can be with dropout, buckets and graph levels at work.
"""

from pathlib import Path

from tmr_jax.config import (
    DataConfig,
    EvalConfig,
    Experiment,
    FeatureConfig,
    GraphEncoderConfig,
    ModelConfig,
    OptimConfig,
    TableConfig,
    TextEncoderConfig,
    TrainConfig,
)

HERE = Path(__file__).resolve().parent

CONFIG = Experiment(
    data=DataConfig(
        name="table",
        table=TableConfig(
            path=str(HERE / "tiny.csv"), id="id", split="column", split_column="split"
        ),
    ),
    features=FeatureConfig(molecule="ogb", max_tokens=96),
    model=ModelConfig(
        dim=16,
        text=TextEncoderConfig(
            source=str(HERE / "tiny_bert"),
            init="random",
            pooling="mean",
            dropout=0.1,
        ),
        graph=GraphEncoderConfig(kind="residual", layers=1, width=16),
    ),
    optim=OptimConfig(text_lr=1e-3, base_lr=1e-3, warmup=4),
    train=TrainConfig(
        epochs=5, batch_size=8, text_buckets=(96,), pool_batches=4, save_every=3, eval_every=2
    ),
    eval=EvalConfig(protocols=("table/test",), bootstrap=50, batch_size=16),
)
