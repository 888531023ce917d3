"""python -m tmr_jax.eval --run runs/NAME: restore, encode, rank, metrics, report.

In: a run directory. Out: a table, and results.json, report.html and ranks.json (the expected rank
of every query's own partner) in the run. Everything comes from the run; experiments/ is never read,
so old runs outlive edits. Each distinct text and molecule of all chosen pools is encoded once.
Every score carries its protocol, direction, pool size, tie rule and seed (MODELS.md 1.3); beside it
stand the score by identity and that of the queries without a connectivity twin in training.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tmr_jax.assembly import TOKENIZER, Assembly, Encoded, Encoder, assemble_from_run, refines
from tmr_jax.compile_cache import use_compile_cache
from tmr_jax.config import DataConfig, Experiment, RefineConfig, did_you_mean, from_json
from tmr_jax.data.pools import check_complete, load_pool, own_text, validation_protocol
from tmr_jax.features.text import Tokenizer, load_tokenizer
from tmr_jax.generator import data_seen
from tmr_jax.memory import keep_freed_memory
from tmr_jax.overlap import check, check_data, have_twin, molecule_keys, own_test
from tmr_jax.refinement import (
    TIERS,
    Lists,
    Refiner,
    choose_alpha,
    keep_alpha,
    read_alpha,
    settings_of,
)
from tmr_jax.retrieval.index import distinct
from tmr_jax.retrieval.metrics import NAMES, bounds, gains, intervals, metrics, of_rows, per_query
from tmr_jax.retrieval.protocols import (
    CLEAN,
    IDENTITY,
    PAIR,
    Protocol,
    find,
    rank_within,
    within,
)
from tmr_jax.retrieval.rank import count, score_chunks, top
from tmr_jax.retrieval.refine import Direction, levels
from tmr_jax.retrieval.twins import Ceiling, ceiling
from tmr_jax.slots import bank_record, has_slots
from tmr_jax.training.rundir import describe_code, write
from tmr_jax.trust import (
    Sides,
    companions,
    fit,
    slot_lines,
    trained_temperature,
    trust_lines,
    trust_of,
)
from tmr_jax.types import Pool, Ranking, Side

Which = Literal["best", "newest"]
BASELINE = "ridge: bag of words to fingerprint"
# Generated text writes groups and parent as one word, which words cannot take apart and word
# pieces can: without this line the first one would flatter the model.
PIECES_BASELINE = "ridge: bag of word pieces to fingerprint"
WHOLE_TEXT = 512  # word pieces; no generated text has as many
SAME = "by identity (text or molecule): the same"
NO_TWIN = "no query has a connectivity twin in training"
ALL_TWINS = "every query has a connectivity twin in training"
SHOWN = 5  # candidates drawn for an example of the report
EXAMPLES = 3  # hits, and as many misses, of each direction


class Restored(NamedTuple):
    """A run's model as two functions of strings."""

    checkpoint: dict[str, Any]  # which, step, sha256
    texts: Callable[[list[str]], Encoded]
    # Molecules that are refused have no row: the second value lists the items that have.
    molecules: Callable[[list[str]], tuple[Encoded, np.ndarray]]
    refiner: Refiner | None = None  # of a model with a second stage
    temperature: float | None = None  # what training divided the cosines by
    # Of a memory bank: the record of its slots, from words and atoms of a pool's two sides
    slots: Callable[[Side, Side], dict[str, Any]] | None = None


class Asked(NamedTuple):
    """One direction of a pool: who asks whom."""

    direction: Direction
    query: np.ndarray  # float32 [Q, D]
    candidate: np.ndarray  # float32 [C, D]
    target: np.ndarray  # int64 [Q], the candidate of the query's own pair
    group: np.ndarray  # int64 [C], equal where candidates are one input (of one batch)
    labels: np.ndarray  # int64 [2, C], equal where texts, or molecules, are the same
    molecule: np.ndarray  # int64 [Q], the molecule of the query's own pair
    batch: int  # candidates of a query; 0: all


class Score(NamedTuple):
    """One line of the table: one protocol, one direction, one notion of a right answer."""

    protocol: str
    direction: str  # t2m or m2t
    scorer: str  # "model", or the name of a baseline
    right: str  # PAIR, IDENTITY or CLEAN
    ranking: Ranking
    ceiling: Ceiling | None  # by index; an identical text is no twin of the input
    tier: str = ""  # det, tapr, fused or x0 of a model with a second stage
    refined: dict[str, Any] | None = None  # what the second stage was told
    reached: np.ndarray | None = None  # bool [Q, 2]: is the partner on the shortlist, in its head
    base: Ranking | None = None  # of the first stage, the same queries
    notes: tuple[str, ...] = ()  # what else the line says


