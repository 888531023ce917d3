"""How a run is trained, from pairs to the last checkpoint: read `train` from top to bottom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from tmr_jax.cli import Signals, Stopped
from tmr_jax.config import Experiment, load_experiment
from tmr_jax.data import load_pairs_with_report
from tmr_jax.data.datasets.table import Report, show_report
from tmr_jax.data.files import cache_folder, write_json
from tmr_jax.data.pools import load_pool, validation_protocol
from tmr_jax.eval.leakage import keep_record, write_earlier_data
from tmr_jax.models.checkpoint import (
    STATISTICS,
    Checkpoints,
    NoCheckpoints,
    TrainState,
    new_state,
    without,
)
from tmr_jax.models.run import TrainedModel, init_params, save_model
from tmr_jax.models.runtime import (
    VALIDATION,
    broadcast_from_leader,
    keep_freed_memory,
    leads,
    record_software,
    training_devices,
    use_compile_cache,
)
from tmr_jax.train.dataset import Plan, TrainingSet, freeze_text, model_and_dataset, started_text
from tmr_jax.train.directory import RunDirectory, run_directory
from tmr_jax.train.loader import build_loader
from tmr_jax.train.log import Display, History, Throughput
from tmr_jax.train.loop import Loop, Validation
from tmr_jax.train.optim import build_adversary, build_optimizer
from tmr_jax.train.step import SINGLE_DEVICE, Sharding, make_sharding, replicate
from tmr_jax.types import Pair, UserError

if TYPE_CHECKING:  # which loads the second stage
    from tmr_jax.train.two_stage import FeatureSet


def train(config: Experiment, run: RunDirectory, signals: Signals) -> None:
    """Trains an experiment in its run directory, or resumes it from the last checkpoint there.

    Raises UserError for data or settings that cannot be trained with, NotFinite after too many
    steps in a row without a finite loss, and Stopped after a signal, with everything saved.
    """
    keep_freed_memory()
    use_compile_cache(cache_folder())
    options = config.train

    # Pairs and splits. Mistakes must show now, and not when a first stage has taken an hour.
    pairs, report = load_pairs_with_report(config.data)
    show_report(report)
    pool = load_pool(validation_protocol(config.data), config.data)
    devices = training_devices()
    sharding = make_sharding(devices, options.parallel, options.batch_size, options.chunk)

    # A first stage, if the experiment names one
    start = None
    if options.start:
        start = _first_stage(options.start, run.path, signals)
        write_earlier_data(run.output, start)
    keep_record(run.output, config.data, pairs, start)

    # The model, and the training pairs as tables
    stage = build_stage(config, pairs, sharding, start)
    validation = Validation(stage.model, pool, stage.encoder)
    if isinstance(stage.dataset, TrainingSet) and options.freeze == "text":
        # This encodes all texts: only now that the pool is sound
        stage = stage._replace(dataset=freeze_text(stage.model, stage.dataset, stage.params))
    module, dataset = stage.model.model, stage.dataset
    _save_report(run.output, report, stage, validation)
    save_model(run.output, stage.model, dataset.shapes)

    # The state: parameters, optimizers, step
    plan = Plan(config, dataset)
    critic: frozenset[str] = module.adversary
    trained = without(stage.params, stage.frozen | critic | {STATISTICS})
    optimizer = build_optimizer(config.optim, plan.total, trained, module.groups)
    adversary = build_adversary(config.optim) if critic else None
    ema = config.optim.ema
    state = new_state(stage.params, optimizer, stage.frozen, adversary, critic, ema > 0)

    with Display(plan.total, options.batch_size) as display:
        checkpoints = Checkpoints(run.output, display.print) if leads() else NoCheckpoints()
        state, step, validated = _resume(checkpoints, state)
        history = History(run.output, step, validated, options.log == "tensorboard")
        display.print(_opening(config, run.path, dataset.pairs, plan, step))
        if cut := dataset.texts_cut:
            display.print(
                f"{cut:,} of {dataset.pairs:,} texts have more than --features.max-tokens "
                f"{config.features.max_tokens} word pieces: training reads their beginning"
            )
        if step < plan.total and (changed := record_software(run.output)):
            display.print(f"resumed with {changed}: equal bits take equal versions")

        # From the pairs of a step to its batch on the devices
        pad_token, sharding = stage.model.tokenizer.pad_token, stage.sharding
        loader = build_loader(
            dataset, module, optimizer, stage.frozen, adversary, pad_token, sharding, ema
        )
        loop = Loop(
            run=run.output,
            ids=dataset.ids,
            plan=plan,
            loader=loader,
            validation=validation,
            checkpoints=checkpoints,
            history=history,
            display=display,
            throughput=Throughput(sharding.devices, jax.devices()[0].device_kind),
            signals=signals,
            saved=step,
        )

        # Step after step; signals wait for the end of a step
        with signals.deferred():
            key = replicate(jax.random.key(options.seed), sharding)
            state = replicate(state, sharding)
            try:
                while True:
                    if plan.validation_due(step) and not validated:
                        score = loop.validate(state, step)
                        loop.save(state, step, score)
                        validated = True
                    elif loop.save_due(step):
                        loop.save(state, step)
                    loop.check_signals(step)
                    if step == plan.total:
                        break
                    state, count = loop.take_steps(state, step, key)
                    step, validated = step + count, False
                loop.finish(step)
            except Stopped:
                loop.stop(state, step)
                raise
            finally:
                history.close()


def _first_stage(start: str, run: Path, signals: Signals) -> Path:
    """The finished run that `--train.start` names by its path, or by its experiment: that one is
    trained first, next to `run`, unless it is finished."""
    from tmr_jax.train.two_stage import finished

    path = Path(start) if "/" in start else run.parent / start
    if finished(path):
        return path
    if "/" in start:
        raise UserError(
            f"expected a finished run in {start} (--train.start); got none; finish its training, "
            "or name an experiment, which is then trained first"
        )
    print(f"first stage: {start}, in {path}", flush=True)
    config = load_experiment(start)
    with run_directory(config, path) as directory:
        train(config, directory, signals)
    return path


def _resume(
    checkpoints: Checkpoints | NoCheckpoints, state: TrainState
) -> tuple[TrainState, int, bool]:
    """State, step, and whether that step is validated: from the last checkpoint, if there is one.

    The leading process alone reads it and sends it to the others.
    """
    step, validated = 0, False
    restored = checkpoints.restore(state)
    if restored is not None:
        state, step, validated = restored.state, restored.step, restored.score is not None
    state, (step, validated) = broadcast_from_leader((state, (step, validated)))
    return state, int(step), bool(validated)


def _opening(config: Experiment, run: Path, pairs: int, plan: Plan, step: int) -> str:
    devices = f"{jax.default_backend()} ({jax.device_count()})"
    begin = f"resumes after step {step}" if step else "starts"
    return (
        f"{config.name}: {pairs:,} pairs, {plan.total:,} steps of {config.train.batch_size} in "
        f"{config.train.epochs} epochs on {devices}; {begin} in {run}"
    )


def _save_report(run: Path, report: Report, stage: Stage, validation: Validation) -> None:
    """validation.json: which rows became training pairs, and why others did not."""
    content: dict[str, Any] = {
        **report.as_json(),
        "training": {
            "pairs": stage.dataset.pairs,
            "molecules_refused": dict(Counter(r.reason for r in stage.dataset.refused)),
            "texts_cut": stage.dataset.texts_cut,
        },
        "validation": {
            "protocol": validation.protocol,
            "molecules_refused": len(validation.refused),
        },
    }
    write_json(run / VALIDATION, content, indent=2)


# What a run trains: a whole model, a model above a frozen text encoder, or a generator alone


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
    model, dataset, text_weights = model_and_dataset(config, pairs, sharding.parts)
    if start is not None:
        model, text_weights = started_text(model, start)
    seed, pad_token = config.train.seed, model.tokenizer.pad_token
    rows = dataset.composition.epoch(seed, 0)[0][: config.train.batch_size // dataset.shards]
    batch = dataset._replace(shards=1).batch(rows, pad_token)
    params = init_params(model, batch, seed, text_weights)
    if config.train.masked_words:
        from tmr_jax.train.masked_words import adapted

        read = adapted(config, model, params["text_encoder"], pairs)
        params = {**params, "text_encoder": read}
    frozen = frozenset() if config.train.freeze == "none" else frozenset({"text_encoder"})
    return Stage(model, dataset, params, frozen, sharding)


def _generator_stage(config: Experiment, pairs: Sequence[Pair], start: Path) -> Stage:
    """The generator alone, above the features of the encoder of the run `start`."""
    from tmr_jax.train.two_stage import model_and_features

    model, dataset, encoder = model_and_features(config, pairs, start)
    rows = dataset.composition.epoch(config.train.seed, 0)[0]
    batch = dataset.batch(rows, model.tokenizer.pad_token)
    # Copies of the encoder's parameters, because a training step donates its arguments.
    params = init_params(model, batch, config.train.seed) | jax.tree.map(jnp.array, encoder)
    frozen = frozenset(encoder) - model.model.generator
    # A generator by itself is little work: one device does it.
    return Stage(model, dataset, params, frozen, SINGLE_DEVICE, encoder)
