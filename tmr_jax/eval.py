"""python -m tmr_jax.eval --run runs/NAME: restore, encode, rank, metrics, report.

In: a run directory. Out: a table, and results.json and report.html in the run. Everything comes
from the run; experiments/ is never read, so old runs outlive edits. Each distinct text and molecule
of all chosen pools is encoded once. Every score carries its protocol, direction, pool size, tie
rule and seed (MODELS.md 1.3).
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
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tmr_jax.assembly import TOKENIZER, Assembly, Encoded, Encoder, assemble_from_run, refines
from tmr_jax.compile_cache import use_compile_cache
from tmr_jax.config import DataConfig, Experiment, RefineConfig, did_you_mean, from_json
from tmr_jax.features.text import Tokenizer, load_tokenizer
from tmr_jax.generator import data_seen
from tmr_jax.memory import keep_freed_memory
from tmr_jax.overlap import overlap
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
from tmr_jax.retrieval.metrics import NAMES, TIES, bounds, gains, intervals, metrics, per_query
from tmr_jax.retrieval.rank import rank, top
from tmr_jax.retrieval.refine import Direction
from tmr_jax.retrieval.twins import Ceiling, ceiling
from tmr_jax.training.rundir import describe_code, write
from tmr_jax.types import Pool, Ranking

Which = Literal["best", "newest"]
PAIR = "its own partner"
SAME_TEXT = "any candidate with the identical text"
BASELINE = "ridge: bag of words to fingerprint"
# Generated text writes groups and parent as one word, which words cannot take apart and word
# pieces can: without this line the first one would flatter the model.
PIECES_BASELINE = "ridge: bag of word pieces to fingerprint"
WHOLE_TEXT = 512  # word pieces; no generated text has as many
SHOWN = 5  # candidates drawn for an example of the report
EXAMPLES = 3  # hits, and as many misses, of each direction


class Restored(NamedTuple):
    """A run's model as two functions of strings."""

    checkpoint: dict[str, Any]  # which, step, sha256
    texts: Callable[[list[str]], Encoded]
    # Molecules that are refused have no row: the second value lists the items that have.
    molecules: Callable[[list[str]], tuple[Encoded, np.ndarray]]
    refiner: Refiner | None = None  # of a model with a second stage


class Score(NamedTuple):
    """One line of the table: one protocol, one direction, one notion of a right answer."""

    protocol: str
    direction: str  # t2m or m2t
    scorer: str  # "model", or the name of a baseline
    right: str  # PAIR or SAME_TEXT
    ranking: Ranking
    ceiling: Ceiling | None  # of PAIR; an identical text is no twin of the input
    tier: str = ""  # det, tapr, fused or x0 of a model with a second stage
    refined: dict[str, Any] | None = None  # what the second stage was told and what reached it
    base: Ranking | None = None  # of the first stage, the same queries