@dataclass(frozen=True)
class Arguments:
    """What an evaluation may be told; all else is in the run directory."""

    run: Path
    """Directory that training wrote, e.g. runs/quickstart."""
    protocol: tuple[str, ...] = ()
    """What to rank, e.g. chebi20-molt5/test-split, inbatch-64 or "ood/open->pcdes"; none: what the
    run's configuration names."""
    which: Which = "best"
    """Checkpoint: the best on validation, or the newest."""
    draws: int = 0
    """Refine the text queries so many times with other noise, to see how sure the model is."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where table and demo pools come from; the default is the run's own data."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """Sizes of the second stage; the default is the run's own, and search keeps to those."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 after an error of the user's that standard error explains."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without the letters of a path
            stream.reconfigure(errors="backslashreplace")
    try:
        chosen = parse(words)
        command = f"python -m tmr_jax.eval {shlex.join(words)}"
        told = {"command": command, "draws": chosen.draws, "refine": chosen.refine}
        evaluate(chosen.run, chosen.protocol, chosen.which, chosen.data, **told)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(words: list[str]) -> Arguments:
    """Arguments; --data.* and --refine.* default to the run's. Exits 2 on an unknown option."""
    import tyro

    run, prog = _named_run(words), "python -m tmr_jax.eval"
    if run is None:
        return tyro.cli(Arguments, args=words, prog=prog)
    config = read_config(run)
    default = Arguments(run=run, data=config.data, refine=config.eval.refine)
    return tyro.cli(Arguments, args=words, prog=prog, default=default)


def _named_run(words: list[str]) -> Path | None:
    for i, word in enumerate(words):
        if word.startswith("--run="):
            return Path(word.removeprefix("--run="))
        if word == "--run" and i + 1 < len(words):
            return Path(words[i + 1])
    return None


def read_config(run: Path) -> Experiment:
    """The resolved experiment that training left in the run directory.

    Errors: ValueError for a directory that is no run, with the nearest that are.
    """
    path = run / "config.json"
    if not path.is_file():
        known = sorted(str(p.parent) for p in run.parent.glob("*/config.json"))
        hint = did_you_mean(str(run), known) if known else "train one: make train EXP=quickstart"
        raise ValueError(f"expected a run directory with config.json, got {str(run)!r}; {hint}")
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
    """Rank every protocol with the run's model; print the table, write both result files.

    `draws` of the second stage measure how sure it is; 0 leaves that out. `refine`: its sizes,
    where they are not to be the run's. Returns what results.json holds.

    Errors: ValueError for an unknown run or protocol, for data that are not at hand or lack
    published rows, for impossible sizes, for training molecules in a foreign test set, and for
    scores that are no numbers.
    """
    from tmr_jax.analysis import analyse_pool, known_of
    from tmr_jax.data.cache import cache_folder
    from tmr_jax.evaluation_report import page, read_history

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
    pools, texts, molecules, refused = encode_pools(model, [*(c.pool for c in checked), *beside])
    alpha = chosen_alpha(run, config, model)
    known = None if model.refiner is None else known_of(data_seen(run, config.data))
    records, scores, analyses = [], [], []
    encoded = [Sides(*sides) for sides in zip(pools, texts, molecules, strict=True)]
    tested, beside = encoded[: len(declared)], encoded[len(declared) :]
    for protocol, (_, shared, blocks), whole in zip(declared, checked, tested, strict=True):
        pool, text, mol = in_whole_batches(*whole, protocol.batch)
        sides = asked(pool, text, mol, protocol.batch)
        found = score_sides(pool.protocol, sides)
        if model.refiner is not None:
            found = [score._replace(tier="det") for score in found]
        if model.refiner is not None and not protocol.batch:
            lists = refined_lists(pool, text, mol, model.refiner)
            found += refined_scores(pool.protocol, sides, lists, model.refiner, alpha)
            if "t2m" in lists:
                of_text = (pool, text, mol, lists["t2m"], known)
                analyses += analyse_pool(*of_text, model.refiner, alpha, draws)
        found = with_clean(found, pool, sides, blocks)
        found += baseline_scores(pool, data, run / TOKENIZER)
        dropped = len(whole.pool.smiles) - len(pool.smiles)
        counts = {"refused_molecules": refused[protocol.name], "dropped_pairs": dropped}
        records += [score_record(s, config, protocol, shared, counts) for s in found]
        scores += found
    # In batches they would be the same pairs again.
    tested = [sides for p, sides in zip(declared, tested, strict=True) if not p.batch]
    results = summary(run, config, model.checkpoint, command) | {
        "scores": records,
        "analysis": analyses,
        "trust": trust_records(model, tested, beside),
    }
    if model.slots is not None and texts[0].side is not None and molecules[0].side is not None:
        results["slots"] = model.slots(texts[0].side, molecules[0].side)
    own = [s for s in scores if s.scorer == "model" and s.right == PAIR]
    named = {", ".join(filter(None, (s.protocol, s.direction, s.tier))): s for s in own}
    ranks = {name: per_query(s.ranking)["mr"].round(2).tolist() for name, s in named.items()}
    write(run / "ranks.json", json.dumps(ranks) + "\n")  # first: who has results has ranks
    _write_json(run / "results.json", results)
    rankings = {n: s.ranking for n, s in named.items() if s.tier in ("", "det", "fused")}
    examples = []
    if not declared[0].batch:  # an example shows the best of the whole pool
        examples = choose_examples(pools[0], texts[0], molecules[0], scores, config.train.seed)
    history = read_history(run / "metrics.jsonl")
    worked = ""
    if model.refiner is not None:
        worked = work_out(run, config, pools[0], (texts[0], molecules[0]), model.refiner, alpha)
    write(run / "report.html", page(results, rankings, examples, history, worked))
    print_table(results)
    return results


