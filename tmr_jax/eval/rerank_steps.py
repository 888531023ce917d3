"""The second stage over a pool: shortlist, perturbation, denoising (docs/papers.md#inference).

In: the encoded texts and molecules of a pool, each distinct input once. Out: for every query its
shortlist in the order of s1, and the denoiser's output for its head. The scores of a pair depend on
its inputs, on the other candidates of the shortlist and on the seed; never on any order: a hash of
the input breaks ties and seeds the noise that a pair starts from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from tmr_jax.eval.rank import top
from tmr_jax.models.encode import l2_normalize
from tmr_jax.types import Direction, EncodedCorpus

QUERIES = 16  # at once on a CPU at most
AXIS = "data"
WEIGHED = 64  # texts at once whose words are weighed, at most
LEAST, LARGE = 2**10, 2**17  # tokens of a pool that is padded; padding more would cost memory


class Plan(NamedTuple):
    """What differs between backends."""

    queries: int  # at once on each device at most
    lanes: int  # the tables of parts are a multiple of it wide


def plan() -> Plan:
    """The plan for this process's backend.

    Accelerators read the whole table once for each block of queries, and a TPU keeps the numbers of
    a row together only in whole vectors of 128. In float32, for P tokens of a pool and blocks of
    128 queries, the table (width 300) takes 1,536 P bytes and its cosines 512 P: 5.6 GB for the
    words of 33,010 descriptions.
    """
    return Plan(QUERIES, 1) if jax.default_backend() == "cpu" else Plan(128, 128)


@dataclass(frozen=True)
class Settings:
    """Sizes of the second stage; a pool with fewer candidates has shorter lists."""

    shortlist: int  # K1
    samples: int  # F, perturbations of a molecule
    candidates: int  # K, denoised
    steps: int  # S, of the sampler
    noises: int  # R, initial states that are averaged
    seed: int


class Reranked(NamedTuple):
    """Row i belongs to query i; columns are in the order of s1, ties by hash."""

    item: Int[np.ndarray, "Q K1"]  # candidates, as rows of their side
    first: Float[np.ndarray, "Q K1"]  # s0: cosine
    perturbed: Float[np.ndarray, "Q K1"]  # s1: best of F
    local: Float[np.ndarray, "Q K"]  # r, of the first K columns
    clean: Float[np.ndarray, "Q K"]  # X0_hat, of the first K columns


def rerank(
    apply: Callable[..., Any],
    params: Any,
    text: EncodedCorpus,
    mol: EncodedCorpus,
    direction: Direction,
    queries: Int[np.ndarray, " Q"],
    settings: Settings,
    on_progress: Callable[[int], None] = lambda done: None,
    devices: Sequence[Any] = (),
) -> Reranked:
    """Shortlists of the queries (rows of their side), among all candidates of the other side.

    `apply(params, *arrays, method=...)` runs `weigh_words`, `perturb` and `reconstruct` of the
    model. `on_progress` is called with the number of finished queries. Each of `devices` (default:
    the first) computes the shortlists of its own queries.
    """
    stage = _Stage(apply, params, text, mol, direction, settings, len(queries), devices)
    item, first = top(stage.query_rows[queries], stage.rows, stage.count, stage.key)
    order = np.argsort(np.diff(stage.queries.offsets)[queries], kind="stable")
    columns = []
    for start in range(0, len(order), stage.held):  # like sizes together: little padding
        chunk = order[start : start + stage.held]
        columns.append(stage.rerank(queries[chunk], item[chunk], first[chunk])[:-1])
        on_progress(start + len(chunk))
    place = np.argsort(order, kind="stable")
    return Reranked(*(np.concatenate(column)[place] for column in zip(*columns, strict=True)))


def rerank_one(
    apply: Callable[..., Any],
    params: Any,
    text: EncodedCorpus,
    mol: EncodedCorpus,
    query: int,
    settings: Settings,
) -> tuple[Reranked, Float[np.ndarray, "S K"]]:
    """`rerank` for one text, and X0_hat after every step of the sampler."""
    stage = _Stage(apply, params, text, mol, "t2m", settings, 1)
    rows = np.array([query])
    lists = top(stage.query_rows[rows], stage.rows, stage.count, stage.key)
    *columns, states = stage.rerank(rows, *lists)
    return Reranked(*columns), states[:, 0]


def perturbed(
    apply: Callable[..., Any],
    params: Any,
    text: EncodedCorpus,
    mol: Float[np.ndarray, "n D"],
    settings: Settings,
) -> Float[np.ndarray, " n"]:
    """s1 of one text with each of at most K1 molecules, given only their embeddings."""
    count = len(mol)
    parts, offsets = np.zeros((0, mol.shape[1]), np.float32), np.zeros(count + 1, np.int64)
    candidates = EncodedCorpus(mol, parts, offsets, np.arange(count))
    stage = _Stage(apply, params, text, candidates, "t2m", settings, 1)
    row = np.zeros(1, np.int64)
    tokens, mask, _ = stage._query_tokens(row)
    return stage._perturb_shortlist(row, np.arange(count)[None], tokens, mask)[0][0]


@functools.lru_cache(maxsize=16)
def _programs(apply: Callable[..., Any], direction: Direction, steps: int) -> tuple[Any, Any, Any]:
    """The compiled programs, shared by all pools, epochs and draws."""
    t2m = direction == "t2m"
    perturb = _perturb_t2m if t2m else _perturb_m2t
    return (
        jax.jit(partial(perturb, apply), static_argnums=() if t2m else 0),
        jax.jit(_local_t2m if t2m else _local_m2t, static_argnums=0),
        jax.jit(partial(_reconstruct, apply, direction, steps)),
    )


@functools.lru_cache(maxsize=16)
def _weigher(apply: Callable[..., Any]) -> Any:
    return jax.jit(partial(apply, method="weigh_words"))


class _Stage:
    """One direction of one pool: its arrays on the device, and the compiled programs."""

    def __init__(
        self,
        apply: Callable[..., Any],
        params: Any,
        text: EncodedCorpus,
        mol: EncodedCorpus,
        direction: Direction,
        settings: Settings,
        queries: int,
        devices: Sequence[Any] = (),
    ) -> None:
        self._mesh = Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 else None
        each, most = max(len(devices), 1), plan()
        self.held = each * min(most.queries, power(-(-queries // each)))  # at once
        self._t2m, self._params = direction == "t2m", self._put(params)
        self.queries, self._candidates = (text, mol) if self._t2m else (mol, text)
        self.query_rows = l2_normalize(self.queries.pooled)
        self.rows = l2_normalize(self._candidates.pooled)
        # Keys hash the inputs, not their embeddings, whose last bits depend on the batch.
        self._query_key, self.key = self.queries.key, self._candidates.key
        self.count = min(settings.shortlist, len(self.rows))
        self._wide = min(settings.shortlist, bucket(self.count))
        self._head = min(settings.candidates, self.count)
        self._query_embeddings = l2_normalize(self.queries.token_embeddings)
        parts = jnp.asarray(roomy(l2_normalize(self._candidates.token_embeddings)))
        width = -(-parts.shape[1] // most.lanes) * most.lanes
        self._table = self._put(_widened(parts, width))
        self._longest = bucket(int(np.diff(text.offsets).max()))
        programs = _programs(apply, direction, settings.steps)
        self._weight = word_weights(apply, params, text)
        shape = (settings.samples, text.pooled.shape[1])
        self._noise = jax.random.normal(jax.random.key(settings.seed), shape)
        side = jax.random.fold_in(jax.random.key(settings.seed), self._t2m)
        self._noises = jax.random.split(side, settings.noises)  # keys of the R initial states
        self._perturb, self._local, self._reconstruct = programs

    def rerank(self, queries: np.ndarray, item: np.ndarray, first: np.ndarray) -> tuple:
        """The columns of `Reranked` for at most `held` queries and their shortlists, and X0_hat
        after every step, [S, q, K]."""
        count = len(queries)
        filled = np.minimum(np.arange(self.held), count - 1)  # one shape: repeat the last query
        queries, item, first = queries[filled], item[filled], first[filled]
        tokens, mask, weight = self._put(self._query_tokens(queries), AXIS)
        s1, moved = self._perturb_shortlist(queries, item, tokens, mask)
        by_score = np.lexsort((self.key[item], -s1), axis=1)
        item, first, s1 = (np.take_along_axis(a, by_score, 1) for a in (item, first, s1))
        head = item[:, : self._head]
        index, segment = self._put(self._tokens_of(head), AXIS)
        local = self._local(self._head, self._table, index, segment, tokens, mask, weight)
        candidates = self._put(jnp.asarray(self._candidates.pooled[head]), AXIS)
        if self._t2m:
            place = self._put(by_score[:, : self._head, None], AXIS)
            candidates = jnp.take_along_axis(moved, place, 1)
        query, *keys = self._put(
            (self.queries.pooled[queries], self._query_key[queries], self.key[head]), AXIS
        )
        keys.append(self._noises)
        states = np.asarray(self._reconstruct(self._params, query, candidates, local, *keys))
        columns = (item, first, s1, np.asarray(local), states[-1])
        return (*(column[:count] for column in columns), states[:, :count])

    def _put(self, arrays: Any, *axes: str) -> Any:
        """On every device all of the arrays or, with AXIS, the rows of its own queries."""
        if self._mesh is None:
            return arrays
        return jax.device_put(arrays, NamedSharding(self._mesh, PartitionSpec(*axes)))

    def _perturb_shortlist(
        self, queries: np.ndarray, item: np.ndarray, tokens: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, Array]:
        """s1 [q, K1] and h_P [q, wide, D], perturbed by the text of each pair.

        See docs/papers.md#perturbation-anchor. A short shortlist is padded; padding gets no s1.
        """
        item = np.pad(item, ((0, 0), (0, self._wide - self.count)), mode="edge")
        query, candidates = self._put(
            (self.queries.pooled[queries], self._candidates.pooled[item]), AXIS
        )
        if self._t2m:
            given = (self._params, query, candidates, tokens, mask)
        else:
            begin, end = (self._candidates.offsets[i].astype(np.int32) for i in (item, item + 1))
            words = (self._table, *self._put((begin, end - begin), AXIS))
            given = (self._longest, self._params, query, candidates, *words)
        s1, moved = self._perturb(*given, self._noise)
        return np.asarray(s1)[:, : self.count], moved

    def _query_tokens(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens of the queries, padded to a bucket: [q, P, D], mask and weights [q, P]."""
        index, mask = padded(self.queries.offsets, queries)
        weight = self._weight[index] if self._t2m else mask
        return self._query_embeddings[index], mask, np.where(mask, weight, 0).astype(np.float32)

    def _tokens_of(self, items: np.ndarray) -> tuple[np.ndarray, Any]:
        """Places of the tokens of the items, [q, A], and the column that each belongs to."""
        offsets = self._candidates.offsets
        sizes = offsets[items + 1] - offsets[items]
        budget = bucket(int(sizes.sum(1).max()))
        index = np.zeros((len(items), budget), np.int32)
        segment = np.full((len(items), budget), items.shape[1], np.int32)  # padding
        for i, (item, counts) in enumerate(zip(items, sizes, strict=True)):
            begin = np.repeat(offsets[item] - np.cumsum(counts) + counts, counts)
            index[i, : len(begin)] = begin + np.arange(len(begin))
            segment[i, : len(begin)] = np.repeat(np.arange(len(item)), counts)
        return index, segment if self._t2m else (segment, self._weight[index])


