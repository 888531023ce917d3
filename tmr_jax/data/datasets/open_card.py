"""What `open` holds, as a page: rows by source and licence, lengths, and leakage.

Leakage is computed from the structures, not read from the flags of the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tmr_jax.config import DataConfig
from tmr_jax.data.datasets.open_pairs import LICENCES, load, sources
from tmr_jax.data.features.similarity import connectivity, molecule_keys
from tmr_jax.data.pools import load_pool
from tmr_jax.types import Pair

POOLS = (
    *("chebi20-molt5/validation", "chebi20-molt5/test-split"),
    *("pcdes/file-order-validation", "pcdes/file-order"),
)


def card(version: str) -> str:
    """The page in Markdown. Takes a minute. Errors: MissingPart."""
    pairs = load(version)[0]
    smiles = [pair.smiles for pair in pairs]
    keys = dict(zip(smiles, molecule_keys(smiles), strict=True))
    named: dict[str, list[Pair]] = {}
    for pair, source in zip(pairs, sources(pairs, version), strict=True):
        named.setdefault(source, []).append(pair)
    rows = [_row(source, some, keys, LICENCES[source]) for source, some in named.items()]
    head = ("source", "pairs", "molecules", "words: median", "90 %", "max", "licence")
    leaks = [(name, *(f"{count:,}" for count in counts)) for name, *counts in leakage(pairs)]
    pool = ("pool", "molecules", "with a connectivity of training", "training texts equal to one")
    tables = (_table(head, [*rows, _row("all", pairs, keys, "")]), _table(pool, leaks))
    return f"open, version {version}, training pairs\n\n" + "\n\n".join(tables)


def leakage(pairs: Sequence[Pair]) -> list[tuple[str, int, int, int]]:
    """What these pairs share with validation and test of ChEBI-20 and of PCdes.

    Of each pool: its name, its molecules, how many of them have the connectivity (InChIKey block 1)
    of one of these, and the pairs whose text is one of the pool's.
    """
    trained = {*connectivity([pair.smiles for pair in pairs])}
    leaks = []
    for name in POOLS:
        pool = load_pool(name, DataConfig("open"))
        shared = sum(key in trained for key in connectivity(pool.smiles))
        texts = {_words(text) for text in pool.texts}
        equal = sum(_words(pair.text) in texts for pair in pairs)
        leaks.append((name, len(pool.smiles), shared, equal))
    return leaks


def _row(source: str, pairs: Sequence[Pair], keys: dict[str, str], licence: str) -> tuple[str, ...]:
    lengths = np.array([len(_words(pair.text)) for pair in pairs])
    median, most = np.percentile(lengths, [50, 90])
    molecules = len({keys[pair.smiles] for pair in pairs})
    counts = (len(pairs), molecules, median, most, lengths.max())
    return (source, *(f"{n:,.0f}" for n in counts), licence)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
