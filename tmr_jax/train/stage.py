"""What a run trains: a whole model, a model above a frozen text encoder, or a generator alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tmr_jax.config import Experiment
from tmr_jax.models.run import TrainedModel, init_params
from tmr_jax.train.dataset import TrainingSet, freeze_text, model_and_dataset, started_text
from tmr_jax.train.parallel import SINGLE_DEVICE, Sharding
from tmr_jax.train.two_stage import FeatureSet, init_generator, model_and_features
from tmr_jax.types import Pair


class Stage(NamedTuple):
    """All that differs between the three ways to train; the loop is the same for each."""

    model: TrainedModel
    dataset: TrainingSet | FeatureSet
    params: dict[str, Any]  # before the first step
    frozen: frozenset[str]  # names of parameters that do not change
    sharding: Sharding
    encoder: dict[str, Any] | None = None  # parameters, where neither encoder ever changes


def build_stage(
    config: Experiment, pairs: Sequence[Pair], sharding: Sharding, start: Path | None
) -> Stage:
    """The stage of an experiment; `start` is the run of the stage before it, if there is one."""
    if start is not None and config.train.freeze == "none":
        return _generator_stage(config, pairs, start)
    return _model_stage(config, pairs, sharding, start)


def freeze(stage: Stage) -> Stage:
    """The stage of a frozen text encoder with that encoder's states of all training texts."""
    assert isinstance(stage.dataset, TrainingSet)
    return stage._replace(dataset=freeze_text(stage.model, stage.dataset, stage.params))


def _model_stage(
    config: Experiment, pairs: Sequence[Pair], sharding: Sharding, start: Path | None
) -> Stage:
    """All parameters; with `--train.freeze text` those above the text encoder, which is that of
    the run `start` or the pretrained one."""
    model, dataset, text_weights = model_and_dataset(config, pairs, sharding.parts)
    if start is not None:
        model, text_weights = started_text(model, start)
    seed, pad_token = config.train.seed, model.tokenizer.pad_token
    rows = dataset.composition.epoch(seed, 0)[0][: config.train.batch_size // dataset.shards]
    batch = dataset._replace(shards=1).batch(rows, pad_token)
    params = init_params(model, batch, seed, text_weights)
    frozen = frozenset() if config.train.freeze == "none" else frozenset({"text_encoder"})
    return Stage(model, dataset, params, frozen, sharding)


def _generator_stage(config: Experiment, pairs: Sequence[Pair], start: Path) -> Stage:
    """The generator alone, above the features of the encoder of the run `start`."""
    model, dataset, encoder = model_and_features(config, pairs, start)
    rows = dataset.composition.epoch(config.train.seed, 0)[0]
    batch = dataset.batch(rows, model.tokenizer.pad_token)
    params = init_generator(model, batch, config.train.seed, encoder)
    frozen = frozenset(encoder) - model.model.generator
    # A generator by itself is little work: one device does it.
    return Stage(model, dataset, params, frozen, SINGLE_DEVICE, encoder)
