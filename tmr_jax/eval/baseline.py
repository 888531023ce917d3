"""The baseline that every model should beat: bag of words -> ridge regression -> fingerprint.

In: texts and fingerprints of training and validation. Out: a `Ridge` that maps texts and
fingerprints to rows of length one whose dot product is the score, ranked by the same code as a
trained model. Features are tf-idf of word unigrams and bigrams; the strength of the ridge and the
weight of rare fingerprint columns are chosen on validation by mean reciprocal rank.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import linalg, sparse

from tmr_jax.eval.rank import rank
from tmr_jax.models.encode import l2_normalize
from tmr_jax.types import UserError

VOCABULARY = 4096  # the most frequent n-grams; the cost is cubic in this
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
POWERS = (0.0, 0.5, 1.0)  # a column is divided by its standard deviation to this power
_WORD = re.compile(r"\w+")


class Ridge(NamedTuple):
    """A fitted baseline, with the strength and power that were chosen on validation."""

    index: dict[str, int]  # n-gram -> column
    idf: np.ndarray  # float32 [V]
    word_mean: np.ndarray  # float32 [V]
    weights: np.ndarray  # float32 [V, F]
    mean: np.ndarray  # float32 [F], of the training fingerprints
    scale: np.ndarray  # float32 [F]; 0 for columns that never vary
    strength: float
    power: float


def fit_ridge(
    train_texts: Sequence[str],
    train_fps: np.ndarray,
    validation_texts: Sequence[str],
    validation_fps: np.ndarray,
) -> Ridge:
    """Fit on the training rows; choose strength and power on the validation rows, text to molecule.

    Inputs: text i belongs to fingerprint row i, float [n, F]. Errors: UserError if texts and
    rows differ in number or a part is empty.
    """
    _check(train_texts, train_fps, "training")
    _check(validation_texts, validation_fps, "validation")
    index, idf = _vocabulary(train_texts)
    words = _tfidf(train_texts, index, idf)
    word_mean = np.asarray(words.mean(0), np.float32).ravel()
    mean = train_fps.mean(0, dtype=np.float64).astype(np.float32)
    spread = train_fps.std(0, dtype=np.float64).astype(np.float32)
    targets = train_fps - mean
    # Centring by hand keeps the big matrix sparse: (X - m)'(X - m) = X'X - n m m'.
    n = len(train_texts)
    gram = (words.T @ words).toarray() - n * np.outer(word_mean, word_mean)
    cross = words.T @ targets  # the targets are centred, so the words need not be
    queries = _tfidf(validation_texts, index, idf).toarray() - word_mean
    mrr = {}
    for strength in STRENGTHS:
        predicted = _solve(gram, strength, queries.T).T @ cross
        for power in POWERS:
            scale = _scale(spread, power)
            molecules = l2_normalize((validation_fps - mean) * scale)
            found = rank(l2_normalize(predicted * scale), molecules, np.arange(len(molecules)))
            ranks = 1 + found.greater + found.equal / 2
            mrr[strength, power] = float(np.mean(1 / ranks))
    strength, power = max(mrr, key=lambda chosen: mrr[chosen])
    weights, scale = _solve(gram, strength, cross), _scale(spread, power)
    return Ridge(index, idf, word_mean, weights, mean, scale, strength, power)


def text_rows(ridge: Ridge, texts: Sequence[str]) -> np.ndarray:
    """float32 [len(texts), F]: predicted fingerprints as unit rows (zero rows stay zero)."""
    words = _tfidf(texts, ridge.index, ridge.idf)
    return l2_normalize((words @ ridge.weights - ridge.word_mean @ ridge.weights) * ridge.scale)


def molecule_rows(ridge: Ridge, fps: np.ndarray) -> np.ndarray:
    """float32 [len(fps), F]: standardised fingerprints as unit rows."""
    return l2_normalize((fps - ridge.mean) * ridge.scale)


def _check(texts: Sequence[str], fps: np.ndarray, part: str) -> None:
    if not len(texts) or fps.ndim != 2 or len(texts) != len(fps):
        raise UserError(
            f"expected {part} texts and as many fingerprint rows, at least one; got {len(texts)} "
            f"texts and an array of shape {fps.shape}; pass row i of the array for text i"
        )


def _grams(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    return words + [f"{a} {b}" for a, b in pairwise(words)]


def _vocabulary(texts: Sequence[str]) -> tuple[dict[str, int], np.ndarray]:
    """The n-grams that most texts contain, equal counts in alphabetical order, and their idf."""
    counts = Counter(gram for text in texts for gram in set(_grams(text)))
    kept = sorted(counts, key=lambda gram: (-counts[gram], gram))[:VOCABULARY]
    frequency = np.array([counts[gram] for gram in kept], np.float32)
    idf = np.log((1 + len(texts)) / (1 + frequency)) + 1
    return {gram: i for i, gram in enumerate(kept)}, idf.astype(np.float32)


def _tfidf(texts: Sequence[str], index: dict[str, int], idf: np.ndarray) -> sparse.csr_matrix:
    """Unit rows of (1 + log count) x idf, float32 [len(texts), V]."""
    columns, values, ends = [], [], [0]
    for text in texts:
        counts = sorted(Counter(index[g] for g in _grams(text) if g in index).items())
        row = np.array([(1 + np.log(count)) * idf[column] for column, count in counts], np.float32)
        columns += [column for column, _ in counts]
        values.append(row / max(float(np.linalg.norm(row)), 1e-12))
        ends.append(len(columns))
    flat = np.concatenate(values) if values else np.zeros(0, np.float32)
    return sparse.csr_matrix((flat, columns, ends), (len(texts), len(index)), dtype=np.float32)


def _solve(gram: np.ndarray, strength: float, right: np.ndarray) -> np.ndarray:
    """(gram + strength I)^-1 right, by Cholesky in float32: the ridge keeps it well conditioned."""
    lifted = gram + np.float32(strength) * np.eye(len(gram), dtype=np.float32)
    factor = linalg.cho_factor(lifted, lower=True, overwrite_a=True, check_finite=False)
    return linalg.cho_solve(factor, right, check_finite=False)


def _scale(spread: np.ndarray, power: float) -> np.ndarray:
    varies = spread > 1e-6
    return np.where(varies, np.where(varies, spread, 1) ** np.float32(-power), 0).astype(np.float32)