def default_protocols(config: Experiment) -> tuple[str, ...]:
    """What the configuration names, else the test pool of the run's own data set."""
    if config.eval.protocols:
        return config.eval.protocols
    own = own_test(config.data, config.data)
    return (own,) if own else ("chebi20-molt5/test-split", "pcdes/file-order")


# Pools


def encode_pools(
    model: Restored, pools: list[Pool]
) -> tuple[list[Pool], list[Encoded], list[Encoded], dict[str, int]]:
    """Texts and molecules of all pools, each distinct string handed to the encoder once.

    Molecules that the featuriser refuses leave the pool with their texts; the last value says how
    many did, by protocol.
    """
    smiles = list(dict.fromkeys(s for pool in pools for s in pool.smiles))
    encoded, kept = model.molecules(smiles)
    place = {smiles[row]: i for i, row in enumerate(kept)}
    sound = [without(pool, np.array([s in place for s in pool.smiles])) for pool in pools]
    texts = list(dict.fromkeys(t for pool in sound for t in pool.texts))
    described = model.texts(texts)
    row = {text: i for i, text in enumerate(texts)}
    left_out = {
        p.protocol: len(p.smiles) - len(s.smiles) for p, s in zip(pools, sound, strict=True)
    }
    return (
        sound,
        [_take(described, [row[t] for t in pool.texts]) for pool in sound],
        [_take(encoded, [place[s] for s in pool.smiles]) for pool in sound],
        left_out,
    )


def _take(side: Encoded, items: list[int]) -> Encoded:
    return Encoded(side.rows[items], side.group[items], side.side)


def without(pool: Pool, keep: np.ndarray) -> Pool:
    """The pool less the molecules where `keep` is False and the texts that belong to them."""
    if keep.all():
        return pool
    stays = np.ones(len(pool.texts), bool)
    asks = pool.text_target >= 0
    stays[asks] = keep[pool.text_target[asks]]
    partners = pool.mol_target[~keep]
    stays[partners[partners >= 0]] = False
    # A target of -1 finds the -1 that is appended, so that it stays -1.
    mol_place = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)
    text_place = np.append(np.where(stays, np.cumsum(stays) - 1, -1), -1)
    return Pool(
        pool.protocol,
        tuple(t for t, k in zip(pool.texts, stays, strict=True) if k),
        tuple(s for s, k in zip(pool.smiles, keep, strict=True) if k),
        mol_place[pool.text_target[stays]],
        text_place[pool.mol_target[keep]],
    )


def declared_pool(protocol: Protocol, data: DataConfig) -> Pool:
    """The protocol's pool under the protocol's name, complete where its size is published."""
    pool = load_pool(protocol.source, data)
    check_complete(pool, protocol.source, protocol.size)
    return pool._replace(protocol=protocol.name)


def in_whole_batches(
    pool: Pool, text: Encoded, mol: Encoded, batch: int
) -> tuple[Pool, Encoded, Encoded]:
    """A pool of pairs without those at its end that fill no batch; 0: the pool as it is."""
    if not batch:
        return pool, text, mol
    whole = len(pool.texts) // batch * batch
    if not whole:
        raise ValueError(
            f"expected at least {batch} pairs for {pool.protocol}; got {len(pool.texts)}; "
            "rank the whole pool instead"
        )
    targets = pool.text_target[:whole], pool.mol_target[:whole]
    cut = Pool(pool.protocol, pool.texts[:whole], pool.smiles[:whole], *targets)
    return cut, _take(text, list(range(whole))), _take(mol, list(range(whole)))


