"""Embeddings of texts and molecules: strings in, unit rows out, each distinct input once.

The hidden states of a frozen text encoder are computed once and kept in the cache folder. A batch
then carries states instead of ids and BERT does not run, so that training or ranking above it takes
minutes instead of an hour.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from tmr_jax.data.batching import encode_batches_mol, encode_batches_text
from tmr_jax.data.files import CACHE_FROM, Format, cache_key, cached
from tmr_jax.data.tables import (
    MolTable,
    Refused,
    TextTable,
    apply_vocabulary,
    molecule_table,
    passing_text_table,
    table_take,
    text_table,
    text_take,
)
from tmr_jax.models.checkpoint import parameters_sha256, variables
from tmr_jax.models.layers.bert import LAYERS
from tmr_jax.models.run import TrainedModel
from tmr_jax.models.runtime import local_devices
from tmr_jax.types import EncodedCorpus, MolOut, TextBatch, TextOut, UserError

AHEAD = 4  # batches in progress, one for each device of an ordinary machine
QUERIES = 8  # up to so many texts are a batch of this size, and a single one is a batch of one
CANDIDATES = 32  # up to so many molecules are a batch of this size
# From so many texts on, lengths on a CPU are multiples of `FINE` tokens: padding costs time there
# (experiments/LOG.md), and a shape compiles in a second or two, once for a machine. Accelerators
# compile longer.
CORPUS, FINE = 1000, 8

TextBatches = Iterable[tuple[np.ndarray, TextBatch]]
OnProgress = Callable[[int], None]


class States(NamedTuple):
    """Last hidden states of every text: those of text i are rows offsets[i] to offsets[i + 1]."""

    rows: np.ndarray  # [sum T, W], of the model's own precision
    offsets: np.ndarray  # int64 [n + 1]

    def batch(self, indices: np.ndarray, ids: TextBatch) -> TextBatch:
        """The batch with states instead of its ids; rows beyond the `indices` are zeros."""
        states = np.zeros((*ids.tokens.shape, self.rows.shape[1]), self.rows.dtype)
        for row, i in enumerate(indices):
            text = self.rows[self.offsets[i] : self.offsets[i + 1]]
            states[row, : len(text)] = text
        return TextBatch(states, ids.mask)  # pyright: ignore[reportArgumentType]


def text_states(
    read: Callable[[TextBatch], Any],
    weights: str,
    table: TextTable,
    batches: TextBatches,
    dtype: Any,
) -> States:
    """States of every text of `table`, from the cache folder if they are there.

    `read(batch)` runs the encoder, `weights` is the SHA-256 of its parameters, `batches` covers the
    texts, each once. Where nothing can be written, states are computed again the next time.
    """
    dtype, begin, end = jnp.dtype(dtype), table.offsets[:-1], table.offsets[1:]

    def compute() -> np.ndarray:
        rows = None
        for indices, batch in batches:
            states = np.asarray(read(batch).astype(dtype))
            if rows is None:
                rows = np.empty((len(table.tokens), states.shape[-1]), dtype)
            for row, i in enumerate(indices):
                rows[begin[i] : end[i]] = states[row, : end[i] - begin[i]]
        assert rows is not None, "a table of texts is never empty"
        return rows

    rows = cached(
        cache_key("states", [weights, str(dtype)], (table.tokens, table.offsets)),
        compute,
        lambda rows: rows.ndim == 2 and len(rows) == len(table.tokens) and rows.dtype == dtype,
        _format(dtype),
    )
    return States(rows, table.offsets)


def with_states(batches: TextBatches, states: States) -> TextBatches:
    for indices, ids in batches:
        yield indices, states.batch(indices, ids)


def _format(dtype: np.dtype) -> Format[np.ndarray]:
    """A .npy file whose rows are read when they are needed.

    It holds integers of the same size: NumPy's files have no bfloat16.
    """
    bits = np.dtype(f"u{dtype.itemsize}")

    def read(path: Path) -> np.ndarray:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        return rows.view(dtype) if rows.dtype == bits else rows

    return Format(".npy", read, lambda file, rows: np.save(file, rows.view(bits)))


def encode(
    apply: Callable[[Any], Any],
    batches: Iterable[tuple[Int[np.ndarray, " b"], Any]],
    count: int,
    dim: int,
) -> Float[np.ndarray, "count D"]:
    """Embeddings before normalising, row i for item i.

    Inputs: `apply(batch)` returns pooled embeddings [B, D], B >= b; the first b rows belong to the
    batch's `indices`, the others are padding. `batches` covers 0..count-1, each index once.
    Errors: UserError for an embedding that is not finite; it names the item.
    """
    return _rows(_applied(apply, batches), count, dim)


def encode_parts(
    apply: Callable[[Any], TextOut | MolOut],
    batches: Iterable[tuple[Int[np.ndarray, " b"], Any]],
    keys: UInt8[np.ndarray, "count W"],
    dim: int,
) -> EncodedCorpus:
    """As `encode`, with the tokens or atoms of every item; `keys` are digests of the inputs."""
    sizes = np.zeros(len(keys), np.int64)
    chunks = []

    def outputs() -> Iterator[tuple]:
        for indices, out in _applied(apply, batches):
            parts, sizes[indices] = _parts(out, len(indices))
            chunks.append((indices, parts))
            yield indices, out.pooled

    pooled = _rows(outputs(), len(keys), dim)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    parts = np.empty((offsets[-1], dim), np.float32)
    for indices, rows in chunks:
        counts = sizes[indices]
        shift = offsets[indices] - (np.cumsum(counts) - counts)
        parts[np.repeat(shift, counts) + np.arange(len(rows))] = rows
    key = np.ascontiguousarray(keys[:, :4]).view(np.uint32)[:, 0].astype(np.int64) >> 1
    return EncodedCorpus(pooled, parts, offsets, key)


def _applied(apply: Callable[[Any], Any], batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple]:
    """(indices, result) of every batch, delayed so that devices work while batches are made."""
    waiting: deque[tuple] = deque()
    for indices, batch in batches:
        waiting.append((indices, apply(batch)))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _parts(out: TextOut | MolOut, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the parts of the first `items` items, in their order, and the number of each."""
    if isinstance(out, TextOut):
        mask = np.asarray(out.mask)[:items]
        return np.asarray(out.tokens)[:items][mask], mask.sum(1)
    of_item = np.asarray(out.node_graph)
    order = np.argsort(of_item, kind="stable")  # motifs need not be in the order of molecules
    order = order[of_item[order] < items]
    return np.asarray(out.nodes)[order], np.bincount(of_item[order], minlength=items)


