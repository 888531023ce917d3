"""Evaluate a run: restore the model, encode the pools, rank, measure, write the result files.

Each distinct text and molecule of all pools is encoded once. Every score is stored with its
protocol, direction, pool size, tie rule and seed, with the score by identity and with the score of
the queries whose connectivity is not in training (docs/papers.md#metrics).
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.config import DataConfig, Experiment, RefineConfig, did_you_mean, from_json
from tmr_jax.data.features.text import load_tokenizer
from tmr_jax.data.files import write_text
from tmr_jax.data.pools import load_pool, validation_protocol
from tmr_jax.eval.alpha import choose_alpha, keep_alpha, read_alpha
from tmr_jax.eval.analysis import analyse_pool
from tmr_jax.eval.diagnostics import companions, diagnose, fit, unrelated_sentences
from tmr_jax.eval.leakage import Checked, check, check_data, data_seen, own_test
from tmr_jax.eval.metrics import per_query
from tmr_jax.eval.ood import save_detector
from tmr_jax.eval.pools import EncodedPool, declared_pool, encode_pools, in_whole_batches
from tmr_jax.eval.protocols import PAIR, Protocol, find
from tmr_jax.eval.records import labels, score_record
from tmr_jax.eval.report.examples import choose_examples
from tmr_jax.eval.report.history import read_history
from tmr_jax.eval.report.page import page
from tmr_jax.eval.report.worked_query import WorkedQuery, worked_query
from tmr_jax.eval.rerank import PoolReranker, rerank_both, settings_of
from tmr_jax.eval.restore import Restored, Which, open_run
from tmr_jax.eval.scores import (
    Score,
    baseline_scores,
    query_sets,
    reranked_scores,
    score_sides,
    with_clean,
)
from tmr_jax.eval.subgroups import TrainingSeen, training_seen
from tmr_jax.models.run import TOKENIZER
from tmr_jax.models.rundir import describe_code
from tmr_jax.models.runtime import keep_freed_memory, use_compile_cache
from tmr_jax.types import UserError


class EvalContext(NamedTuple):
    """What all pools of one evaluation share."""

    run: Path
    config: Experiment
    data: DataConfig  # where pools come from
    alpha: float  # of the second stage
    known: TrainingSeen | None  # scaffolds and words of training; None without a second stage
    draws: int


class ProtocolResult(NamedTuple):
    """One protocol's lines."""

    scores: list[Score]
    records: list[dict[str, Any]]  # a line of results.json for each score
    analyses: list[dict[str, Any]]


def read_config(run: Path) -> Experiment:
    """The resolved experiment that training left in the run directory.

    Errors: ValueError for a directory that is no run, with the nearest that are.
    """
    path = run / "config.json"
    if not path.is_file():
        known = sorted(str(p.parent) for p in run.parent.glob("*/config.json"))
        hint = did_you_mean(str(run), known) if known else "train one: make train EXP=quickstart"
        raise UserError(f"expected a run directory with config.json, got {str(run)!r}; {hint}")
    return from_json(path.read_text(encoding="utf-8"))


def evaluate(
    run: Path,
    protocols: tuple[str, ...] = (),
    which: Which = "best",
    data: DataConfig | None = None,
    command: str = "",
    draws: int = 0,
    refine: RefineConfig | None = None,
) -> dict[str, Any]:
    """Rank every protocol with the run's model; write the result files.

    `draws` of the second stage measure how sure it is; 0 leaves that out. `refine`: its sizes,
    where they are not to be the run's. Returns what results.json holds.

    Errors: ValueError for an unknown run or protocol, for data that are not at hand or lack
    published rows, for impossible sizes, for training molecules in a foreign test set, and for
    scores that are no numbers.
    """
    from tmr_jax.data.cache import cache_folder

    keep_freed_memory()
    use_compile_cache(cache_folder())
    run, config = Path(run), read_config(Path(run))
    data = data or config.data
    own = own_test(config.data, data)
    declared = [find(name, own) for name in protocols or default_protocols(config)]
    for protocol in declared:  # before anything is read
        check_data(run, config, protocol)
    checked = [check(run, config, p, declared_pool(p, data)) for p in declared]
    model = open_run(run, which, refine)
    beside = companions(config.data)
    sides, refused = encode_pools(model, [*(c.pool for c in checked), *beside])
    tested, beside = sides[: len(declared)], sides[len(declared) :]
    alpha = chosen_alpha(run, config, model)
    known = None if model.reranker is None else training_seen(data_seen(run, config.data))
    told = EvalContext(run, config, data, alpha, known, draws)
    measured = [
        measure(model, protocol, whole, c, refused[protocol.name], told)
        for protocol, whole, c in zip(declared, tested, checked, strict=True)
    ]
    # In batches they would be the same pairs again.
    in_whole = [whole for p, whole in zip(declared, tested, strict=True) if not p.batch]
    results = summary(run, config, model.checkpoint, command) | {
        "scores": [record for found in measured for record in found.records],
        "analysis": [record for found in measured for record in found.analyses],
        "trust": trust_records(model, run, in_whole, beside),
    }
    words, atoms = tested[0].text.side, tested[0].mol.side
    if model.slots is not None and words is not None and atoms is not None:
        results["slots"] = model.slots(words, atoms)
    scores = [score for found in measured for score in found.scores]
    write_results(told, results, scores, model, declared[0], tested[0])
    return results


