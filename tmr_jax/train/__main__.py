"""python -m tmr_jax.train --exp NAME: configuration, data, model, state, then step after step.

Exit status: 0 trained; 1 stopped because steps were not finite; 2 an error of the user's that
standard error explains; 3 another trainer works in the directory; 130 and 143 after Ctrl-C and
SIGTERM, with everything saved. Started again with the same words it goes on where it was, and
ends with the same numbers as if it had never stopped: which pairs make a batch and which random
keys a step uses are functions of (seed, step) alone.
"""

# Heavy imports wait inside the functions: a wrong word or a directory in use is said at once.
from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from tmr_jax import cli
from tmr_jax.cli import Signals
from tmr_jax.config import Experiment, from_json, load_experiment, to_json
from tmr_jax.data.files import hold, write_text
from tmr_jax.models.rundir import (
    GIT,
    LOCK,
    describe_code,
    move_aside,
    open_directory,
    settle_config,
)
from tmr_jax.train.loop import Loop, Plan, several
from tmr_jax.types import UserError

if TYPE_CHECKING:
    from tmr_jax.data.datasets.table import Report
    from tmr_jax.models.run import TrainedModel
    from tmr_jax.models.state import TrainState
    from tmr_jax.train.dataset import TrainingSet
    from tmr_jax.train.parallel import Spread
    from tmr_jax.train.two_stage import FeatureSet
    from tmr_jax.train.validation import Validation
    from tmr_jax.types import Pair, Pool


@dataclass(frozen=True)
class Options:
    exp: str
    """An experiment of experiments/, or a .py file with a CONFIG."""
    run: Path | None = None
    """Directory of the run; default: runs/NAME."""
    fresh: bool = False
    """Move an existing run aside, to RUN.old-N, and start a new one."""


@dataclass(frozen=True)
class Arguments(Options):
    """Train an experiment; options set its fields, e.g. --optim.base-lr 1e-5."""

    config: Annotated[Experiment, tyro.conf.arg(name="")] = field(default_factory=Experiment)


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("train", start, arguments, resumable=True)


def start(args: list[str]) -> int:
    chosen = parse(args)
    if not _leads():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the program ends
    run = chosen.run or Path("runs") / chosen.config.name
    with Signals() as signals:
        train(chosen.config, run, chosen.fresh, signals)
    print(f"evaluate it: python -m tmr_jax.eval --run {shlex.quote(str(run))}")
    return 0


def _leads() -> bool:
    """Joins the other processes if there are any; whether this one speaks and saves for them."""
    if not several():
        return True
    from tmr_jax.train.parallel import join_processes

    return join_processes()


def parse(words: list[str]) -> Arguments:
    """The arguments on top of the experiment they name. Exits 2 on an unknown option.

    Raises ValueError for an unknown experiment.
    """
    default = None
    for i, word in enumerate(words):
        name = words[i + 1] if word == "--exp" and i + 1 < len(words) else ""
        name = word.removeprefix("--exp=") if word.startswith("--exp=") else name
        if name:
            default = Arguments(exp=name, config=load_experiment(name))
    return cli.parse(Arguments, "train", words, default, brief=Options)


def train(config: Experiment, run: Path, fresh: bool, signals: Signals) -> None:
    """Trains an experiment in a directory, or goes on with it. Errors: see the module's head."""
    second_stage = config.train.start and config.train.freeze == "none"
    if config.train.word_dropout and not second_stage:
        raise UserError(
            "expected --train.start, and no --train.freeze, beside --train.word-dropout, which is "
            "of the second of two stages; got another plan; in one stage say "
            "--model.text.word-dropout"
        )
    with _directory(config, run, fresh) as out:
        _train(config, run, out, signals)


@contextmanager
def _directory(config: Experiment, run: Path, fresh: bool) -> Iterator[Path]:
    """The run's directory, locked, with the configuration in it. A process that does not lead has
    one that is thrown away."""
    if several():
        import jax

        from tmr_jax.train.parallel import meet

        if jax.process_index():
            with tempfile.TemporaryDirectory() as other:
                meet("the run's directory")
                yield Path(other)
            return
    open_directory(run)
    if fresh and any(p.name != LOCK for p in run.iterdir()):
        with hold(run / LOCK):
            aside = move_aside(run)
        print(f"the old run is now {aside}")
        open_directory(run)
    with hold(run / LOCK) as stale:
        if stale:
            print(f"the lock of {stale} was left behind; it is ours now")
        if not settle_config(run, to_json(config), lambda old: to_json(from_json(old))):
            write_text(run / GIT, describe_code())
        if several():
            meet("the run's directory")
        yield run


