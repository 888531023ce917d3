"""A run of seconds on the tests' 96 pairs, for `make table NAME=smoke`.

Paper: none; scores only show that every part works.
Run: make train EXP=smoke
Hardware: one CPU core, seconds.
Result: none; eight steps from random parameters.
Differs: the tests' text encoder, too: two layers, 256 word pieces, random weights.
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

TESTS = Path(__file__).resolve().parent.parent / "tests" / "experiments"
PAIRS = TableConfig(path=str(TESTS / "tiny.csv"), id="id", split="column", split_column="split")
CONFIG = Experiment(
    data=DataConfig(name="table", table=PAIRS),
    features=FeatureConfig(molecule="ogb", max_tokens=128),
    model=ModelConfig(
        dim=16,
        text=TextEncoderConfig(source=str(TESTS / "tiny_bert"), init="random", pooling="mean"),
        graph=GraphEncoderConfig(kind="residual", layers=1, width=16),
    ),
    optim=OptimConfig(text_lr=1e-3, base_lr=1e-3, warmup=2),
    train=TrainConfig(epochs=2, batch_size=16, text_buckets=(128,), eval_every=2),
    eval=EvalConfig(bootstrap=100, batch_size=16),
)
