"""Evaluate a run: restore the model, encode the pools, rank, measure, write the result files.

Each distinct text and molecule of all pools is encoded once. Every score is stored with its
protocol, direction, pool size, tie rule and seed, with the score by identity and with the score of
the queries whose connectivity is not in training (docs/papers.md#metrics).
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.config import DataConfig, Experiment, RefineConfig, from_json
from tmr_jax.data.features.text import load_tokenizer
from tmr_jax.data.files import cache_folder, write_json, write_text
from tmr_jax.data.pools import load_pool, validation_protocol
from tmr_jax.eval.analysis import TrainingSeen, analyse_pool, training_seen
from tmr_jax.eval.confidence import trusted_score
from tmr_jax.eval.diagnostics import companions, diagnose, fit, unrelated_sentences
from tmr_jax.eval.facts import FactsTable, read_facts
from tmr_jax.eval.facts_pool import facts_scores
from tmr_jax.eval.leakage import Checked, check, check_data, data_seen, own_test
from tmr_jax.eval.metrics import per_query
from tmr_jax.eval.ood import save_detector
from tmr_jax.eval.pools import (
    EncodedPool,
    Restored,
    Which,
    declared_pool,
    encode_pools,
    in_whole_batches,
    open_run,
)
from tmr_jax.eval.protocols import HOLDER, PAIR, Protocol, find
from tmr_jax.eval.report.page import WorkedQuery, choose_examples, page, worked_query
from tmr_jax.eval.rerank import choose_alpha, keep_alpha, read_alpha, rerank_both, settings_of
from tmr_jax.eval.ridge import FINAL, Baseline, against_model, baselines
from tmr_jax.eval.scores import (
    Score,
    labels,
    pool_digest,
    query_sets,
    reranked_scores,
    score_record,
    score_sides,
    with_clean,
)
from tmr_jax.models import runtime
from tmr_jax.models.run import TOKENIZER
from tmr_jax.types import UserError, did_you_mean

Record = dict[str, Any]  # in results.json


class EvalContext(NamedTuple):
    """What all pools of one evaluation share."""

    run: Path
    config: Experiment
    model: Restored
    rivals: list[Baseline]  # what the model is compared with
    alpha: float  # of the second stage
    seen: TrainingSeen | None  # scaffolds and texts of training; None without a second stage
    draws: int
    facts: FactsTable | None  # of a run that reranks by facts


def read_config(run: Path) -> Experiment:
    """The resolved experiment that training left in the run directory.

    Errors: UserError for a directory that is not a run, with the most similar names.
    """
    path = run / runtime.CONFIG
    if not path.is_file():
        known = sorted(str(p.parent) for p in run.parent.glob("*/config.json"))
        hint = did_you_mean(str(run), known) if known else "train one: tmr train --exp quickstart"
        raise UserError(f"expected a run directory with config.json; got {str(run)!r}; {hint}")
    return from_json(path.read_text(encoding="utf-8"))


def check_fitted(run: Path, config: Experiment) -> None:
    """UserError for a run that was stopped between its last step and what it fits after that."""
    fits = {runtime.LEXICAL: config.train.lexical, runtime.FACTS_FILE: config.train.facts}
    missing = [name for name, is_fitted in fits.items() if is_fitted and not (run / name).is_file()]
    if missing and not any((run / name).is_file() for name in (runtime.FITTED, runtime.EXPORTED)):
        raise UserError(
            f"expected a run whose training has ended; got {run}, which lacks "
            f"{' and '.join(missing)}; resume it: tmr train --exp {config.name} "
            f"--run {run}"
        )


def evaluate(
    run: Path,
    protocols: tuple[str, ...] = (),
    which: Which = "best",
    data: DataConfig | None = None,
    command: str = "",
    draws: int = 0,
    refine: RefineConfig | None = None,
) -> dict[str, Any]:
    """Rank every protocol with the run's model; write ranks.json, results.json and report.html.

    `draws` samples of the second stage measure its uncertainty; 0 skips that. `refine` replaces the
    run's sizes of the second stage. Returns the contents of results.json.

    Errors: UserError for an unknown run or protocol, for data that are missing or lack published
    rows, for impossible sizes, for training molecules in a foreign test set, and for scores that
    are not finite.
    """
    runtime.keep_freed_memory()
    runtime.use_compile_cache(cache_folder())
    run, config = Path(run), read_config(Path(run))
    check_fitted(run, config)
    data = data or config.data
    own = own_test(config.data, data)
    declared = [find(name, own) for name in protocols or default_protocols(config)]
    for protocol in declared:  # before any data is read
        check_data(run, config, protocol)
    checked = [check(run, config, p, declared_pool(p, data)) for p in declared]
    model = open_run(run, which, refine)
    pools = [*(c.pool for c in checked), *companions(config.data)]
    sides, refused = encode_pools(model, pools)
    tested, others = sides[: len(declared)], sides[len(declared) :]
    alpha = chosen_alpha(run, config, model)
    seen = None if model.reranker is None else training_seen(data_seen(run, config.data))
    rivals = baselines(config.data, run / TOKENIZER)
    facts = read_facts(run, model.checkpoint["sha256"])
    context = EvalContext(run, config, model, rivals, alpha, seen, draws, facts)
    scores, records, analyses = [], [], []
    for protocol, side, one in zip(declared, tested, checked, strict=True):
        found = measure(context, protocol, side, one, refused[protocol.name])
        for kept, more in zip((scores, records, analyses), found, strict=True):
            kept += more
    # Batches hold the same pairs as the whole pool; these records are of queries with one answer.
    pairs = [not p.batch and PAIR in p.relevance for p in declared]
    whole = [side for side, one in zip(tested, pairs, strict=True) if one]
    results = summary(context, command) | {
        "scores": records,
        "analysis": analyses,
        "trust": diagnostics(context, whole, others),
    }
    words, atoms = tested[0].text.side, tested[0].mol.side
    if model.slots is not None and words is not None and atoms is not None:
        results["slots"] = model.slots(words, atoms)
    write_results(context, results, scores, tested[0], shown=not declared[0].batch)
    return results


def measure(
    context: EvalContext, protocol: Protocol, side: EncodedPool, checked: Checked, refused: int
) -> tuple[list[Score], list[Record], list[Record]]:
    """All scores of one protocol (each direction, stage and notion of a right answer), their
    records, and the analyses of the pool."""
    reranker, alpha = context.model.reranker, context.alpha
    cut = in_whole_batches(side, protocol.batch)
    pool, sets = cut.pool, query_sets(*cut, protocol.batch)
    scores, analyses = score_sides(pool.protocol, sets), []
    if reranker is not None or context.facts is not None:
        scores = [score._replace(stage="det") for score in scores]
    if context.facts is not None and not protocol.batch:
        scores += facts_scores(pool, sets, context.facts)
    if reranker is not None and not protocol.batch:
        lists = rerank_both(*cut, reranker)
        sizes = dataclasses.asdict(reranker.settings) | {"alpha": alpha}
        scores += reranked_scores(pool.protocol, sets, lists, sizes, alpha=alpha)
        if "t2m" in lists and PAIR in protocol.relevance:
            analyses = analyse_pool(
                *cut, lists["t2m"], context.seen, reranker, alpha, context.draws
            )
    scores = with_clean(scores, pool, sets, checked.blocks)
    others = [score for one in context.rivals for score in one.scores(pool, protocol.batch)]
    scores += against_model(others, scores)
    dropped = len(side.pool.smiles) - len(pool.smiles)
    counts = {"refused_molecules": refused, "dropped_pairs": dropped, "digest": pool_digest(pool)}
    records = [score_record(s, context.config, protocol, checked.record, counts) for s in scores]
    return scores, records, analyses


def write_results(
    context: EvalContext, results: Record, scores: list[Score], first: EncodedPool, shown: bool
) -> None:
    """ranks.json, results.json and report.html, in this order: a run with results has ranks.

    The report's examples are of the `first` protocol, if they are `shown`: they are the best of the
    whole pool, not of a batch.
    """
    run, seed = context.run, context.config.train.seed
    by_pair = [s for s in scores if s.scorer == "model" and s.right in (PAIR, HOLDER)]
    named = {", ".join(filter(None, (s.protocol, s.direction, s.stage))): s for s in by_pair}
    ranks = {name: per_query(s.ranking)["mr"].round(2).tolist() for name, s in named.items()}
    write_json(run / "ranks.json", ranks)
    write_json(run / "results.json", results, indent=2)
    rankings = {n: s.ranking for n, s in named.items() if s.stage in FINAL}
    examples = choose_examples(*first, scores, seed) if shown else []
    history = runtime.read_metrics(run / runtime.METRICS)
    html = page(results, rankings, examples, history, work_out(context, first))
    write_text(run / "report.html", html)


def default_protocols(config: Experiment) -> tuple[str, ...]:
    """The protocols of the configuration, else the test pool of the run's own data set."""
    if config.eval.protocols:
        return config.eval.protocols
    own = own_test(config.data, config.data)
    return (own,) if own else ("chebi20-molt5/test-split", "pcdes/file-order")


