"""DiffTMR's encoders and discriminative loss on ChEBI-20 as published.

Paper: DiffTMR (ACM MM 2025), Table 1, text to molecule 72.8, molecule to text 66.7 Hits@1.
Run: make train EXP=difftmr_chebi
Hardware: one GPU; the paper names an A40 and gives no time.
Result: not run here: the training texts and SciBERT's weights need a network.
Differs: the `det` tier only; perturbation and diffusion alignment are not built yet.
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
    data=DataConfig(name="chebi20", version="text2mol"),  # MODELS.md 1.3: text with names
    features=FeatureConfig(molecule="morgan1", max_tokens=256),  # 2.4
    model=ModelConfig(
        dim=300,  # 2.4
        text=TextEncoderConfig(source="scibert", pooling="cls", dropout=0.1),  # 2.1, R2, R28
        graph=GraphEncoderConfig(kind="gcn", layers=3, width=600),  # 2.1; width unstated: R3
    ),
    optim=OptimConfig(text_lr=3e-5, base_lr=1e-4, warmup=1000, schedule="linear"),  # 2.4, R23
    train=TrainConfig(epochs=60, batch_size=32),  # 2.4; seed unstated
    eval=EvalConfig(protocols=("chebi20-text2mol/full-33010", "chebi20-text2mol/test-split")),
)
