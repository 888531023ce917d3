"""Words whose answers structures decide: python -m tools.bench.short_queries --run RUN

Precision among the first ten molecules of ChEBI-20's 33,008 for one half of the sixty queries of
short_queries.toml (docs/data.md#short-queries), by the model alone, without look-up of names: by
the cosine (det), and reordered by facts where the run has learned to. `tune` is for choosing a
model, `look-once` for a final figure: the log counts its looks.

    python -m tools.bench.short_queries --run RUN --half look-once --verbose
    python -m tools.bench.short_queries --run RUN --library zinc_and_chebi.smi

Prints chance, the share of the pool that is right, and a bootstrap interval over the queries;
writes RUN/short_HALF.json, unless RUN is a folder of exported weights.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from jaxtyping import Bool, Float
from rdkit import Chem, rdBase

from tmr_jax import cli
from tmr_jax.config import DataConfig
from tmr_jax.data.features.facts import molecule_facts, text_facts
from tmr_jax.data.features.graph import parse_smiles
from tmr_jax.data.files import ARRAYS, cache_folder, cache_key, cached
from tmr_jax.data.pools import load_pool
from tmr_jax.data.readers import read_rows
from tmr_jax.data.workers import track
from tmr_jax.eval.evaluate import read_config
from tmr_jax.eval.facts import SHORTLIST, FactsTable, read_facts
from tmr_jax.eval.metrics import TIES, bootstrap
from tmr_jax.eval.pools import Restored, open_run
from tmr_jax.eval.rank import score_chunks
from tmr_jax.models.runtime import use_compile_cache
from tmr_jax.types import UserError
from tools.bench.common import keep

LIST = Path(__file__).with_suffix(".toml")
POOL = "chebi20-molt5/full-33008"
FIRST = 10  # molecules that a person looks at
RESAMPLES, SEED, LEVEL = 1000, 0, 0.95


@dataclass(frozen=True)
class Arguments:
    run: Path
    half: Literal["tune", "look-once"] = "tune"
    library: str = ""
    """A file of molecules in place of ChEBI-20's."""
    which: Literal["best", "newest"] = "best"
    verbose: bool = False
    """Print every query."""


class ShortQuery(NamedTuple):
    """Some words, and the SMARTS that a molecule holds if they fit it; chirality counts."""

    text: str
    kind: str
    half: str
    all: Sequence[str] = ()  # every one
    any: Sequence[str] = ()  # at least one, if there are some
    none: Sequence[str] = ()  # not one
    count: Mapping[str, tuple[int, int]] = MappingProxyType({})  # at so many places, from and to


def short_queries(half: str = "") -> list[ShortQuery]:
    """The list, or one half of it, in the order of the file."""
    rows = tomllib.loads(LIST.read_text(encoding="utf-8"))["query"]
    return [ShortQuery(**row) for row in rows if half in ("", row["half"])]


def decide(queries: Sequence[ShortQuery], smiles: Sequence[str]) -> Bool[np.ndarray, "Q C"]:
    """Whether each molecule is right for each query; kept in the cache folder."""
    shape = (len(queries), len(smiles))

    def compute() -> dict[str, np.ndarray]:
        right, checks = np.zeros(shape, bool), [rule(query) for query in queries]
        for column, text in enumerate(track(smiles, "deciding", transient=True)):
            mol = parse_smiles(text)
            right[:, column] = [check(mol) for check in checks]
        return {"right": right}

    rules = [[*query[3:6], dict(query.count)] for query in queries]
    key = cache_key("short", [rdBase.rdkitVersion, rules], smiles)
    return cached(key, compute, lambda arrays: arrays["right"].shape == shape, ARRAYS)["right"]


def rule(query: ShortQuery) -> Callable[[Chem.Mol], bool]:
    """The decision of a query. Errors: ValueError for a SMARTS that RDKit cannot parse."""
    every, some, never = ([pattern(s) for s in part] for part in query[3:6])
    counts = [(pattern(smarts), *span) for smarts, span in query.count.items()]

    def holds(mol: Chem.Mol, one: Chem.Mol) -> bool:
        return mol.HasSubstructMatch(one, useChirality=True)

    return lambda mol: (
        all(holds(mol, one) for one in every)
        and (not some or any(holds(mol, one) for one in some))
        and not any(holds(mol, one) for one in never)
        and all(least <= len(mol.GetSubstructMatches(one)) <= most for one, least, most in counts)
    )


def pattern(smarts: str) -> Chem.Mol:
    found = Chem.MolFromSmarts(smarts)
    if found is None:
        raise ValueError(f"{LIST.name} has {smarts!r}, which RDKit cannot parse as SMARTS")
    return found


