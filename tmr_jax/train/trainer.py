"""How a run is trained, from pairs to the last checkpoint: read `train` from top to bottom."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import jax

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
from tmr_jax.models.run import save_model
from tmr_jax.models.runtime import (
    VALIDATION,
    broadcast_from_leader,
    keep_freed_memory,
    leads,
    training_devices,
    use_compile_cache,
)
from tmr_jax.train.dataset import Plan
from tmr_jax.train.directory import RunDirectory, run_directory
from tmr_jax.train.loader import build_loader
from tmr_jax.train.log import Display, History
from tmr_jax.train.loop import Loop
from tmr_jax.train.optim import build_adversary, build_optimizer
from tmr_jax.train.parallel import make_sharding, replicate
from tmr_jax.train.stage import Stage, build_stage, freeze
from tmr_jax.train.throughput import Throughput
from tmr_jax.train.two_stage import finished
from tmr_jax.train.validation import Validation
from tmr_jax.types import UserError


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
    if options.freeze == "text":  # which encodes all texts: only now that the pool is sound
        stage = freeze(stage)
    module, dataset = stage.model.model, stage.dataset
    _save_report(run.output, report, stage, validation)
    save_model(run.output, stage.model, dataset.shapes)

    # The state: parameters, optimizers, step
    plan = Plan(config, dataset)
    critic: frozenset[str] = module.adversary
    trained = without(stage.params, stage.frozen | critic | {STATISTICS})
    optimizer = build_optimizer(config.optim, plan.total, trained, module.groups)
    adversary = build_adversary(config.optim) if critic else None
    state = new_state(stage.params, optimizer, stage.frozen, adversary, critic)

    with Display(plan.total, options.batch_size) as display:
        checkpoints = Checkpoints(run.output, display.print) if leads() else NoCheckpoints()
        state, step, validated = _resume(checkpoints, state)
        history = History(run.output, step, validated)
        display.print(_opening(config, run.path, dataset.ids, plan, step))

        # From the pairs of a step to its batch on the devices
        pad_token, sharding = stage.model.tokenizer.pad_token, stage.sharding
        loader = build_loader(
            dataset, module, optimizer, stage.frozen, adversary, pad_token, sharding
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


def _opening(config: Experiment, run: Path, ids: tuple[str, ...], plan: Plan, step: int) -> str:
    devices = f"{jax.default_backend()} ({jax.device_count()})"
    begin = f"resumes after step {step}" if step else "starts"
    return (
        f"{config.name}: {len(ids):,} pairs, {plan.total:,} steps of {config.train.batch_size} in "
        f"{config.train.epochs} epochs on {devices}; {begin} in {run}"
    )


def _save_report(run: Path, report: Report, stage: Stage, validation: Validation) -> None:
    """validation.json: which rows became training pairs, and why others did not."""
    content: dict[str, Any] = {
        **report.as_json(),
        "training": {
            "pairs": len(stage.dataset.ids),
            "molecules_refused": dict(Counter(r.reason for r in stage.dataset.refused)),
            "texts_cut": stage.dataset.texts_cut,
        },
        "validation": {
            "protocol": validation.protocol,
            "molecules_refused": len(validation.refused),
        },
    }
    write_json(run / VALIDATION, content, indent=2)