class Beginning(NamedTuple):
    """What the first step is made with."""

    assembly: TrainedModel
    data: TrainingSet | FeatureSet
    validation: Validation
    params: Any
    frozen: frozenset[str]  # names of parameters that stay
    spread: Spread


def _train(config: Experiment, run: Path, out: Path, signals: Signals) -> None:
    """Reads what other runs have beside `run`, and writes into `out`."""
    from tmr_jax.data import load_pairs_with_report
    from tmr_jax.data.cache import cache_folder
    from tmr_jax.data.datasets.table import show_report
    from tmr_jax.data.pools import load_pool, validation_protocol
    from tmr_jax.eval.leakage import keep_record, write_earlier_data
    from tmr_jax.models.devices import training_devices
    from tmr_jax.models.run import save_model
    from tmr_jax.models.runtime import keep_freed_memory, use_compile_cache
    from tmr_jax.train.parallel import spread_over

    keep_freed_memory()
    use_compile_cache(cache_folder())
    pairs, report = load_pairs_with_report(config.data)
    show_report(report)
    # What could be wrong is said before a first stage takes an hour.
    pool = load_pool(validation_protocol(config.data), config.data)
    how = config.train.parallel, config.train.batch_size, config.train.chunk
    spread, start = spread_over(training_devices(), *how), None
    if config.train.start:
        start = _started(config.train.start, run, signals)
        write_earlier_data(out, start)
    keep_record(out, config.data, pairs, start)
    if start is not None and config.train.freeze == "none":
        begun = _second_stage(config, pairs, pool, start)
    else:
        begun = _one_stage(config, pairs, pool, spread, start)
    _save_report(out, report, begun.data, begun.validation)
    save_model(out, begun.assembly, begun.data.shapes)
    _take_steps(config, run, out, begun, signals)


