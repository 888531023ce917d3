"""How long a query takes: python -m tools.bench.search --run RUN --library PLACE

Sends sentences of the run's first test pool to an index of any engine, one at a time, through the
calls of `tmr search` and the page. Prints p50 and p95 of a search, encoding included, with and
without the second stage; with --exact, recall@10 of the first stage against exhaustive search (a
hit with an equal score counts). Use an idle machine.

A million rows in LanceDB, from ZINC250k's molecules again and again:

    python -m tools.bench.index --run RUN --folder OUT zinc250k/zinc.txt.gz
    tmr index copy OUT/index lance:OUT/lance
    python -m tools.bench.search --run RUN --library OUT/lance --exact OUT/index
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import tmr_jax
from tmr_jax.data.pools import load_pool
from tmr_jax.eval.evaluate import default_protocols
from tmr_jax.index.exact import ExactEngine
from tmr_jax.index.schema import Filter, parse_filter
from tmr_jax.search.retriever import Hit, Retriever
from tools.bench.common import recall, seconds

K, WARM = 10, 20


@dataclass(frozen=True)
class Arguments:
    run: Path
    library: Path
    exact: Path | None = None
    """The same rows in the exact engine, for recall."""
    asked: int = 200
    where: tuple[str, ...] = ()
    """Filters as in tmr search."""
    seed: int = 0


def bench(args: Arguments) -> None:
    retriever = tmr_jax.load(args.run).with_library(args.library)
    texts = sentences(retriever, args)
    where = parse_filter(args.where) if args.where else None

    def first(text: str) -> list[Hit]:
        return retriever.nearest(retriever.encode_text([text]), K, where)[0]

    index = retriever.library
    assert index is not None
    filtered = f", where {' '.join(args.where)}" if args.where else ""
    print(f"{index.kept:,} molecules in {args.library.name}{filtered}, {args.asked} sentences")
    found = timed("first stage", first, texts)
    if retriever.shortlist:
        listed = distinct(retriever, texts[:WARM], where)
        timed(
            f"both stages, {retriever.shortlist} on the shortlist ({listed:.0f} distinct)",
            lambda text: retriever.search(text, K, where),
            texts,
        )
    if args.exact:
        rows = np.concatenate([retriever.encode_text([text]) for text in texts])
        truth = ExactEngine(args.exact).search(rows, K, where).scores
        print(f"recall@{K} against exact: {recall(scores(found), truth):.4f}")


def scores(found: list[list[Hit]]) -> np.ndarray:
    """[queries, K], -inf where there are fewer hits."""
    rows = np.full((len(found), K), -np.inf, np.float32)
    for row, hits in zip(rows, found, strict=True):
        row[: len(hits)] = [hit.score for hit in hits]
    return rows


def distinct(retriever: Retriever, texts: list[str], where: Filter | None) -> float:
    """Mean number of distinct molecules on a shortlist: what the second stage works on."""
    rows = np.concatenate([retriever.encode_text([text]) for text in texts])
    lists = retriever.nearest(rows, retriever.shortlist, where)
    return float(np.mean([len({hit.content for hit in hits}) for hits in lists]))


def sentences(retriever: Retriever, args: Arguments) -> list[str]:
    config = retriever.config
    texts = list(dict.fromkeys(load_pool(default_protocols(config)[0], config.data).texts))
    order = np.random.default_rng(args.seed).permutation(len(texts))
    return [texts[i] for i in order[: args.asked + WARM]]


def timed(name: str, ask: Callable[[str], list[Hit]], texts: list[str]) -> list[list[Hit]]:
    """Prints percentiles of all but the first `WARM` queries, which compile and touch the files."""
    found, times = [], []
    for text in texts:
        times.append(1e3 * seconds(lambda text=text: found.append(ask(text))))
    p50, p95 = np.percentile(times[WARM:], [50, 95])
    print(f"{name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms", flush=True)
    return found


if __name__ == "__main__":
    bench(tyro.cli(Arguments, description=__doc__))
