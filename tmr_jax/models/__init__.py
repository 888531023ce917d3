"""One file per paper; every model meets the contract of the retriever (tmr_jax/models/dual.py)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from tmr_jax.config import FeatureConfig, ModelConfig, TrainConfig, did_you_mean
from tmr_jax.models.dual import DualEncoder
from tmr_jax.nn.bert import BertConfig

MODELS = {"dual": DualEncoder}


def build_model(
    model: ModelConfig,
    features: FeatureConfig,
    train: TrainConfig,
    bert: BertConfig,
    node_sizes: tuple[int, ...],
    edge_sizes: tuple[int, ...],
) -> DualEncoder:
    """The Linen module of an experiment; sizes are the cardinalities of the atom and bond columns.

    Under morgan1 `node_sizes` is (vocabulary + 1,) and `edge_sizes` is empty.
    """
    if model.name not in MODELS:
        raise ValueError(f"unknown model {model.name!r}: {did_you_mean(model.name, list(MODELS))}")
    if model.graph.kind == "residual" and not edge_sizes:
        raise ValueError(
            "the residual graph encoder reads bond features; morgan1 has none: "
            "use --features.molecule ogb, or --model.graph.kind gcn"
        )
    backward = train.backward
    if backward == "auto":
        backward = "cpu_fast" if jax.default_backend() == "cpu" else "autodiff"
    return MODELS[model.name](
        bert=dataclasses.replace(bert, dropout=model.text.dropout),
        graph=model.graph,
        dim=model.dim,
        pooling=model.text.pooling,
        node_sizes=node_sizes,
        edge_sizes=edge_sizes,
        unknown=features.molecule == "morgan1",
        motif=features.motif,
        dtype=jnp.dtype(train.precision),
        backward=backward,
    )