def _one_stage(
    config: Experiment, pairs: list[Pair], pool: Pool, spread: Spread, start: Path | None
) -> Beginning:
    """All parameters; with `start`, above the text encoder of that run, which stays."""
    from tmr_jax.models.run import init_params
    from tmr_jax.train.dataset import freeze_text, model_and_dataset, started_text
    from tmr_jax.train.validation import Validation

    told = config.train
    assembly, data, text_weights = model_and_dataset(config, pairs, spread.parts)
    if start is not None:
        assembly, text_weights = started_text(assembly, start)
    validation = Validation(assembly, pool)
    share = Plan(config, data).rows(0, 1)[0][: told.batch_size // data.shards]
    one = data._replace(shards=1).batch(share, assembly.tokenizer.pad_token)
    params = init_params(assembly, one, told.seed, text_weights)
    if told.freeze == "none":
        return Beginning(assembly, data, validation, params, frozenset(), spread)
    data = freeze_text(assembly, data, params)
    return Beginning(assembly, data, validation, params, frozenset({"text_encoder"}), spread)


def _second_stage(config: Experiment, pairs: list[Pair], pool: Pool, start: Path) -> Beginning:
    """The generator alone, above the features of the encoder of the run `start`."""
    from tmr_jax.train.parallel import WHOLE
    from tmr_jax.train.two_stage import assemble_for_generator, init_generator
    from tmr_jax.train.validation import Validation

    assembly, data, encoder = assemble_for_generator(config, pairs, start)
    validation = Validation(assembly, pool, encoder)
    first = data.batch(Plan(config, data).rows(0, 1)[0], assembly.tokenizer.pad_token)
    params = init_generator(assembly, first, config.train.seed, encoder)
    return Beginning(
        assembly, data, validation, params, frozenset(encoder) - assembly.model.generator, WHOLE
    )


def _take_steps(
    config: Experiment, run: Path, out: Path, begun: Beginning, signals: Signals
) -> None:
    """From the last checkpoint in `out`, or from the beginning, to the last step."""
    import jax

    from tmr_jax.models.checkpoint import Checkpoints, NoCheckpoints
    from tmr_jax.models.state import STATISTICS, new_state, without
    from tmr_jax.train.loader import feed_of
    from tmr_jax.train.log import Display, History
    from tmr_jax.train.optim import build_adversary, build_optimizer
    from tmr_jax.train.parallel import everywhere
    from tmr_jax.train.throughput import Throughput

    assembly, data, validation, params, frozen, spread = begun
    plan, pad_token = Plan(config, data), assembly.tokenizer.pad_token
    rivals = assembly.model.adversary
    trained = without(params, frozen | rivals | {STATISTICS})
    optimizer = build_optimizer(config.optim, plan.total, trained, assembly.model.groups)
    adversary = build_adversary(config.optim) if rivals else None
    state = new_state(params, optimizer, frozen, adversary, rivals)
    with Display(plan.total, config.train.batch_size) as display:
        leads = jax.process_index() == 0
        checkpoints = Checkpoints(out, display.say) if leads else NoCheckpoints()
        restored = checkpoints.restore(state)
        step, evaluated = 0, False
        if restored is not None:
            state, step, evaluated = restored.state, restored.step, restored.score is not None
        state, step, evaluated = _agreed(state, step, evaluated)
        history = History(out, step, evaluated)
        display.say(_opening(config, run, data, plan, step))
        loop = Loop(
            config=config,
            run=out,
            assembly=assembly,
            data=data,
            plan=plan,
            feed=feed_of(data, assembly.model, optimizer, frozen, adversary, pad_token, spread),
            validation=validation,
            checkpoints=checkpoints,
            history=history,
            display=display,
            throughput=Throughput(spread.devices, jax.devices()[0].device_kind),
            signals=signals,
        )
        try:
            with signals.deferred():
                key = everywhere(jax.random.key(config.train.seed), spread)
                loop.go(everywhere(state, spread), key, step, evaluated)
        finally:
            history.close()


def _agreed(state: TrainState, step: int, evaluated: bool) -> tuple[TrainState, int, bool]:
    """Where the leading process begins, which alone has read the checkpoints."""
    from tmr_jax.train.parallel import of_the_leader

    state, begins = of_the_leader((state, (step, evaluated)))
    return state, int(begins[0]), bool(begins[1])


def _started(start: str, run: Path, signals: Signals) -> Path:
    """The run with the encoder of the first stage; an experiment is trained beside `run` if it
    was not, or not to its end."""
    from tmr_jax.train.two_stage import finished

    beside = Path(start) if "/" in start else run.parent / start
    if finished(beside):
        return beside
    if "/" in start:
        raise UserError(
            f"expected a finished run in {start} (--train.start); got none; train it to its end, "
            "or name an experiment, which is then trained first"
        )
    print(f"first stage: {start}, in {beside}", flush=True)
    train(load_experiment(start), beside, False, signals)
    return beside


def _opening(
    config: Experiment, run: Path, data: TrainingSet | FeatureSet, plan: Plan, step: int
) -> str:
    import jax

    where = f"{jax.default_backend()} ({jax.device_count()})"
    begin = f"goes on after step {step}" if step else "begins"
    return (
        f"{config.name}: {len(data.ids):,} pairs, {plan.total:,} steps of "
        f"{config.train.batch_size} in {config.train.epochs} epochs on {where}; {begin} in {run}"
    )


def _save_report(
    run: Path, report: Report, data: TrainingSet | FeatureSet, validation: Validation
) -> None:
    """validation.json: the account of the rows, of reading and of making features."""
    reasons: dict[str, int] = {}
    for refused in data.refused:
        reasons[refused.reason] = reasons.get(refused.reason, 0) + 1
    content = {
        **report.as_json(),
        "training": {
            "pairs": len(data.ids),
            "molecules_refused": reasons,
            "texts_cut": data.texts_cut,
        },
        "validation": {
            "protocol": validation.protocol,
            "molecules_refused": len(validation.refused),
        },
    }
    write_text(run / "validation.json", json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
