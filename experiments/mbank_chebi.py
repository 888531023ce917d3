"""Memory Bank on ChEBI-20 as released.

Paper: Memory Bank (BIBM 2024), text to molecule 56.5, molecule to text 52.3 Hits@1.
Run: make train EXP=mbank_chebi
Hardware: one GPU; the paper and its code give neither hardware nor time.
Result: not run here: the training texts and SciBERT's weights need a network.
Differs: atoms embedded by radius-1 Morgan identifiers, not mol2vec; best epoch, not the last.
"""

from tmr_jax.config import (
    BankConfig,
    DataConfig,
    EvalConfig,
    Experiment,
    FeatureConfig,
    GraphEncoderConfig,
    ModelConfig,
    OptimConfig,
    SecondOrderConfig,
    TextEncoderConfig,
    TrainConfig,
)

CONFIG = Experiment(
    data=DataConfig(name="chebi20", version="text2mol"),  # texts with names
    features=FeatureConfig(molecule="morgan1", max_tokens=256),
    model=ModelConfig(
        name="mbank",
        dim=300,
        text=TextEncoderConfig(source="scibert", pooling="mean", dropout=0.1),
        graph=GraphEncoderConfig(kind="gcn_mlp", layers=3, width=600),
        bank=BankConfig(slots=28, first_order="triplet", adversarial=2e-4),
        second_order=SecondOrderConfig(u2u=1.0, u2c=1.0, kernel="euclid_pos"),
    ),
    optim=OptimConfig(text_lr=3e-5, base_lr=1e-4, warmup=1000, schedule="released", clip=0.0),
    train=TrainConfig(seed=42, epochs=60, batch_size=32),
    eval=EvalConfig(protocols=("chebi20-text2mol/full-33010", "chebi20-text2mol/test-split")),
)