def precision(
    scores: Float[np.ndarray, "Q C"], right: Bool[np.ndarray, "Q C"], first: int = FIRST
) -> Float[np.ndarray, " Q"]:
    """The share of right candidates among the first, expected under random order of ties.

    >>> precision(np.array([[0.9, 0.5, 0.5]]), np.array([[True, True, False]]), 2).tolist()
    [0.75]
    """
    first = min(first, scores.shape[1])
    edge = np.partition(scores, -first, 1)[:, -first, None]
    above, level = scores > edge, scores == edge
    rest = first - above.sum(1)
    return ((above & right).sum(1) + rest * (level & right).sum(1) / level.sum(1)) / first


def candidates(library: str) -> tuple[str, list[str], int]:
    """Name and distinct SMILES of the pool, and how many lines of a file could not be read."""
    if not library:
        return POOL, list(dict.fromkeys(load_pool(POOL, DataConfig()).smiles)), 0
    rows = list(read_rows(Path(library)))
    smiles = list(dict.fromkeys(row.content for row in rows if not row.refused))
    if not smiles:
        raise UserError(f"expected molecules in {library}; got none; give a file with SMILES")
    return library, smiles, sum(bool(row.refused) for row in rows)


def reordered(
    facts: FactsTable, query: str, scores: Float[np.ndarray, " C"], smiles: Sequence[str]
) -> Float[np.ndarray, " C"]:
    """Scores in which the best by cosine stay before the rest, in the order of the facts."""
    best = np.argsort(-scores, kind="stable")[:SHORTLIST]
    shown = np.stack([molecule_facts(smiles[i]) for i in best])
    scores = scores - scores.max() - 1  # all are below 0
    found = facts.scores(scores[best], text_facts(query)[None], shown)
    scores[best] = found - found.min()
    return scores


def measure(
    model: Restored,
    queries: Sequence[ShortQuery],
    smiles: list[str],
    facts: FactsTable | None = None,
) -> dict[str, Any]:
    """The record of the queries among these molecules; their own figures are of the last stage."""
    mol, valid = model.molecules(smiles)
    text = model.texts([query.text for query in queries])
    kept = [smiles[i] for i in valid]
    right = decide(queries, kept)
    scores = np.concatenate([chunk.copy() for _, chunk in score_chunks(text.rows, mol.rows)])
    found = {"det": precision(scores, right)}
    if facts is not None:
        again = [reordered(facts, q.text, s, kept) for q, s in zip(queries, scores, strict=True)]
        found["facts"] = precision(np.stack(again), right)
    stages = {}
    for stage, values in found.items():
        low, high = bootstrap(values[None], RESAMPLES, SEED, LEVEL)
        interval = [float(low[0]), float(high[0])]
        stages[stage] = {"precision": float(values.mean()), "interval": interval}
    last = found[stage].tolist()
    rows = zip(queries, last, right.sum(1).tolist(), strict=True)
    return {
        "molecules": len(valid),
        "refused": len(smiles) - len(valid),
        "stages": stages,
        "chance": float(right.mean()),
        "queries": [
            {"text": q.text, "kind": q.kind, "precision": p, "right": n} for q, p, n in rows
        ],
    }


def lines(record: dict[str, Any], verbose: bool) -> list[str]:
    shown = [
        f"{record['run']}: {record['checkpoint']['which']} checkpoint, step "
        f"{record['checkpoint']['step']}; {len(record['queries'])} short queries, {record['half']}"
    ]
    for stage, one in record["stages"].items():
        low, high = one["interval"]
        shown.append(
            f"precision@{FIRST} {one['precision']:.3f} ({low:.3f} to {high:.3f}) by {stage}"
        )
    shown += [
        f"precision@{FIRST} {record['chance']:.4f} by chance",
        f"pool {record['pool']}, {record['molecules']:,} molecules, invalid and skipped: "
        f"{record['refused']:,}; ties: {TIES}; {RESAMPLES:,} resamples of the queries, seed {SEED}",
    ]
    if verbose:
        shown += ["precision  right in pool  query"]
        for one in record["queries"]:
            shown.append(f"{one['precision']:9.2f}  {one['right']:13,}  {one['text']}")
    return shown


def main(words: list[str]) -> int:
    args = tyro.cli(Arguments, args=words, description=__doc__)
    use_compile_cache(cache_folder())
    read_config(args.run)  # says what a wrong folder lacks
    pool, smiles, unread = candidates(args.library)
    model = open_run(args.run, args.which)
    record: dict[str, Any] = {"run": str(args.run), "half": args.half, "pool": pool}
    record |= {"checkpoint": model.checkpoint, "ties": TIES, "seed": SEED, "resamples": RESAMPLES}
    facts = read_facts(args.run, model.checkpoint["sha256"])
    record |= measure(model, short_queries(args.half), smiles, facts)
    record["refused"] += unread
    keep(args.run, f"short_{args.half}.json", record)
    print("\n".join(lines(record, args.verbose)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("short_queries", main, None, expected=(OSError,)))