def diagnostics(
    context: EvalContext, tested: list[EncodedPool], others: list[EncodedPool]
) -> list[dict[str, Any]]:
    """Records of `tested`; `others` are the validation pool, then pools of other data sets.

    Empty without validation pairs. The OOD detector of searches is written to the run directory.
    """
    if not others:
        return []
    model, (validation, *others) = context.model, others
    unrelated = model.texts(unrelated_sentences()).rows
    fitted = fit(validation, unrelated)
    if fitted is None:
        return []
    detector = fitted.detector
    if model.reranker is None:  # the scores of a denoiser are of another scale
        detector = detector._replace(trusted=trusted_score(validation, model.texts, context.facts))
    save_detector(context.run, model.checkpoint["sha256"], detector)
    records = (diagnose(s, fitted, others, unrelated, model.temperature) for s in tested)
    return [record for record in records if record is not None]


def chosen_alpha(run: Path, config: Experiment, model: Restored) -> float:
    """alpha of the second stage: as stored in the run, or chosen now on its validation pool."""
    if model.reranker is None:
        return 0.0
    unchanged = model.reranker.settings == settings_of(config)
    stored = read_alpha(run, model.checkpoint["sha256"]) if unchanged else None
    if stored is not None:
        return stored
    protocol = validation_protocol(config.data)
    [validation], _ = encode_pools(model, [load_pool(protocol, config.data)])
    choice = choose_alpha(rerank_both(*validation, model.reranker).values())
    if unchanged:  # the stored alpha is for the run's own sizes, which search uses
        keep_alpha(run, model.checkpoint["sha256"], protocol, choice)
    return choice.alpha


def work_out(context: EvalContext, sides: EncodedPool) -> WorkedQuery | None:
    """One text query of the pool, drawn by the seed; None without a second stage."""
    texts, reranker, config = sides.text_queries(), context.model.reranker, context.config
    if reranker is None or not len(texts):
        return None
    query = int(np.random.default_rng(config.train.seed).choice(texts))
    tokenizer = load_tokenizer(context.run / TOKENIZER)
    words = tokenizer.pieces(sides.pool.texts[query], config.features.max_tokens)
    return worked_query(*sides, query, reranker, context.alpha, words)


def summary(context: EvalContext, command: str) -> dict[str, Any]:
    """What holds for all scores of a results.json."""
    config = context.config
    commit, *changed = runtime.describe_code().splitlines()
    return {
        "run": str(context.run),
        "experiment": config.name,
        "command": command,
        "commit": f"{commit} with changes" if any(changed) else commit,
        "software": runtime.software(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "checkpoint": context.model.checkpoint,
        "trained_on": config.data.name,
        "labels": sorted({text for p in default_protocols(config) for text in labels(config, p)}),
        "resamples": config.eval.bootstrap,
    }