def trust_records(
    model: Restored, tested: list[Sides], beside: list[Sides]
) -> list[dict[str, Any]]:
    """Can the answers be trusted? `beside`: the validation pool, then other data sets'; nothing
    for a run without validation pairs."""
    from tmr_jax.data.unrelated import SENTENCES

    if not beside:
        return []
    own, *others = beside
    strange = model.texts(list(SENTENCES)).rows
    fitted = fit(own, strange)
    if fitted is None:
        return []
    found = (trust_of(s, fitted, others, strange, model.temperature) for s in tested)
    return [record for record in found if record is not None]


def restored(assembly: Assembly, params: Any, checkpoint: dict[str, Any]) -> Restored:
    """Encoders of strings that show their progress on standard error."""
    slots = partial(bank_record, assembly, params) if has_slots(assembly) else None
    encoder = Encoder(assembly, params, parts=refines(assembly.model) or slots is not None)

    def texts(strings: list[str]) -> Encoded:
        with _progress("encoding texts", len(strings)) as watch:
            return encoder.texts(strings, watch)

    def molecules(smiles: list[str]) -> tuple[Encoded, np.ndarray]:
        with _progress("encoding molecules", len(smiles)) as watch:
            rows, kept, _ = encoder.molecules(smiles, watch)
        return rows, kept

    refiner = None
    if refines(assembly.model):
        refiner = Refiner(assembly, params, settings_of(assembly.config))
    temperature = trained_temperature(params) if assembly.model.trains_scale else None
    return Restored(checkpoint, texts, molecules, refiner, temperature, slots)