@dataclass(frozen=True)
class Arguments:
    """What an evaluation may be told; all else is in the run directory."""

    run: Path
    """Directory that training wrote, e.g. runs/quickstart."""
    protocol: tuple[str, ...] = ()
    """Pools to rank, e.g. chebi20-molt5/test-split; none: those of the run's configuration."""
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

    Errors: ValueError for an unknown run or protocol, for data that are not at hand, for impossible
    sizes, and for training molecules in a foreign test set.
    """
    from tmr_jax.analysis import analyse_pool, known_of
    from tmr_jax.data.cache import cache_folder
    from tmr_jax.evaluation_report import page, read_history

    keep_freed_memory()
    use_compile_cache(cache_folder())
    run, config = Path(run), read_config(Path(run))
    data = data or config.data
    pools = [_load_pool(name, data) for name in protocols or default_protocols(config)]
    overlaps = {p.protocol: overlap(run, config, data, p) for p in pools}
    model = open_run(run, which, refine)
    pools, texts, molecules, refused = encode_pools(model, pools)
    alpha = chosen_alpha(run, config, model)
    known = None if model.refiner is None else known_of(data_seen(run, config.data))
    scores, analyses = [], []
    for pool, text, mol in zip(pools, texts, molecules, strict=True):
        found = score_pool(pool, text, mol)
        if model.refiner is not None:
            lists = refined_lists(pool, text, mol, model.refiner)
            found = [score._replace(tier="det") for score in found]
            found += refined_scores(pool.protocol, lists, model.refiner, alpha)
            if "t2m" in lists:
                of_text = (pool, text, mol, lists["t2m"], known)
                analyses += analyse_pool(*of_text, model.refiner, alpha, draws)
        scores += found + baseline_scores(pool, data, run / TOKENIZER)
    results = summary(run, config, model.checkpoint, command) | {
        "scores": [
            score_record(s, config, overlaps[s.protocol], refused[s.protocol]) for s in scores
        ],
        "analysis": analyses,
    }
    _write_json(run / "results.json", results)
    rankings = {
        ", ".join(filter(None, (s.protocol, s.direction, s.tier))): s.ranking
        for s in scores
        if s.scorer == "model" and s.right == PAIR and s.tier in ("", "det", "fused")
    }
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
    data = config.data
    if data.name == "chebi20":
        return (f"chebi20-{data.version or 'text2mol'}/test-split",)
    if data.name == "pcdes":
        return (f"pcdes/{data.version or 'file-order'}",)
    if data.name == "open":
        return ("chebi20-molt5/test-split", "pcdes/file-order")
    return (f"{data.name}/test",)


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


def _load_pool(protocol: str, data: DataConfig) -> Pool:
    from tmr_jax.data.pools import load_pool

    return load_pool(protocol, data)


def restored(assembly: Assembly, params: Any, checkpoint: dict[str, Any]) -> Restored:
    """Encoders of strings that show their progress on standard error."""
    encoder = Encoder(assembly, params, parts=refines(assembly.model))

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
    return Restored(checkpoint, texts, molecules, refiner)


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
    from tmr_jax.retriever import parameters_sha256
    from tmr_jax.training.checkpoint import restore_params

    assembly = assemble_from_run(run)
    if refine is not None:
        sizes = dataclasses.replace(assembly.config.eval, refine=refine)
        assembly = assembly._replace(config=dataclasses.replace(assembly.config, eval=sizes))
    params, step = restore_params(run, which)
    digest = parameters_sha256(params)
    return restored(assembly, params, {"which": which, "step": step, "sha256": digest})


# Scores


def score_pool(pool: Pool, text: Encoded, mol: Encoded, scorer: str = "model") -> list[Score]:
    """Both directions, where the pool has queries on both sides.

    Where texts repeat, a second line counts any candidate with the identical text as right
    (DATA.md 5): a description that fits thirteen molecules cannot point at one of them.
    """
    text_label, mol_label = text_labels(pool)
    repeated = len(np.unique(text_label)) < len(text_label)
    sides = (
        ("t2m", text, mol, pool.text_target, mol_label),
        ("m2t", mol, text, pool.mol_target, text_label),
    )
    scores = []
    for direction, query, candidate, target, label in sides:
        asks = np.flatnonzero(target >= 0)
        if not len(asks):
            continue
        rows, wanted = query.rows[asks], target[asks]
        found = rank(rows, candidate.rows, wanted, candidate.group)
        limit = ceiling(candidate.group, wanted)
        scores.append(Score(pool.protocol, direction, scorer, PAIR, found, limit))
        if repeated:
            found = rank(rows, candidate.rows, wanted, candidate.group, label)
            scores.append(Score(pool.protocol, direction, scorer, SAME_TEXT, found, None))
    return scores


def chosen_alpha(run: Path, config: Experiment, model: Restored) -> float:
    """alpha of the second stage: as the run has it, or chosen now on its own validation pool."""
    if model.refiner is None:
        return 0.0
    from tmr_jax.data.pools import validation_protocol

    own = model.refiner.settings == settings_of(config)
    known = read_alpha(run, model.checkpoint["sha256"]) if own else None
    if known is not None:
        return known
    protocol = validation_protocol(config.data)
    pools, [text], [mol], _ = encode_pools(model, [_load_pool(protocol, config.data)])
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
    protocol: str, lists: dict[str, Lists], refiner: Refiner, alpha: float
) -> list[Score]:
    """The tiers after `det`, of both directions (A1.7); all of them, whichever is best."""
    scores = []
    for direction, one in lists.items():
        listed, head = one.recall()
        told = dataclasses.asdict(refiner.settings) | {"alpha": alpha}
        told |= {"recall_shortlist": listed, "recall_denoised": head}
        base = one.ranking("det")
        for tier in TIERS:
            found = one.ranking(tier, alpha)
            scores.append(Score(protocol, direction, "model", PAIR, found, None, tier, told, base))
    return scores


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


def text_labels(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Labels of texts and of molecules: equal where the texts are the same string.

    A molecule has the label of its own text; one without a text has a label to itself.
    """
    label = np.unique(np.array(pool.texts, object), return_inverse=True)[1]
    own = pool.mol_target.copy()
    asks = np.flatnonzero(pool.text_target >= 0)
    own[pool.text_target[asks]] = asks
    alone = len(pool.texts) + np.arange(len(own))
    return label, np.where(own >= 0, label[own], alone)


# Records


def labels(config: Experiment, protocol: str) -> list[str]:
    """What a reader must know before comparing a number of this run with another."""
    found = []
    if protocol.startswith("demo/"):
        found.append("generated text")
    elif config.data.name == "demo":
        found.append("trained on generated text")
    if config.data.name == "open":
        found.append("open-pairs training")
    return found


def score_record(
    score: Score, config: Experiment, shared: dict[str, Any], refused: int
) -> dict[str, Any]:
    """One line of results.json: every number with what it depends on."""
    kind, harsh = bounds(score.ranking)
    record = {
        "protocol": score.protocol,
        "direction": score.direction,
        "scorer": score.scorer,
        "tier": score.tier,
        "refined": score.refined,
        "right": score.right,
        "queries": len(score.ranking.greater),
        "pool": score.ranking.pool_size,
        "ties": TIES,
        "tied_queries": int((score.ranking.equal > 0).sum()),
        "seed": config.train.seed,
        "labels": labels(config, score.protocol),
        "metrics": metrics(score.ranking),
        "intervals": intervals(score.ranking, config.eval.bootstrap, config.train.seed),
        "over_det": _gains(score, config),
        "bounds": {"optimistic": kind, "pessimistic": harsh},
        "twin_ceiling": None if score.ceiling is None else score.ceiling._asdict(),
        "overlap": shared,
        "refused_molecules": refused,
    }
    return record | {"about": about(record)}


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
    shared = record["overlap"]
    known = "unknown" if shared["in_training"] is None else f"{shared['in_training']:,}"
    lines.append(f"molecules also in training: {known} of {shared['queried']:,}")
    if record["refused_molecules"]:
        lines.append(f"molecules refused and left out: {record['refused_molecules']:,}")
    return lines + record["labels"]


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
