r"""How long a question takes: python -m tools.bench.search --run RUN --library PLACE

In: a run and a library of its vectors, of any engine. Sentences of the run's first test pool are
asked one after another, each for the first time, by the same calls as `tmr search` and the page.
Out: p50 and p95 of a search, the encoding of its text included, with and without the second stage
where the model has one; with --exact, recall@10 of the first stage against the same rows searched
one by one: which share of the ten are as good as the ten best, for copies tie. Absolute times are
those of this machine; take a quiet one.

A million rows in the default engine, those of ZINC250k and of ChEBI-20's test molecules and
perturbed copies of theirs, in half an hour and 4 GB of disk:

    DATA=DIR RUN=runs/difftmr_open OUT=/tmp/million && mkdir -p $OUT
    (zcat $DATA/zinc250k/zinc.txt.gz
     zcat $DATA/chebi20/test.txt.gz | tail -n +2 | cut -f 2 | tr -s '\\') | gzip > $OUT/real.smi.gz
    python -m tmr_jax.index --run $RUN --library $OUT/real.smi.gz --out $OUT/real
    python -m tools.bench.stores --rows 1000000 --library $OUT/real --engines lance --no-kill \
        --folder $OUT/stores
    TMR_JAX_DATA=$DATA python -m tools.bench.search --run $RUN --library $OUT/stores/lance \
        --exact $OUT/stores/origin
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import tmr_jax
from tmr_jax.data.pools import load_pool
from tmr_jax.eval.evaluate import default_protocols
from tmr_jax.index.exact import ExactEngine
from tmr_jax.index.schema import Filter
from tmr_jax.search.filters import parse_filter
from tmr_jax.search.retriever import Hit, Retriever

K, WARM = 10, 20


@dataclass(frozen=True)
class Arguments:
    run: Path
    library: Path
    exact: Path | None = None
    """The folder of the same rows, as `tmr index` writes it, for recall."""
    asked: int = 200
    where: tuple[str, ...] = ()
    """Filters, as of tmr search."""
    seed: int = 0


def bench(told: Arguments) -> None:
    retriever = tmr_jax.load(told.run).with_library(told.library)
    texts = sentences(retriever, told)
    where = parse_filter(told.where) if told.where else None

    def first(text: str) -> list[Hit]:
        return retriever.nearest(retriever.encode_text([text]), K, where)[0]

    account = retriever.library
    assert account is not None
    filtered = f", where {' '.join(told.where)}" if told.where else ""
    print(f"{account.kept:,} molecules in {told.library.name}{filtered}, {told.asked} sentences")
    found = timed("first stage", first, texts)
    if retriever.shortlist:
        listed = unlike(retriever, texts[:WARM], where)
        timed(
            f"both stages, {retriever.shortlist} on the shortlist ({listed:.0f} different ones)",
            lambda text: retriever.search(text, K, where),
            texts,
        )
    if told.exact:
        rows = np.concatenate([retriever.encode_text([text]) for text in texts])
        truth = ExactEngine(told.exact).search(rows, K, where).scores
        print(f"recall@{K} against exact: {recall(found, truth):.4f}")


def recall(found: list[list[Hit]], right: np.ndarray) -> float:
    """Which share of the right places hold a hit that is as good: equals may change places."""
    mine = np.full_like(right, -np.inf)
    for row, hits in zip(mine, found, strict=True):
        row[: len(hits)] = [hit.score for hit in hits]
    real = np.isfinite(right)
    least = np.where(real, right, np.inf).min(1, keepdims=True)
    return float((np.isfinite(mine) & (mine >= least - 1e-6)).sum() / real.sum())


def unlike(retriever: Retriever, texts: list[str], where: Filter | None) -> float:
    """How many of a shortlist are no copies of one another: so many the second stage works on."""
    rows = np.concatenate([retriever.encode_text([text]) for text in texts])
    lists = retriever.nearest(rows, retriever.shortlist, where)
    return float(np.mean([len({hit.content for hit in hits}) for hits in lists]))


def sentences(retriever: Retriever, told: Arguments) -> list[str]:
    config = retriever.config
    texts = list(dict.fromkeys(load_pool(default_protocols(config)[0], config.data).texts))
    order = np.random.default_rng(told.seed).permutation(len(texts))
    return [texts[i] for i in order[: told.asked + WARM]]


def timed(name: str, ask: Callable[[str], list[Hit]], texts: list[str]) -> list[list[Hit]]:
    """Prints the percentiles of all but the first `WARM`, which compile and touch the files."""
    found, seconds = [], []
    for text in texts:
        begun = time.perf_counter()
        found.append(ask(text))
        seconds.append(1e3 * (time.perf_counter() - begun))
    p50, p95 = np.percentile(seconds[WARM:], [50, 95])
    print(f"{name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms", flush=True)
    return found


if __name__ == "__main__":
    bench(tyro.cli(Arguments, description=__doc__))