def power(size: int) -> int:
    """The next power of two, for few compiled shapes."""
    return 1 << (size - 1).bit_length()


def bucket(size: int) -> int:
    return max(16, power(size))


def roomy(parts: Float[np.ndarray, "P D"]) -> Float[np.ndarray, "P2 D"]:
    """The tokens of a pool, padded with zeros that nothing points to.

    The pool of a search is its shortlist, which differs each time: few compiled shapes.
    """
    if len(parts) > LARGE:
        return parts
    rows = max(LEAST, power(len(parts)))
    return np.pad(parts, ((0, rows - len(parts)), (0, 0)))


def padded(
    offsets: np.ndarray, items: np.ndarray, size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the tokens of each item, int32 [..., size], and which are real."""
    begin, end = offsets[items], offsets[items + 1]
    place = np.arange(bucket(int((end - begin).max())) if size is None else size)
    place = place.reshape((1,) * items.ndim + place.shape)
    real = place < (end - begin)[..., None]
    return np.where(real, begin[..., None] + place, 0).astype(np.int32), real


def word_weights(
    apply: Callable[..., Any], params: Any, text: EncodedCorpus
) -> Float[np.ndarray, " P"]:
    """The weight of every word of every text (docs/papers.md#local-alignment)."""
    size = bucket(int(np.diff(text.offsets).max()))
    weights = np.zeros(len(text.token_embeddings), np.float32)
    count = len(text.pooled)
    held = min(WEIGHED, power(count))
    for start in range(0, count, held):
        chunk = np.minimum(np.arange(start, start + held), count - 1)
        index, real = padded(text.offsets, chunk, size)
        weight = _weigher(apply)(params, text.token_embeddings[index], real)
        weights[index[real]] = np.asarray(weight)[real]
    return weights


def _l2_normalize(mol: Array) -> Array:
    """`l2_normalize` on the device; the last bits of scores depend on this very form."""
    return mol / jnp.maximum(jnp.linalg.norm(mol, axis=-1, keepdims=True), 1e-8)


# Full float32 products for scores; a TPU would otherwise read bfloat16.
_matmul = partial(jnp.matmul, precision=Precision.HIGHEST)


def _widened(x: Array, width: int) -> Array:
    """The last axis padded with zeros, which change no product."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])


def _perturb_t2m(apply, params, text, mol, words, mask, noise):
    """text [q, D], mol [q, K, D], words [q, T, D]."""
    cosines = _matmul(_l2_normalize(mol), words.swapaxes(1, 2))
    return apply(params, text[:, None], mol, cosines, mask[:, None], noise, method="perturb")


def _perturb_m2t(apply, longest, params, mol, text, all_words, begin, size, noise):
    """mol [q, D], text [q, K, D]; the words of each text are `size` rows from `begin` [q, K]."""
    # One product with the words of all texts costs less than fetching the words of K texts.
    cosines = _matmul(_widened(_l2_normalize(mol), all_words.shape[1]), all_words.T)
    place = jnp.arange(longest).reshape(1, 1, -1)
    mask = place < size[..., None]
    index = jnp.where(mask, begin[..., None] + place, 0)
    cosines = jnp.take_along_axis(
        cosines, index.reshape(len(mol), -1), 1, mode="promise_in_bounds"
    ).reshape(index.shape)
    return apply(params, text, mol[:, None], cosines, mask, noise, method="perturb")


def _local_t2m(count, motifs, index, segment, words, mask, weight):
    """r [q, K]: every word of the query takes the nearest motif of each candidate."""
    words = _widened(words, motifs.shape[1]).swapaxes(1, 2)
    cosines = _matmul(_rows(motifs, index), words)  # [q, A, T]
    nearest = jax.vmap(partial(_of_columns, jax.ops.segment_max, count))(cosines, segment)
    return jnp.where(mask[:, None], nearest * weight[:, None], 0.0).sum(-1)


def _local_m2t(count, words, index, segment_weight, motifs, mask, _):
    """r [q, K]: every word of each candidate takes the nearest motif of the query."""
    segment, weight = segment_weight
    motifs = _widened(motifs, words.shape[1]).swapaxes(1, 2)
    cosines = _matmul(_rows(words, index), motifs)  # [q, words, motifs]
    nearest = jnp.where(mask[:, None], cosines, -jnp.inf).max(-1) * weight
    return jax.vmap(partial(_of_columns, jax.ops.segment_sum, count))(nearest, segment)


def _rows(table, index):
    return table.at[index].get(mode="promise_in_bounds")


def _of_columns(reduced, count, x, column):
    """One number or row for each of `count` columns; one more column holds padding."""
    return reduced(x, column, count + 1, indices_are_sorted=True)[:-1]


def _reconstruct(apply, direction, steps, params, query, candidates, local, query_key, key, side):
    """X0_hat [S, q, K] from noise that depends on (query, candidate), not on their places."""

    def noise(start: Array, query: Array, candidate: Array) -> Array:
        return jax.random.normal(
            jax.random.fold_in(jax.random.fold_in(start, query), candidate), ()
        )

    def drawn(start: Array) -> Array:
        return jax.vmap(lambda a, row: jax.vmap(lambda c: noise(start, a, c))(row))(query_key, key)

    arrays = (query, candidates, local, jax.vmap(drawn)(side))
    return apply(params, direction, *arrays, steps, method="reconstruct")