@contextmanager
def _progress(what: str, count: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(what, total=count)

    def watch(done: int) -> None:
        bar.start()  # only now: features that are computed first have a bar of their own
        bar.update(task, completed=done)

    try:
        yield watch
        watch(count)  # equal inputs were encoded once
    finally:
        bar.stop()


def open_run(run: Path, which: Which, refine: RefineConfig | None = None) -> Restored:
    """The run's model, tokenizer, vocabulary and checkpoint; its second stage may be resized."""
    from tmr_jax.training.checkpoint import restore_params
    from tmr_jax.training.state import parameters_sha256

    assembly = assemble_from_run(run)
    if refine is not None:
        sizes = dataclasses.replace(assembly.config.eval, refine=refine)
        assembly = assembly._replace(config=dataclasses.replace(assembly.config, eval=sizes))
    params, step = restore_params(run, which)
    digest = parameters_sha256(params)
    return restored(assembly, params, {"which": which, "step": step, "sha256": digest})


# Scores


def asked(pool: Pool, text: Encoded, mol: Encoded, batch: int = 0) -> list[Asked]:
    """Both directions, where the pool has queries on both sides."""
    text_label, mol_label = identity_labels(pool)
    found = []
    if len(asks := np.flatnonzero(pool.text_target >= 0)):
        right = pool.text_target[asks]
        groups = within(batch, mol.group), within(batch, mol_label)
        found.append(Asked("t2m", text.rows[asks], mol.rows, right, *groups, right, batch))
    if len(asks := np.flatnonzero(pool.mol_target >= 0)):
        right = pool.mol_target[asks]
        groups = within(batch, text.group), within(batch, text_label)
        found.append(Asked("m2t", mol.rows[asks], text.rows, right, *groups, asks, batch))
    return found


def score_pool(pool: Pool, text: Encoded, mol: Encoded, scorer: str = "model") -> list[Score]:
    """Scores of both directions of a pool that is ranked as a whole."""
    return score_sides(pool.protocol, asked(pool, text, mol), scorer)


def score_sides(protocol: str, sides: list[Asked], scorer: str = "model") -> list[Score]:
    """Each direction by index and, where that is another number, by identity (DATA.md 5)."""
    scores = []
    for side in sides:
        rows = side.batch, side.query, side.candidate, side.target, side.group
        limit = ceiling(side.group, side.target)
        score = Score(protocol, side.direction, scorer, PAIR, rank_within(*rows), limit)
        scores += with_identity(score, rank_within(*rows, side.labels))
    return scores


def with_identity(score: Score, ranking: Ranking, base: Ranking | None = None) -> list[Score]:
    """The score and what it is by identity: a line of its own, or a note where ranks are equal."""
    same = np.array_equal(score.ranking.greater, ranking.greater)
    if same and np.array_equal(score.ranking.equal, ranking.equal):
        return [score._replace(notes=(SAME,))]
    return [score, score._replace(right=IDENTITY, ranking=ranking, ceiling=None, base=base)]


def with_clean(
    scores: list[Score], pool: Pool, sides: list[Asked], blocks: frozenset[str] | None
) -> list[Score]:
    """After each score by index that of the queries without a connectivity twin in training.

    The pool stays as it is, and so do the ranks: rows of them are taken. `blocks` are those of
    training; None: not at hand, which the line says already.
    """
    if blocks is None:
        return scores
    twins = {s.direction: have_twin([pool.smiles[i] for i in s.molecule], blocks) for s in sides}
    by_name = {side.direction: side for side in sides}
    found = []
    for score in scores:
        clean = ~twins[score.direction]
        if score.right == PAIR and clean.all():
            score = score._replace(notes=(*score.notes, NO_TWIN))
        elif score.right == PAIR and not clean.any():
            score = score._replace(notes=(*score.notes, ALL_TWINS))
        elif score.right == PAIR:
            found.append(score)
            score = _of_queries(score, by_name[score.direction], clean)
        found.append(score)
    return found


def _of_queries(score: Score, side: Asked, chosen: np.ndarray) -> Score:
    """The score of some of its queries."""
    return score._replace(
        right=CLEAN,
        ranking=of_rows(score.ranking, chosen),
        ceiling=None if score.ceiling is None else ceiling(side.group, side.target[chosen]),
        base=None if score.base is None else of_rows(score.base, chosen),
        reached=None if score.reached is None else score.reached[chosen],
        notes=(),
    )


def chosen_alpha(run: Path, config: Experiment, model: Restored) -> float:
    """alpha of the second stage: as the run has it, or chosen now on its own validation pool."""
    if model.refiner is None:
        return 0.0
    own = model.refiner.settings == settings_of(config)
    known = read_alpha(run, model.checkpoint["sha256"]) if own else None
    if known is not None:
        return known
    protocol = validation_protocol(config.data)
    pools, [text], [mol], _ = encode_pools(model, [load_pool(protocol, config.data)])
    choice = choose_alpha(refined_lists(pools[0], text, mol, model.refiner).values())
    if own:  # what the run keeps is for its own sizes, which search has too
        keep_alpha(run, model.checkpoint["sha256"], protocol, choice)
    return choice.alpha


def refined_lists(pool: Pool, text: Encoded, mol: Encoded, refiner: Refiner) -> dict[str, Lists]:
    """The second stage of both directions, where the pool has queries on that side."""
    found: dict[str, Lists] = {}
    sides: dict[Direction, np.ndarray] = {"t2m": pool.text_target, "m2t": pool.mol_target}
    for direction, target in sides.items():
        if asks := int((target >= 0).sum()):
            with _progress(f"refining {pool.protocol}, {direction}", asks) as watch:
                found[direction] = refiner.lists(text, mol, direction, target, watch)
    return found


def refined_scores(
    protocol: str,
    sides: list[Asked],
    lists: dict[str, Lists],
    refiner: Refiner,
    alpha: float,
) -> list[Score]:
    """The tiers after `det`, of both directions (A1.7); all of them, whichever is best."""
    scores = []
    told = dataclasses.asdict(refiner.settings) | {"alpha": alpha}
    for side in sides:
        one = lists[side.direction]
        listed = one.refined.item == one.target[:, None]
        reached = np.stack([listed.any(1), listed[:, : one.refined.clean.shape[1]].any(1)], 1)
        score = Score(protocol, side.direction, "model", PAIR, one.ranking("det"), None)
        score = score._replace(refined=told, reached=reached, base=score.ranking)
        base = refined_by_identity(one, side, "det", alpha)
        for tier in TIERS:
            found = score._replace(tier=tier, ranking=one.ranking(tier, alpha))
            scores += with_identity(found, refined_by_identity(one, side, tier, alpha), base)
    return scores


def refined_by_identity(lists: Lists, side: Asked, tier: str, alpha: float) -> Ranking:
    """Ranks under a tier where any candidate of the same text or molecule is right."""
    column = np.unique(side.group, return_inverse=True)[1]  # as the lists number distinct inputs
    return count(_heights(lists, tier, alpha), side.target, column, side.labels)


def _heights(lists: Lists, tier: str, alpha: float) -> Iterator[tuple[int, np.ndarray]]:
    """Cosines of all distinct inputs, and above them the levels of those that were refined."""
    refined = lists.refined
    for start, scores in score_chunks(lists.query, lists.candidate, 256):
        rows = slice(start, start + len(scores))
        if tier != "det":
            above = np.float32(2 + levels(refined, tier, alpha)[rows])  # a cosine is below 2
            np.put_along_axis(scores, refined.item[rows], above, 1)
        yield start, scores


def work_out(
    run: Path,
    config: Experiment,
    pool: Pool,
    sides: tuple[Encoded, Encoded],
    refiner: Refiner,
    alpha: float,
) -> str:
    """One text query of the pool, drawn by the seed, for the report."""
    from tmr_jax.worked_query import worked_query

    asks = np.flatnonzero(pool.text_target >= 0)
    if not len(asks):
        return ""
    query = int(np.random.default_rng(config.train.seed).choice(asks))
    tokenizer = load_tokenizer(run / TOKENIZER)
    words = tokenizer.pieces(pool.texts[query], config.features.max_tokens)
    return worked_query(pool, *sides, query, refiner, alpha, words)


def baseline_scores(pool: Pool, data: DataConfig, tokenizer_file: Path) -> list[Score]:
    """On generated text, what ridge regression reaches there: how much the text gives away."""
    if not pool.protocol.startswith("demo/"):
        return []
    from tmr_jax.data import load_pairs
    from tmr_jax.features.fingerprint import fingerprints

    pairs = load_pairs(data)
    parts = [[p for p in pairs if p.split == split] for split in ("train", "validation")]
    texts = [[p.text for p in part] for part in parts] + [list(pool.texts)]
    bits = [fingerprints([p.smiles for p in part]) for part in parts]
    bits.append(fingerprints(pool.smiles))
    tokenizer = load_tokenizer(tokenizer_file)
    pieces = [[_pieces(text, tokenizer) for text in part] for part in texts]
    words = ridge_lines(pool, texts, bits, BASELINE)
    return words + ridge_lines(pool, pieces, bits, PIECES_BASELINE)


def _pieces(text: str, tokenizer: Tokenizer) -> str:
    """The text as numbers of its word pieces, which the bag of words takes for words."""
    return " ".join(map(str, tokenizer.encode([text], WHOLE_TEXT)[0][0]))


def ridge_lines(
    pool: Pool, texts: list[list[str]], bits: list[np.ndarray], name: str
) -> list[Score]:
    """The baseline's scores; `texts` and `bits` are those of training, validation and the pool."""
    from tmr_jax.retrieval.baseline import fit_ridge, molecule_rows, text_rows

    ridge = fit_ridge(texts[0], bits[0], texts[1], bits[1])
    mol_group = distinct(np.ascontiguousarray(bits[2]).view(np.uint8))[1]
    text_group = np.unique(np.array(pool.texts, object), return_inverse=True)[1]
    text = Encoded(text_rows(ridge, texts[2]), text_group)
    return score_pool(pool, text, Encoded(molecule_rows(ridge, bits[2]), mol_group), name)


def identity_labels(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Labels [2, n] of texts and of molecules: equal where the texts, the molecules are the same.

    The first row is of the text, the second of the molecule of each one's pair; -1 is of who has
    none, and no target's. Nothing else ever reads a candidate's other half.
    """
    own = own_text(pool)
    has = np.flatnonzero(own >= 0)
    text_label, text_key = np.full((2, len(pool.texts)), -1)
    mol_label, mol_key = np.full((2, len(pool.smiles)), -1)
    text_label[:] = np.unique(np.array(pool.texts, object), return_inverse=True)[1]
    keys = molecule_keys(pool.smiles, "identity of molecules")
    mol_key[:] = np.unique(keys, return_inverse=True)[1]
    mol_label[has], text_key[own[has]] = text_label[own[has]], mol_key[has]
    return np.stack([text_label, text_key]), np.stack([mol_label, mol_key])


# Records


def labels(config: Experiment, protocol: str) -> list[str]:
    """What a reader must know before comparing a number of this run with another."""
    found = []
    if "demo/" in protocol:  # or in batches of it
        found.append("generated text")
    elif config.data.name == "demo":
        found.append("trained on generated text")
    if config.data.name == "open":
        found.append("open-pairs training")
    return found


def score_record(
    score: Score,
    config: Experiment,
    protocol: Protocol,
    shared: dict[str, Any],
    counts: dict[str, int],
) -> dict[str, Any]:
    """One line of results.json: every number with what it depends on.

    `shared` is what `overlap.check` says of the pool, `counts` what left it.
    """
    kind, harsh = bounds(score.ranking)
    record = {
        "protocol": score.protocol,
        "declared": dataclasses.asdict(protocol),
        "direction": score.direction,
        "scorer": score.scorer,
        "tier": score.tier,
        "refined": _refined(score),
        "right": score.right,
        "queries": len(score.ranking.greater),
        "pool": score.ranking.pool_size,
        "ties": protocol.ties,
        "tied_queries": int((score.ranking.equal > 0).sum()),
        "seed": config.train.seed,
        "labels": labels(config, score.protocol),
        "metrics": metrics(score.ranking),
        "intervals": intervals(score.ranking, config.eval.bootstrap, config.train.seed),
        "over_det": _gains(score, config),
        "bounds": {"optimistic": kind, "pessimistic": harsh},
        "twin_ceiling": None if score.ceiling is None else score.ceiling._asdict(),
        "overlap": shared,
        "notes": list(score.notes),
        **counts,
    }
    return record | {"about": about(record)}


def _refined(score: Score) -> dict[str, Any] | None:
    if score.refined is None or score.reached is None:
        return None
    listed, head = score.reached.mean(0)
    return score.refined | {"recall_shortlist": float(listed), "recall_denoised": float(head)}


def _gains(score: Score, config: Experiment) -> dict[str, tuple[float, float, float]] | None:
    if score.base is None:
        return None
    return gains(score.ranking, score.base, config.eval.bootstrap, config.train.seed)


def about(record: dict[str, Any]) -> list[str]:
    """What the table says of a score below its name."""
    lines = [
        f"pool {record['pool']:,}, {record['queries']:,} queries, seed {record['seed']}",
        f"ties: {record['ties']}",
    ]
    if record["declared"]["batch"]:
        lines.append(f"batches in file order; pairs at the end dropped: {record['dropped_pairs']}")
        if record["tier"]:
            lines.append("first stage only: batches are not refined")
    if record["scorer"] != "model":
        lines.insert(0, f"baseline, {record['scorer']}")
    if (told := record["refined"]) is not None:
        lines.append(
            f"K1 {told['shortlist']}, F {told['samples']}, K {told['candidates']}, "
            f"S {told['steps']}, R {told['noises']}, alpha {told['alpha']:g} (of validation)"
        )
        listed, head = (100 * told[f"recall_{part}"] for part in ("shortlist", "denoised"))
        lines.append(f"recall: shortlist {listed:.1f}, denoised {head:.1f}")
        for metric, scale, form in (("hits@1", 100, "+.1f"), ("mrr", 1, "+.4f")):
            mean, low, high = (f"{scale * v:{form}}" for v in record["over_det"][metric])
            lines.append(f"{metric} over det: {mean} ({low} to {high})")
    if record["right"] != PAIR:
        lines.append(f"right: {record['right']}")
    if (limit := record["twin_ceiling"]) is not None:
        share = f"{100 * limit['queries_with_twin']:.1f} % have a twin"
        lines.append(f"twin ceiling {100 * limit['hits1']:.1f} ({share})")
    lines += [*_about_training(record), *record["notes"]]
    if record["refused_molecules"]:
        lines.append(f"molecules refused and left out: {record['refused_molecules']:,}")
    return lines + record["labels"]


def _about_training(record: dict[str, Any]) -> list[str]:
    """What training has shown of the test, and what was left out for it."""
    shared, declared = record["overlap"], record["declared"]
    known, lost = (
        "unknown" if shared[name] is None else f"{shared[name]:,}"
        for name in ("in_training", "left_out")
    )
    lines = []
    if record["right"] != CLEAN:
        lines.append(f"molecules also in training: {known} of {shared['queried']:,}")
    if declared["filter"] != "none":
        own = declared["leakage"] == "molecule or text"
        which = "whose molecule or text was trained on" if own else "with a twin in training"
        lines.append(f"queries {which}, left out: {lost}")
    return lines


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


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def print_table(results: dict[str, Any]) -> None:
    """The scores on standard output; what a number depends on stands in its own line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from tmr_jax.evaluation_report import number, score_name

    checkpoint = results["checkpoint"]
    title = f"{results['experiment']}: {checkpoint['which']} checkpoint, step {checkpoint['step']}"
    table = Table(title=escape(title), show_lines=True)
    table.add_column("protocol, direction", min_width=46)
    for metric in NAMES:
        table.add_column(metric, justify="right")
    for score in results["scores"]:
        name = f"[bold]{escape(score_name(score))}[/bold]"
        cells = []
        for metric in NAMES:
            low, high = (number(metric, value) for value in score["intervals"][metric])
            cells.append(f"{number(metric, score['metrics'][metric])}\n[dim]{low}-{high}[/dim]")
        table.add_row("\n".join([name, *map(escape, score["about"])]), *cells)
    console = Console()
    if not console.is_terminal:
        console.width = 130
    console.print(table)
    console.print(
        "hits@k in per cent; below each value its 95 % bootstrap interval "
        f"({results['resamples']:,} resamples of the queries). Twin ceiling: the highest hits@1 "
        "that any ranking of these model inputs can expect. Also in training: the same InChIKey "
        "block 1 (connectivity)."
    )
    for record in results["analysis"]:
        for line in analysis_lines(record):
            console.print(line, markup=False, highlight=False)
    for record in results["trust"]:
        for line in trust_lines(record):
            console.print(line, markup=False, highlight=False)
    if "slots" in results:
        for line in slot_lines(results["slots"]):
            console.print(line, markup=False, highlight=False)
    for name in ("results.json", "report.html"):
        console.print(f"{results['run']}/{name}", markup=False, soft_wrap=True)


def analysis_lines(record: dict[str, Any]) -> list[str]:
    """What is said beside accuracy, in words."""
    lines = [f"{record['protocol']}, {record['direction']}, {record['tier']}"]
    for name, scores in record["slices"].items():
        lines.append(
            f"  {name}: {scores['queries']:,} queries, hits@1 {100 * scores['hits@1']:.1f}, "
            f"hits@10 {100 * scores['hits@10']:.1f}"
        )
    varied = record["variety"]
    lines.append(
        f"  first ten: mean Tanimoto distance {varied['tanimoto_distance@10']:.3f}, "
        f"{varied['scaffolds@10']:.2f} scaffolds"
    )
    if (drawn := record.get("uncertainty")) is not None:
        shares = (drawn["hits@1_where_all_agree"], drawn["hits@1_elsewhere"])
        sure, unsure = ("-" if share is None else f"{100 * share:.1f}" for share in shares)
        lines.append(
            f"  {drawn['draws']} draws: entropy {drawn['entropy']:.3f} nats, agreement "
            f"{drawn['agreement']:.3f}; all agree on {100 * drawn['all_agree']:.1f} % of the "
            f"queries: hits@1 {sure} there, {unsure} elsewhere"
        )
    return lines


# Examples of the report


def choose_examples(
    pool: Pool, text: Encoded, mol: Encoded, scores: list[Score], seed: int
) -> list[Any]:
    """A few hits drawn by the seed, and misses from near to far, of each direction."""
    sides = {
        "t2m": (text, mol, pool.text_target, pool.texts, pool.smiles),
        "m2t": (mol, text, pool.mol_target, pool.smiles, pool.texts),
    }
    found = []
    for score in scores:
        if (score.protocol, score.scorer, score.right) != (pool.protocol, "model", PAIR):
            continue
        if score.tier not in ("", "det"):  # the examples are drawn with their cosines
            continue
        query, candidate, target, asked, answers = sides[score.direction]
        asks = np.flatnonzero(target >= 0)
        ranks = per_query(score.ranking)["mr"]
        for i in _chosen(ranks, seed):
            item = asks[i]
            found.append(
                _example(
                    score,
                    asked[item],
                    query.rows[item],
                    candidate.rows,
                    int(target[item]),
                    answers,
                    float(ranks[i]),
                )
            )
    return found


def _chosen(ranks: np.ndarray, seed: int) -> list[int]:
    hits = np.flatnonzero(ranks == 1)
    random = np.random.default_rng(seed)
    some = random.choice(hits, min(EXAMPLES, len(hits)), replace=False)
    misses = np.argsort(ranks, kind="stable")[len(hits) :]
    spread = np.linspace(0, len(misses) - 1, min(EXAMPLES, len(misses))).astype(int)
    return [int(i) for i in (*some, *misses[spread])]


def _example(
    score: Score,
    asked: str,
    row: np.ndarray,
    candidates: np.ndarray,
    target: int,
    answers: tuple[str, ...],
    at: float,
) -> Any:
    from tmr_jax.evaluation_report import Candidate, Example

    index, value = top(row[None], candidates, SHOWN)
    best = tuple(
        Candidate(answers[i], float(v), i == target)
        for i, v in zip(index[0], value[0], strict=True)
    )
    right = Candidate(answers[target], float(row @ candidates[target]), True)
    return Example(score.direction, score.protocol, asked, right, at, best)


if __name__ == "__main__":
    sys.exit(main())
