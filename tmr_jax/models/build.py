"""From the sections of an experiment to its model; each meets the contract of dual_encoder.py."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from tmr_jax.config import FeatureConfig, ModelConfig, TrainConfig, did_you_mean
from tmr_jax.models.difftmr import GPU_LEVEL_BLOCK, LEVEL_BLOCK, DiffTMR
from tmr_jax.models.dual_encoder import DualEncoder
from tmr_jax.models.layers.attention import LANES, Form, fits_flash
from tmr_jax.models.layers.bert import Backward, BertConfig
from tmr_jax.models.layers.memory_bank import HEADS
from tmr_jax.models.memory_bank import MemoryBank

MODELS = {"dual": DualEncoder, "difftmr": DiffTMR, "mbank": MemoryBank}


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
        raise ValueError(f"unknown model {model.name!r}: {did_you_mean(model.name, list(MODELS))}")
    if model.graph.kind == "residual" and not edge_sizes:
        raise ValueError(
            "the residual graph encoder reads bond features; morgan1 has none: "
            "use --features.molecule ogb, or --model.graph.kind gcn"
        )
    backend = backend or jax.default_backend()
    more = {}
    if model.name == "difftmr":
        _check_generator(model)
        more = {"slots": features.max_tokens, "tapr": model.tapr, "hdan": model.hdan}
        more["level_block"] = GPU_LEVEL_BLOCK if backend == "gpu" else LEVEL_BLOCK
    if model.name == "mbank":
        _check_bank(model, train)
        more = {"bank": model.bank}
    backward: Backward = "low_memory" if train.backward == "auto" else train.backward
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
        attention=_attention(train, bert, backward, backend),
        gelu=model.text.gelu,
        remat=train.remat,
        kernels=backend == "tpu",
        # One compiled layer. On CPU, where a loop would copy each layer's weights, all of them.
        unroll=0 if backend == "cpu" else 1,
        word_dropout=model.text.word_dropout,
        second_order=model.second_order,
        **more,
    )


def _attention(train: TrainConfig, bert: BertConfig, backward: Backward, backend: str) -> Form:
    """The form of attention that an experiment asks for, or the best one of the backend."""
    fits = fits_flash(bert.hidden, bert.heads)
    if train.attention == "auto":
        own: Form = "low_memory" if backward == "low_memory" else "plain"
        return "flash" if backend == "tpu" and fits else own
    if train.attention == "flash" and not (fits and backend == "tpu"):
        raise ValueError(
            f"expected --train.attention flash on a TPU, with heads that fill {LANES} numbers; got "
            f"{backend} and {bert.heads} heads of {bert.hidden // bert.heads}; say auto"
        )
    if train.attention == "cudnn" and backend != "gpu":
        raise ValueError(
            f"expected --train.attention cudnn on an NVIDIA GPU; got {backend}; say auto"
        )
    return train.attention


def _check_generator(model: ModelConfig) -> None:
    hdan = model.hdan
    if (hdan.state, hdan.clean) == ("outside", "clamp"):
        raise ValueError(
            "expected --model.hdan.clean simplex with the state outside of the softmax, got clamp, "
            "which collapses there (MODELS.md 5.1); for DiffusionRet's form also say "
            "--model.hdan.state inside"
        )
    if (hdan.inputs, hdan.clean) == ("posterior", "clamp"):
        raise ValueError(
            "expected --model.hdan.clean simplex with --model.hdan.inputs posterior, whose p are "
            "logits and not near 0 or 1; got clamp"
        )
    if model.dim % 2:
        raise ValueError(
            f"expected an even --model.dim, half sines and half cosines of the step; got "
            f"{model.dim}; add one"
        )
    if not (hdan.steps >= 1 and 0 <= hdan.gamma <= 1 and 0 <= hdan.gradient <= 1):
        raise ValueError(
            "expected at least one of --model.hdan.steps, and gamma and gradient from 0 to 1; got "
            f"{hdan.steps}, {hdan.gamma} and {hdan.gradient}"
        )


def _check_bank(model: ModelConfig, train: TrainConfig) -> None:
    if train.chunk:
        raise ValueError(
            "expected --train.chunk 0 with --model.name mbank, whose BatchNorm is of a whole "
            f"batch; got {train.chunk}; make --train.batch-size smaller, or take more devices"
        )
    if model.bank.slots < 0 or model.dim % HEADS:
        raise ValueError(
            f"expected --model.bank.slots of at least 0 and a --model.dim that {HEADS} heads share "
            f"evenly; got {model.bank.slots} and {model.dim}; 0 slots leave the memory out"
        )
    weights = (model.second_order.u2u, model.second_order.u2c, model.bank.adversarial)
    if model.bank.first_order == "none" and not any(weights[:2]):
        raise ValueError(
            "expected something to train: a --model.bank.first-order, or a weight in "
            "--model.second-order; got none of them"
        )
