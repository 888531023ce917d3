"""Hybrid search against the model alone: python -m tools.bench.hybrid --run RUN ZINC

What a short query states in words raises the molecules that have it (docs/search.md). For the
queries of hybrid.toml, among 9,000 molecules of ZINC (a file of SMILES, such as ZINC250k) and 3,000
terms of ChEBI, prints the share of right molecules among the first ten, or as many as there are,
with and without; the same where those of ChEBI that the run was trained on are not counted. Then
Hits@10 of the whole descriptions of ChEBI-20's test split among their molecules, with and without,
and the interval of the difference. Both libraries are indexed for it in a temporary folder.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Bool
from rdkit import Chem

import tmr_jax
from tmr_jax import cli
from tmr_jax.config import DataConfig
from tmr_jax.data.datasets import chebi
from tmr_jax.data.features.graph import is_molecule, parse_smiles
from tmr_jax.data.features.similarity import molecule_key
from tmr_jax.data.pools import load_pool
from tmr_jax.data.readers import read_rows
from tmr_jax.eval.evaluate import read_config
from tmr_jax.eval.leakage import first_block, trained_on
from tmr_jax.eval.metrics import bootstrap
from tmr_jax.search.retriever import Answer, Query, Retriever
from tmr_jax.types import UserError
from tools.bench.short_queries import LEVEL, RESAMPLES, SEED, ShortQuery, decide

LIST = Path(__file__).with_suffix(".toml")
ZINC, CHEBI, FIRST = 9_000, 3_000, 10
POOL = "chebi20-molt5/test-split"
AT_ONCE = 256  # queries


@dataclass(frozen=True)
class Arguments:
    zinc: tyro.conf.Positional[Path]
    """Molecules of ZINC, e.g. zinc250k/zinc.txt.gz."""
    run: Path
    """Run directory, or a folder of exported weights."""


def sample(zinc: Path) -> list[str]:
    """The library: SMILES drawn with a fixed seed, each once."""
    rows = [row.content for row in read_rows(zinc) if not row.refused]
    terms = [term.smiles for term in chebi.terms()]
    if len(rows) < ZINC:
        raise UserError(f"expected {ZINC:,} molecules in {zinc}; got {len(rows):,}; give more")
    random = np.random.default_rng(SEED)
    drawn = [rows[i] for i in random.choice(len(rows), ZINC, replace=False)]
    drawn += [terms[i] for i in random.choice(len(terms), CHEBI, replace=False)]
    return list(dict.fromkeys(drawn))


def canonical(smiles: str) -> str:
    """As hits have it."""
    return Chem.MolToSmiles(parse_smiles(smiles))


def library(model: Retriever, smiles: Sequence[str], folder: Path) -> Retriever:
    """The model with these molecules on disk."""
    path = folder / "library.smi"
    path.write_text("".join(f"{s}\n" for s in smiles), encoding="utf-8")
    return model.with_library(path)


def answers(model: Retriever, texts: Sequence[str], k: int) -> list[list[Answer]]:
    """The answers to the texts, hybrid and pure. Errors: the ValueError of a refused text."""
    found: list[list[Answer]] = [[], []]
    for low in range(0, len(texts), AT_ONCE):
        asked = [Query(text, k=k) for text in texts[low : low + AT_ONCE]]
        encoded = model.encode_queries(asked)
        for pure in (False, True):
            for answer in model.answers([q._replace(pure=pure) for q in asked], encoded):
                if isinstance(answer, ValueError):
                    raise answer
                found[pure].append(answer)
    return found


def share(
    found: Sequence[Answer], right: Bool[np.ndarray, "Q C"], place: dict[str, int]
) -> list[float]:
    """Of each query the right ones among the first `FIRST`, or as many as there are right ones."""
    shares = []
    for answer, row in zip(found, right, strict=True):
        counted = [row[place[hit.content]] for hit in answer.hits if hit.content in place]
        most = min(FIRST, int(row.sum()))
        shares.append(sum(counted[:most]) / most if most else np.nan)
    return shares


def short(
    model: Retriever, queries: Sequence[ShortQuery], smiles: list[str], seen: set[str]
) -> None:
    """Prints the first table; molecules that are `seen` are not counted in its last columns."""
    right = decide(queries, smiles)
    every = {s: i for i, s in enumerate(smiles)}
    unseen = {s: i for s, i in every.items() if s not in seen}
    new = right & np.array([s not in seen for s in smiles])
    texts = [query.text for query in queries]
    columns = []
    for found in answers(model, texts, FIRST + len(seen)):
        columns += [share(found, right, every), share(found, new, unseen)]
    hybrid, hybrid_new, alone, alone_new = columns
    print(f"{len(smiles):,} molecules, {len(seen & every.keys()):,} of them trained on")
    print("right  hybrid  model alone  not trained on: right  hybrid  model alone  query")
    for i, text in enumerate(texts):
        print(
            f"{right[i].sum():5,}  {hybrid[i]:6.2f}  {alone[i]:11.2f}  {new[i].sum():21,}  "
            f"{hybrid_new[i]:6.2f}  {alone_new[i]:11.2f}  {text}"
        )
    names = ("hybrid", "model alone", "hybrid, not trained on", "model alone, not trained on")
    for name, column in zip(names, (hybrid, alone, hybrid_new, alone_new), strict=True):
        print(f"mean {np.nanmean(column):.3f} {name}")


def descriptions(model: Retriever, folder: Path) -> None:
    """Prints Hits@10 of ChEBI-20's descriptions, hybrid and by the model alone."""
    pool = load_pool(POOL, DataConfig())
    smiles = [*map(canonical, pool.smiles)]
    held = library(model, list(dict.fromkeys(smiles)), folder)
    right = [smiles[i] for i in pool.text_target]
    hybrid, alone = np.array(
        [
            [r in [hit.content for hit in a.hits] for r, a in zip(right, found, strict=True)]
            for found in answers(held, pool.texts, FIRST)
        ],
        float,
    )
    low, high = bootstrap((hybrid - alone)[None], RESAMPLES, SEED, LEVEL)
    print(
        f"{POOL}, {len(right):,} descriptions: Hits@10 {100 * hybrid.mean():.1f} hybrid, "
        f"{100 * alone.mean():.1f} by the model alone; difference "
        f"{100 * (hybrid - alone).mean():+.2f} ({100 * low[0]:+.2f} to {100 * high[0]:+.2f})"
    )


def main(words: list[str]) -> int:
    args = tyro.cli(Arguments, args=words, description=__doc__)
    blocks = trained_on(args.run, read_config(args.run).data).blocks or frozenset()
    rows = tomllib.loads(LIST.read_text(encoding="utf-8"))["query"]
    queries = [ShortQuery(kind="", half="", **row) for row in rows]
    model = tmr_jax.load(args.run)
    smiles = list(dict.fromkeys(canonical(s) for s in sample(args.zinc) if is_molecule(s)))
    seen = {s for s in smiles if first_block(molecule_key(s)) in blocks}
    with tempfile.TemporaryDirectory() as folder:
        short(library(model, smiles, Path(folder)), queries, smiles, seen)
    with tempfile.TemporaryDirectory() as folder:
        descriptions(model, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("hybrid", main, None, expected=(OSError,)))