def measure(
    model: Restored,
    protocol: Protocol,
    whole: EncodedPool,
    checked: Checked,
    refused: int,
    told: EvalContext,
) -> ProtocolResult:
    """All lines of one protocol: each direction, stage and notion of a right answer."""
    pool, text, mol = in_whole_batches(*whole, protocol.batch)
    sides = query_sets(pool, text, mol, protocol.batch)
    scores, analyses = score_sides(pool.protocol, sides), []
    if model.reranker is not None:
        scores = [score._replace(stage="det") for score in scores]
    if model.reranker is not None and not protocol.batch:
        lists = rerank_both(pool, text, mol, model.reranker)
        scores += reranked_scores(pool.protocol, sides, lists, model.reranker, told.alpha)
        if "t2m" in lists:
            of_text = (pool, text, mol, lists["t2m"], told.known)
            analyses = analyse_pool(*of_text, model.reranker, told.alpha, told.draws)
    scores = with_clean(scores, pool, sides, checked.blocks)
    scores += baseline_scores(pool, told.data, told.run / TOKENIZER)
    dropped = len(whole.pool.smiles) - len(pool.smiles)
    counts = {"refused_molecules": refused, "dropped_pairs": dropped}
    records = [score_record(s, told.config, protocol, checked.record, counts) for s in scores]
    return ProtocolResult(scores, records, analyses)


def write_results(
    told: EvalContext,
    results: dict[str, Any],
    scores: list[Score],
    model: Restored,
    first: Protocol,
    sides: EncodedPool,
) -> None:
    """ranks.json, results.json and report.html; the report's examples are of the first protocol."""
    own = [s for s in scores if s.scorer == "model" and s.right == PAIR]
    named = {", ".join(filter(None, (s.protocol, s.direction, s.stage))): s for s in own}
    ranks = {name: per_query(s.ranking)["mr"].round(2).tolist() for name, s in named.items()}
    run = told.run
    write_text(run / "ranks.json", json.dumps(ranks) + "\n")  # first: who has results has ranks
    write_text(run / "results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
    rankings = {n: s.ranking for n, s in named.items() if s.stage in ("", "det", "fused")}
    # An example shows the best of the whole pool.
    examples = [] if first.batch else choose_examples(*sides, scores, told.config.train.seed)
    worked = work_out(told, sides, model.reranker) if model.reranker is not None else None
    history = read_history(run / "metrics.jsonl")
    write_text(run / "report.html", page(results, rankings, examples, history, worked))


def default_protocols(config: Experiment) -> tuple[str, ...]:
    """What the configuration names, else the test pool of the run's own data set."""
    if config.eval.protocols:
        return config.eval.protocols
    own = own_test(config.data, config.data)
    return (own,) if own else ("chebi20-molt5/test-split", "pcdes/file-order")


def trust_records(
    model: Restored, run: Path, tested: list[EncodedPool], beside: list[EncodedPool]
) -> list[dict[str, Any]]:
    """Can the answers be trusted? `beside`: the validation pool, then other data sets'; nothing
    for a run without validation pairs. What a search needs of it is kept in the run directory."""
    if not beside:
        return []
    own, *others = beside
    strange = model.texts(unrelated_sentences()).rows
    fitted = fit(own, strange)
    if fitted is None:
        return []
    save_detector(run, model.checkpoint["sha256"], fitted.detector)
    found = (diagnose(s, fitted, others, strange, model.temperature) for s in tested)
    return [record for record in found if record is not None]


def chosen_alpha(run: Path, config: Experiment, model: Restored) -> float:
    """alpha of the second stage: as the run has it, or chosen now on its own validation pool."""
    if model.reranker is None:
        return 0.0
    own = model.reranker.settings == settings_of(config)
    known = read_alpha(run, model.checkpoint["sha256"]) if own else None
    if known is not None:
        return known
    protocol = validation_protocol(config.data)
    [own_pool], _ = encode_pools(model, [load_pool(protocol, config.data)])
    choice = choose_alpha(rerank_both(*own_pool, model.reranker).values())
    if own:  # what the run keeps is for its own sizes, which search has too
        keep_alpha(run, model.checkpoint["sha256"], protocol, choice)
    return choice.alpha


def work_out(told: EvalContext, sides: EncodedPool, reranker: PoolReranker) -> WorkedQuery | None:
    """One text query of the pool, drawn by the seed, for the report."""
    asks = np.flatnonzero(sides.pool.text_target >= 0)
    if not len(asks):
        return None
    query = int(np.random.default_rng(told.config.train.seed).choice(asks))
    tokenizer = load_tokenizer(told.run / TOKENIZER)
    words = tokenizer.pieces(sides.pool.texts[query], told.config.features.max_tokens)
    return worked_query(*sides, query, reranker, told.alpha, words)


def summary(
    run: Path, config: Experiment, checkpoint: dict[str, Any], command: str
) -> dict[str, Any]:
    """What holds for all scores of a results.json."""
    return {
        "run": str(run),
        "experiment": config.name,
        "command": command,
        "commit": _commit(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "checkpoint": checkpoint,
        "trained_on": config.data.name,
        "labels": sorted({text for p in default_protocols(config) for text in labels(config, p)}),
        "resamples": config.eval.bootstrap,
    }


def _commit() -> str:
    """Commit of the code that evaluates, and whether files differ from it."""
    commit, *changed = describe_code().splitlines()
    return f"{commit} with changes" if any(changed) else commit
