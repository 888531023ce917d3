"""From the sections of an experiment to its model.

Add a model: one file with a subclass of `DualEncoder`, and one line in MODELS (docs/extend.md).
"""

from __future__ import annotations

import dataclasses
import importlib

import jax
import jax.numpy as jnp

from tmr_jax.config import FeatureConfig, ModelConfig, TrainConfig
from tmr_jax.models.dual_encoder import DualEncoder
from tmr_jax.models.layers.attention import LANES, Form, fits_flash
from tmr_jax.models.layers.bert import Backward, BertConfig
from tmr_jax.types import UserError, did_you_mean

MODELS = {  # file of tmr_jax/models and class; only the model of an experiment is imported
    "dual": "dual_encoder:DualEncoder",
    "difftmr": "difftmr:DiffTMR",
    "mbank": "memory_bank:MemoryBank",
}


def build_model(
    model: ModelConfig,
    features: FeatureConfig,
    train: TrainConfig,
    bert: BertConfig,
    node_sizes: tuple[int, ...],
    edge_sizes: tuple[int, ...],
    backend: str = "",
) -> DualEncoder:
    """The Linen module of an experiment; sizes are the cardinalities of the atom and bond columns.

    Under morgan1 `node_sizes` is (vocabulary + 1,) and `edge_sizes` is empty. `backend` is the one
    that the model is compiled for: "cpu", "gpu" or "tpu"; empty: the one of this process.
    """
    if model.name not in MODELS:
        hint = did_you_mean(model.name, MODELS)
        raise UserError(f"expected a model; got {model.name!r}; {hint}")
    file, _, name = MODELS[model.name].partition(":")
    kind: type[DualEncoder] = getattr(importlib.import_module(f"tmr_jax.models.{file}"), name)
    kind.check(model, train)
    if model.graph.kind == "residual" and not edge_sizes:
        raise UserError(
            "expected bond features for the residual graph encoder; got morgan1, which has none; "
            "use --features.molecule ogb, or --model.graph.kind gcn"
        )
    backend = backend or jax.default_backend()
    backward = _backward(train, bert)
    return kind(
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
        attention=_attention(train, bert, backward, backend),
        gelu=model.text.gelu,
        remat=train.remat,
        kernels=backend == "tpu",
        # One compiled layer. On CPU, where a loop would copy each layer's weights, all of them.
        unroll=0 if backend == "cpu" else 1,
        word_dropout=model.text.word_dropout,
        second_order=model.second_order,
        **kind.options(model, features, backend),
    )


def _backward(train: TrainConfig, bert: BertConfig) -> Backward:
    if not bert.relative_buckets:
        return "low_memory" if train.backward == "auto" else train.backward
    if train.backward == "low_memory" or train.attention not in ("auto", "plain"):
        raise UserError(
            "expected --train.backward and --train.attention auto with an MPNet, whose bias by "
            f"relative position has neither; got {train.backward} and {train.attention}; set auto"
        )
    return "autodiff"


def _attention(train: TrainConfig, bert: BertConfig, backward: Backward, backend: str) -> Form:
    """The form of attention that an experiment asks for, or the best one of the backend."""
    fits = fits_flash(bert.hidden, bert.heads) and not bert.relative_buckets
    if train.attention == "auto":
        own: Form = "low_memory" if backward == "low_memory" else "plain"
        return "flash" if backend == "tpu" and fits else own
    if train.attention == "flash" and not (fits and backend == "tpu"):
        raise UserError(
            f"expected --train.attention flash on a TPU, with heads that fill {LANES} numbers; got "
            f"{backend} and {bert.heads} heads of {bert.hidden // bert.heads}; pass auto"
        )
    if train.attention == "cudnn" and backend != "gpu":
        raise UserError(
            f"expected --train.attention cudnn on an NVIDIA GPU; got {backend}; pass auto"
        )
    return train.attention
