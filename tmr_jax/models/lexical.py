"""The linear branch of an encoder: word pieces and pairs of them, against counted fragments.

In: token ids, and the fragments of `ogb_counts`. Out: rows that stand, at length one, next to the
network's in one embedding, so that the cosine is a weighted mean of both cosines. A text is the
tf-idf of its word pieces and of their neighbouring pairs; a molecule is which fragments it has.
Ridge regression maps the one to the other, and both are projected on the principal axes of what it
predicts (reduced-rank regression, Izenman 1975). tmr_jax/train/lexical.py fits it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import sparse

from tmr_jax.data.files import replaced
from tmr_jax.models.exported import dequantised, quantised
from tmr_jax.models.runtime import LEXICAL
from tmr_jax.types import UserError

WORDS, FRAGMENTS = "words_embedding", "fragments_embedding"  # rows share a scale of 8 bits


class Lexical(NamedTuple):
    """A fitted branch of K numbers."""

    grams: np.ndarray  # int64 [V], sorted: see `gram_ids`
    idf: np.ndarray  # float32 [V]
    words: np.ndarray  # float32 [V, K]
    word_mean: np.ndarray  # float32 [K], of the training texts
    fragments: np.ndarray  # float32 [C, K]
    fragment_mean: np.ndarray  # float32 [K], of the training molecules
    share: float = 0.5  # of the cosine; the rest is the network's

    @property
    def width(self) -> int:
        return self.words.shape[1]

    def text_rows(
        self, tokens: Int[np.ndarray, " T"], offsets: Int[np.ndarray, " n1"]
    ) -> Float[np.ndarray, "n K"]:
        """Rows of texts, packed as in a TextTable; each depends on its own text alone."""
        return tfidf(tokens, offsets, self.grams, self.idf) @ self.words - self.word_mean

    def mol_rows(self, counts: Shaped[np.ndarray, "n C"]) -> Float[np.ndarray, "n K"]:
        """Rows of molecules by their fragments."""
        # A product of a sparse matrix adds up each row in one order, whatever stands next to it.
        return presence(counts) @ self.fragments - self.fragment_mean

    def joined(
        self, network: Float[np.ndarray, "n D"], own: Float[np.ndarray, "n K"]
    ) -> Float[np.ndarray, "n DK"]:
        """Rows of length one from such rows of both, so that cosines add up by their shares."""
        deep, linear = np.sqrt(np.array([1 - self.share, self.share], np.float32))
        return np.concatenate([deep * network, linear * own], 1)


def presence(counts: Shaped[np.ndarray, "n C"]) -> sparse.csr_matrix:
    """1 for each fragment that a molecule has."""
    return sparse.csr_matrix(counts > 0, dtype=np.float32)


def gram_ids(
    tokens: Int[np.ndarray, " T"], offsets: Int[np.ndarray, " n1"]
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Word pieces a, as a, and pairs of neighbours a b, as (a + 1) 2^32 + b, and their texts."""
    text = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ids = tokens.astype(np.int64)
    neighbours = np.flatnonzero(text[1:] == text[:-1])
    pairs = (ids[neighbours] + 1 << 32) + ids[neighbours + 1]
    return np.concatenate([ids, pairs]), np.concatenate([text, text[neighbours]])


def tfidf(
    tokens: Int[np.ndarray, " T"],
    offsets: Int[np.ndarray, " n1"],
    grams: Int[np.ndarray, " V"],
    idf: Float[np.ndarray, " V"],
) -> sparse.csr_matrix:
    """Rows of length one of (1 + log count) x idf, [n, V]."""
    ids, text = gram_ids(tokens, offsets)
    place = np.minimum(np.searchsorted(grams, ids), len(grams) - 1)
    known = grams[place] == ids
    shape = (len(offsets) - 1, len(grams))
    one = np.ones(int(known.sum()), np.float32)
    counts = sparse.csr_matrix((one, (text[known], place[known])), shape)
    counts.sum_duplicates()
    counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
    length = np.sqrt(np.asarray(counts.multiply(counts).sum(1)).ravel())
    counts.data /= np.repeat(np.maximum(length, 1e-12), np.diff(counts.indptr)).astype(np.float32)
    return counts


# In a run directory


def write_lexical(run: Path, lexical: Lexical, about: dict[str, str]) -> None:
    """Writes the branch, its matrices in 8 bits; `about` says what the share was chosen on."""
    from safetensors.numpy import save_file

    arrays = lexical._asdict() | {"share": np.float64(lexical.share)}
    tensors = {n: np.asarray(a) for n, a in arrays.items() if n not in ("words", "fragments")}
    tensors |= quantised(WORDS, lexical.words) | quantised(FRAGMENTS, lexical.fragments)
    with replaced(run / LEXICAL) as partial:
        save_file({n: np.ascontiguousarray(a) for n, a in tensors.items()}, partial, about)


def read_lexical(run: Path) -> Lexical | None:
    """The branch of a run; None where it has none. Raises UserError for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = run / LEXICAL
    if not path.is_file():
        return None
    try:
        arrays = load(path.read_bytes())
        matrices = {n: arrays.pop(n) for n in [*arrays] if n.startswith((WORDS, FRAGMENTS))}
        found = dequantised(matrices)
        share = arrays.pop("share").item()
        return Lexical(words=found[WORDS], fragments=found[FRAGMENTS], share=share, **arrays)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"expected the linear branch of a model in {path}; got {error}; copy the folder "
            f"again, or fit it again: tmr lexical --run {run}"
        ) from error


def about_lexical(run: Path) -> dict[str, str]:
    """What `write_lexical` wrote of the branch; empty where there is none."""
    from safetensors import safe_open

    path = run / LEXICAL
    if not path.is_file():
        return {}
    with safe_open(path, "np") as file:
        return file.metadata() or {}
