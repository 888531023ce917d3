"""The ridge baseline of every model: fitted on the same training pairs, ranked on the same pools.

In: the data that a run was trained on, and a pool. Out: scores of two baselines, which read words
and the word pieces of the run's tokenizer. Strength and weights of columns are chosen on the
validation pool of those data. Ranks are kept in the cache: they are the same for every model that
was trained on these pairs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tmr_jax.config import DataConfig
from tmr_jax.data import load_pairs
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.features.similarity import fingerprints
from tmr_jax.data.features.text import load_tokenizer
from tmr_jax.data.files import CACHE_FROM, JSON, cache_key, cached
from tmr_jax.data.pools import load_pool, validation_protocol
from tmr_jax.eval import baseline
from tmr_jax.eval.protocols import HOLDER, PAIR
from tmr_jax.eval.scores import Ceiling, QuerySet, Score, ceiling, query_sets
from tmr_jax.models.encode import Encoded, distinct
from tmr_jax.types import Pool, Ranking, UserError

BASELINE = "ridge: bag of words to fingerprint"
# Chemical names join groups and parents to one word, which only word pieces can take apart:
# without this baseline the first one would flatter the model.
PIECES_BASELINE = "ridge: bag of word pieces to fingerprint"
WHOLE_TEXT = 512  # word pieces; the rest of a longer text is not read
ENOUGH = 1_000  # validation pairs that strength and weights are chosen on: the first ones
FINAL = ("", "det", "fused", "facts")  # the last of these stages that a model has is its ranking
Rows = tuple[list[str], list[str]]  # texts, and the SMILES of each
Reader = Callable[[Sequence[str]], list[str]]  # texts as a baseline reads them


class Baseline:
    """One of the baselines; it is fitted when a pool needs it."""

    def __init__(self, name: str, read: Reader, train: Rows, validation: Rows) -> None:
        self.name = name
        self._read = read
        self._train = read(train[0]), train[1]
        self._validation = read(validation[0]), validation[1]

    @cached_property
    def ridge(self) -> baseline.Ridge:
        return baseline.fit_ridge(*_features(self._train), *_features(self._validation))

    def scores(self, pool: Pool, batch: int = 0) -> list[Score]:
        """Its scores on a pool by index, or of all holders of a query where the pool has them.

        `batch` as of `query_sets`. Errors: BadMolecule.
        """
        texts = self._read(pool.texts)
        parts = (*self._train, *self._validation, texts, pool.smiles)
        if sum(map(len, parts)) < CACHE_FROM:
            return self._ranked(pool, texts, batch)
        tried = baseline.VOCABULARY, baseline.STRENGTHS, baseline.POWERS
        fixed = [*tried, version("rdkit"), batch, [*map(len, parts)]]
        rows = [*(row for part in parts for row in part), pool.text_target, pool.mol_target]
        rows += [] if pool.further is None else [pool.further]
        found = cached(
            cache_key("ridge", fixed, rows),
            lambda: [*map(_as_json, self._ranked(pool, texts, batch))],
            lambda values: (
                isinstance(values, list)
                and all(isinstance(value, dict) and set(value) == set(FIELDS) for value in values)
            ),
            JSON,
        )
        return [_as_score(value, pool.protocol, self.name) for value in found]

    def _ranked(self, pool: Pool, texts: list[str], batch: int) -> list[Score]:
        bits = fingerprints(pool.smiles)
        mol_group = distinct(np.ascontiguousarray(bits).view(np.uint8))[1]
        text_group = np.unique(np.array(pool.texts, object), return_inverse=True)[1]
        text = Encoded(baseline.text_rows(self.ridge, texts), text_group)
        mol = Encoded(baseline.molecule_rows(self.ridge, bits), mol_group)
        sides = query_sets(pool, text, mol, batch)
        return [_score(pool.protocol, side, self.name) for side in sides]


def _score(protocol: str, side: QuerySet, name: str) -> Score:
    if side.further is not None:
        return Score(protocol, side.direction, name, HOLDER, side.ranking(by_identity=True), None)
    limit = ceiling(side.group, side.target)
    return Score(protocol, side.direction, name, PAIR, side.ranking(), limit)


def baselines(data: DataConfig, tokenizer_file: Path) -> list[Baseline]:
    """Both baselines of a run that was trained on `data`.

    Empty, with a note on standard error, where training or validation pairs are missing.
    """
    try:
        train = _pairs_of(data)
        validation = _asked(load_pool(validation_protocol(data), data))
    except UserError as error:
        print(f"the ridge baseline is skipped: {error}", file=sys.stderr)
        return []
    tokenizer = load_tokenizer(tokenizer_file)

    def pieces(texts: Sequence[str]) -> list[str]:
        """The ids of the word pieces, which the bag of words reads as words."""
        return [" ".join(map(str, ids)) for ids in tokenizer.encode(list(texts), WHOLE_TEXT)[0]]

    return [
        Baseline(BASELINE, list, train, validation),
        Baseline(PIECES_BASELINE, pieces, train, validation),
    ]


def against_model(scores: list[Score], model: list[Score]) -> list[Score]:
    """The baselines' scores with the model's final ranks of the same queries, to compare."""
    final = {(s.direction, s.right): s.ranking for s in model if s.stage in FINAL}
    return [s._replace(model=final.get((s.direction, s.right))) for s in scores]


def _pairs_of(data: DataConfig) -> Rows:
    pairs = [pair for pair in load_pairs(data) if pair.split == "train"]
    if not pairs:
        raise UserError("expected training pairs; got none; give that split a share of the rows")
    return [pair.text for pair in pairs], [pair.smiles for pair in pairs]


def _asked(pool: Pool) -> Rows:
    """The first text queries of a pool and their molecules."""
    asks = np.flatnonzero(pool.text_target >= 0)[:ENOUGH]
    return [pool.texts[i] for i in asks], [pool.smiles[pool.text_target[i]] for i in asks]


def _features(rows: Rows) -> tuple[list[str], np.ndarray]:
    """Texts and fingerprints, without invalid molecules: training skips and counts them, too."""
    texts, molecules = [], []
    for text, smiles in zip(*rows, strict=True):
        with suppress(BadMolecule):
            parse_smiles(smiles)
            texts.append(text)
            molecules.append(smiles)
    return texts, fingerprints(molecules)


# In the cache

FIELDS = ("direction", "right", "greater", "equal", "pool_size", "ceiling")


def _as_json(score: Score) -> dict[str, Any]:
    greater, equal, size = score.ranking
    ranking = greater.tolist(), equal.tolist(), size
    return dict(zip(FIELDS, (score.direction, score.right, *ranking, score.ceiling), strict=True))


def _as_score(value: dict[str, Any], protocol: str, name: str) -> Score:
    greater, equal = (np.array(value[key], np.int64) for key in ("greater", "equal"))
    ranking, limit = Ranking(greater, equal, value["pool_size"]), value["ceiling"]
    limit = None if limit is None else Ceiling(*limit)
    return Score(protocol, value["direction"], name, value["right"], ranking, limit)