def _rows(outputs: Iterable[tuple], count: int, dim: int) -> np.ndarray:
    rows = np.zeros((count, dim), np.float32)
    seen = np.zeros(count, np.int64)
    for indices, out in outputs:
        rows[indices] = np.asarray(out, np.float32)[: len(indices)]
        np.add.at(seen, indices, 1)
    assert (seen == 1).all(), f"{(seen != 1).sum()} of {count} items not encoded exactly once"
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        raise UserError(
            f"expected finite embeddings, got NaN or infinity for item {int(bad.argmax())} "
            f"({int(bad.sum())} of {count}); check that the run's training did not diverge"
        )
    return rows


def l2_normalize(rows: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
    """Rows of length one; a zero row stays zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-8))


def distinct(keys: UInt8[np.ndarray, "M W"]) -> tuple[Int[np.ndarray, " G"], Int[np.ndarray, " M"]]:
    """First index of each distinct key, in order of appearance, and the group 0..G-1 of each item.

    Encode the items at `first`, then repeat the rows: `rows[group]`. Equal inputs then have equal
    embeddings bit for bit, in whatever batch they are.
    """
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    words = np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0]
    first, group = np.unique(words, return_index=True, return_inverse=True)[1:]
    order = np.argsort(first, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[group]


def sequence_keys(
    tokens: Int[np.ndarray, " sumT"], offsets: Int[np.ndarray, " M1"]
) -> UInt8[np.ndarray, "M 16"]:
    """A digest of each token sequence: equal sequences, equal keys."""
    flat = np.ascontiguousarray(tokens, np.int32)
    digests = [
        hashlib.blake2b(flat[a:b].tobytes(), digest_size=16).digest()
        for a, b in pairwise(offsets.tolist())
    ]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


# Strings to embeddings


class Encoded(NamedTuple):
    """Embeddings of strings; strings that are the same model input form a group."""

    rows: np.ndarray  # float32 [n, D], of length one; equal bit for bit in a group
    group: np.ndarray  # int64 [n]
    # Its row `group[i]` belongs to string i; of models that rerank.
    side: EncodedCorpus | None = None
    norm: np.ndarray = np.zeros(0, np.float32)  # [n], length before normalising; empty: not known


def in_precision(params: Any, dtype: Any) -> Any:
    """The same with the kernels of BERT's layers in `dtype`, the precision of a run.

    The layers read them so, and each call would round all of them again (experiments/LOG.md). Every
    other parameter stays float32.
    """

    def read(path: tuple[Any, ...], x: Any) -> Any:
        names = [step.key for step in path]
        return x.astype(dtype) if LAYERS in names and names[-1] == "kernel" else x

    if "text_encoder" not in params or np.dtype(dtype) == np.float32:
        return params
    encoder = jax.tree_util.tree_map_with_path(read, params["text_encoder"])
    return {**params, "text_encoder": encoder}


class Encoder:
    """Strings in, unit rows out: a model with parameters. Each distinct input is encoded once.

    Assign `params` to use other parameters with the same compiled functions. With `parts` the
    tokens and atoms of every input are returned too, for a model that reranks. `on_progress` is
    called with the number of items done after every batch; an exception that it raises stops the
    work.
    """

    def __init__(self, model: TrainedModel, params: Any, parts: bool = False) -> None:
        self._model, self._parts = model, parts
        self.params = params
        module = model.model

        def read(method: str, params: Any, batch: Any) -> Any:
            out: Any = module.apply(variables(params), batch, method=method)
            return out if parts else out.pooled

        self._text = jax.jit(partial(read, "encode_text"))
        self._mol = jax.jit(partial(read, "encode_molecule"))
        self._states = jax.jit(
            lambda params, batch: module.apply(variables(params), batch, method="text_states")
        )

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return self._model.width

    @property
    def params(self) -> Any:
        return self._params

    @params.setter
    def params(self, params: Any) -> None:
        self._params = params
        self._read = None if params is None else in_precision(params, self._model.model.dtype)

    # Texts

    def texts(self, texts: Sequence[str], on_progress: OnProgress | None = None) -> Encoded:
        """Embeddings of texts; UserError with the row number where one is empty."""
        table = text_table(texts, self._model.tokenizer, self._model.config.features.max_tokens)
        return self.text_rows(table, on_progress)

    def corpus(
        self, texts: Sequence[str], on_progress: OnProgress | None = None
    ) -> tuple[Encoded, np.ndarray]:
        """Embeddings of the texts of an index, and which are cut, bool [n]; nothing is cached."""
        max_tokens = self._model.config.features.max_tokens
        table = passing_text_table(texts, self._model.tokenizer, max_tokens)
        return self.text_rows(table, on_progress, cache=False), table.truncated

    def text_rows(
        self, table: TextTable, on_progress: OnProgress | None = None, cache: bool = True
    ) -> Encoded:
        keys = sequence_keys(table.tokens, table.offsets)
        first, group = distinct(keys)
        table = text_take(table, first)
        batches = self._text_batches(table)
        frozen = self._model.config.train.freeze == "text"
        # A few texts are encoded directly: their states would only fill the disk.
        if cache and frozen and len(first) >= CACHE_FROM:
            batches = with_states(batches, self.states(table, on_progress))
        encoded = self._encoded(self._text, batches, keys[first], group, on_progress)
        if (lexical := self._model.lexical) is None:
            return encoded
        own = l2_normalize(lexical.text_rows(table.tokens, table.offsets))
        return encoded._replace(rows=lexical.joined(encoded.rows, own[group]))

    def states(self, table: TextTable, on_progress: OnProgress | None = None) -> States:
        """The text encoder's hidden states of all texts, kept in the cache folder."""
        dtype = self._model.config.train.precision
        weights = parameters_sha256(self.params["text_encoder"])
        read = partial(self._states, self._read)
        batches = _with_progress(self._text_batches(table), on_progress)
        return text_states(read, weights, table, batches, dtype)

    def _text_batches(self, table: TextTable) -> Iterable[tuple[np.ndarray, TextBatch]]:
        config = self._model.config
        size, count = config.eval.batch_size, len(table.truncated)
        # A query is one text or a few: it need not wait for a whole batch of padding.
        size = next((few for few in (1, QUERIES) if count <= few < size), size)
        lengths: Sequence[int] = config.train.text_buckets
        if count >= CORPUS and jax.default_backend() == "cpu":
            lengths = (*range(FINE, max(lengths), FINE), max(lengths))
        return encode_batches_text(table, size, lengths, self._model.tokenizer.pad_token)

    # Molecules

    def molecules(
        self, smiles: Sequence[str], on_progress: OnProgress | None = None
    ) -> tuple[Encoded, np.ndarray, list[Refused]]:
        """Embeddings of the molecules that parse, the rows they are in, and those refused."""
        table, kept, refused = self.molecule_table(smiles)
        return self.mol_rows(table, on_progress), kept, refused

    def mol_rows(self, table: MolTable, on_progress: OnProgress | None = None) -> Encoded:
        first, group = distinct(table.key)
        size = self._model.config.eval.batch_size
        size = min(size, CANDIDATES) if len(first) <= CANDIDATES else size
        batches = encode_batches_mol(table_take(table, first), size)
        encoded = self._encoded(self._mol, batches, table.key[first], group, on_progress)
        if (lexical := self._model.lexical) is None:
            return encoded
        own = l2_normalize(lexical.mol_rows(table.counts[first]))
        return encoded._replace(rows=lexical.joined(encoded.rows, own[group]))

    def molecule_table(self, smiles: Sequence[str]) -> tuple[MolTable, np.ndarray, list[Refused]]:
        """Features of the molecules that parse, as the model reads them; see `molecules`."""
        features, vocabulary = self._model.config.features, self._model.vocabulary
        table, kept, refused = molecule_table(smiles, features.molecule, features.motif)
        if vocabulary is not None:
            table, _ = apply_vocabulary(table, vocabulary)
        return table, kept, refused

    # Both

    def warmup(self) -> None:
        """Compiles the shapes of queries: texts of every length, few molecules.

        Texts one at a time, a few at once, and in full batches; for reranking (`parts`) one at a
        time.
        """
        config, tokenizer = self._model.config, self._model.tokenizer
        full = config.eval.batch_size
        text = text_table(["a"], tokenizer, config.features.max_tokens)
        for size in (1,) if self._parts else (1, min(QUERIES, full), full):
            for length in config.train.text_buckets:
                ((_, batch),) = encode_batches_text(text, size, [length], tokenizer.pad_token)
                self._text(self._read, batch)
        few = min(CANDIDATES, full)
        for _, batch in encode_batches_mol(self.molecule_table(["C"])[0], few):
            self._mol(self._read, batch)

    def _encoded(
        self,
        read: Callable[[Any, Any], Any],
        batches: Iterable,
        keys: np.ndarray,
        group: np.ndarray,
        on_progress: OnProgress | None,
    ) -> Encoded:
        batches = _with_progress(batches, on_progress)
        # Each device has the parameters and every n-th batch.
        devices = local_devices()
        copies = [jax.device_put(self._read, d) for d in devices] if len(devices) > 1 else None
        turn = cycle(copies or [self._read])

        def run(batch: Any) -> Any:
            return read(next(turn), batch)

        dim = self._model.config.model.dim
        if self._parts:
            side = encode_parts(run, batches, keys, dim)
            pooled = side.pooled
        else:
            side, pooled = None, encode(run, batches, len(keys), dim)
        norm = np.linalg.norm(pooled, axis=1)
        return Encoded(l2_normalize(pooled)[group], group, side, norm[group])


def _with_progress(batches: Iterable, on_progress: OnProgress | None) -> Iterator:
    done = 0
    for indices, batch in batches:
        yield indices, batch
        done += len(indices)
        if on_progress is not None:
            on_progress(done)
