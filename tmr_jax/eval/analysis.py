"""What a run's results say beyond accuracy: uncertainty, variety, subgroups, memory slots.

DiffTMR's second claim is that perturbation and diffusion give a distribution over candidates. Here
it is sampled: the same query with other noise, one perturbation and one initial state per draw.
Nothing here changes a rank.
"""

# pyright: reportArgumentType=false
# (numpy arrays stand in for jax.Array in a batch until it moves to the device)

from __future__ import annotations

import copy
import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from tmr_jax.config import DataConfig
from tmr_jax.data import load_pairs
from tmr_jax.data.batching import declare_shapes, make_batch
from tmr_jax.data.features.graph import BadMolecule
from tmr_jax.data.features.similarity import scaffold, variety
from tmr_jax.data.tables import text_table
from tmr_jax.data.workers import track
from tmr_jax.eval.metrics import metrics, of_rows
from tmr_jax.eval.rerank import Lists, PoolReranker, levels
from tmr_jax.eval.rerank_steps import padded
from tmr_jax.models.checkpoint import variables
from tmr_jax.models.encode import Encoded, Encoder
from tmr_jax.models.run import TrainedModel, init_params
from tmr_jax.types import EncodedCorpus, Pool, Ranking

TOP = 10
RARE_ROLE = 5  # a rare role is named by at most so many training texts
LONG = 0.9  # quantile of the texts' lengths
ROLE = re.compile(r"has (?:a )?roles? as (.*?)(?:\.|$)")
ROLE_PARTS = re.compile(r",\s*(?:and\s+)?|\s+and\s+")
ITEMS = 500  # of each modality, evenly spaced: enough for a mean to 1 %
CHUNK = 50
MOVED, SHARP = 0.01, 0.01  # a dead slot is below both, see `slot_record`


def analyse_pool(
    pool: Pool,
    text: Encoded,
    mol: Encoded,
    lists: Lists,
    seen: TrainingSeen | None,
    reranker: PoolReranker,
    alpha: float,
    draws: int,
) -> list[dict[str, Any]]:
    """Subgroups, variety and uncertainty of the text queries, under det and fused.

    `lists` are those of the text queries. Without `seen` there are no subgroups.
    """
    texts = np.flatnonzero(pool.text_target >= 0)
    parts = {}
    if seen is not None:
        scaffolds = [scaffold(pool.smiles[i]) for i in pool.text_target[texts]]
        parts = slices([pool.texts[i] for i in texts], scaffolds, seen)
    # The lists name distinct inputs of this pool, in the order of their groups.
    smiles = [pool.smiles[i] for i in np.unique(mol.group, return_index=True)[1]]
    records = []
    for stage in ("det", "fused"):
        ranking = lists.ranking(stage, alpha)
        record = {
            "protocol": pool.protocol,
            "direction": "t2m",
            "tier": stage,
            "training_at_hand": seen is not None,
            "slices": sliced(ranking, parts),
            "variety": mean_variety(smiles, first_items(lists, stage, alpha)),
        }
        if stage == "fused" and draws:
            winners = draw_winners(pool, text, mol, reranker, alpha, draws)
            record["uncertainty"] = uncertainty(winners, ranking)
        records.append(record)
    return records


def draw_winners(
    pool: Pool, text: Encoded, mol: Encoded, reranker: PoolReranker, alpha: float, draws: int
) -> Int[np.ndarray, "draws Q"]:
    """The molecule ranked first for each text in each draw."""
    settings, other, winners = reranker.settings, copy.copy(reranker), []
    for draw in track(range(draws), "drawing"):
        other.settings = dataclasses.replace(
            settings, samples=min(settings.samples, 1), noises=1, seed=settings.seed + draw
        )
        lists = other.lists(text, mol, "t2m", pool.text_target)
        first = levels(lists.reranked, "fused", alpha).argmax(1)
        winners.append(np.take_along_axis(lists.reranked.item, first[:, None], 1)[:, 0])
    return np.stack(winners)


def agreement(winners: Int[np.ndarray, "draws Q"]) -> Float[np.ndarray, " Q"]:
    """Fraction of the draws that name the most frequent winner: 1 if all agree."""
    most = [max(Counter(column.tolist()).values()) for column in winners.T]
    return np.array(most) / len(winners)


def entropy(winners: Int[np.ndarray, "draws Q"]) -> Float[np.ndarray, " Q"]:
    """Entropy of the winners over the draws, in nats: 0 if all agree."""
    from scipy import stats

    counts = (list(Counter(column.tolist()).values()) for column in winners.T)
    return np.abs([stats.entropy(count) for count in counts])  # no -0.0


def uncertainty(winners: np.ndarray, ranking: Ranking) -> dict[str, Any]:
    """Means over queries, and Hits@1 of the queries on which all draws agree and of the others."""
    agreed, right = agreement(winners), (ranking.greater == 0) & (ranking.equal == 0)
    sure = agreed == 1
    return {
        "draws": len(winners),
        "entropy": float(entropy(winners).mean()),
        "agreement": float(agreed.mean()),
        "all_agree": float(sure.mean()),
        "hits@1_where_all_agree": float(right[sure].mean()) if sure.any() else None,
        "hits@1_elsewhere": float(right[~sure].mean()) if (~sure).any() else None,
    }


def first_items(lists: Lists, stage: str, alpha: float) -> Int[np.ndarray, "Q top"]:
    """The first candidates of every query under a stage, as distinct inputs of the pool."""
    first = stage == "det"
    score = lists.reranked.first if first else levels(lists.reranked, stage, alpha)
    order = np.argsort(-score, axis=1, kind="stable")
    return np.take_along_axis(lists.reranked.item, order[:, :TOP], 1)


def mean_variety(smiles: Sequence[str], items: Int[np.ndarray, "Q top"]) -> dict[str, float]:
    """Means over queries of the distance and the number of scaffolds among the first ten."""
    varieties = [variety([smiles[int(i)] for i in row]) for row in items]
    return {
        "tanimoto_distance@10": float(np.mean([v.distance for v in varieties])),
        "scaffolds@10": float(np.mean([v.scaffolds for v in varieties])),
    }


# Subgroups of the queries: rare roles, scaffolds that training has not seen, long texts


class TrainingSeen(NamedTuple):
    """What the training pairs of all stages contain, the encoder's included."""

    texts: list[str]
    scaffolds: set[str]


def training_seen(stages: Sequence[DataConfig]) -> TrainingSeen | None:
    """Texts and scaffolds of the training pairs; None if their files are not on disk."""
    try:
        pairs = [p for data in stages for p in load_pairs(data) if p.split == "train"]
    except ValueError:  # scores need no training pairs; the record says that they are missing
        return None
    scaffolds = set()
    for smiles in {p.smiles for p in pairs}:
        with suppress(BadMolecule):  # training skipped it, too
            scaffolds.add(scaffold(smiles))
    return TrainingSeen([p.text for p in pairs], scaffolds)


def roles(text: str) -> list[str]:
    """The roles that a description gives to the molecule, without articles."""
    parts = (part.strip() for group in ROLE.findall(text) for part in ROLE_PARTS.split(group))
    names = (re.sub(r"^(?:an?|the)\s+", "", part) for part in parts)
    return [name for name in names if name]


def slices(
    texts: Sequence[str], scaffolds: Sequence[str], seen: TrainingSeen
) -> dict[str, Bool[np.ndarray, " Q"]]:
    """Which queries are in each subgroup; text i and scaffold i belong to query i."""
    known = Counter(role for text in seen.texts for role in set(roles(text)))
    lengths = np.array([len(text.split()) for text in texts])
    return {
        "all": np.ones(len(texts), bool),
        "scaffold unseen in training": np.array([s not in seen.scaffolds for s in scaffolds]),
        "a role of at most 5 training texts": np.array(
            [any(known[r] <= RARE_ROLE for r in roles(text)) for text in texts]
        ),
        "longest tenth of the texts": lengths >= np.quantile(lengths, LONG),
    }


def sliced(ranking: Ranking, parts: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Number of queries and metrics of each subgroup that is not empty."""
    return {
        name: {"queries": int(rows.sum())} | metrics(of_rows(ranking, rows))
        for name, rows in parts.items()
        if rows.any()
    }


# Memory slots after training; the initial bank is computed again from the run's seed


def bank_record(
    trained: TrainedModel, params: Any, text: EncodedCorpus, mol: EncodedCorpus
) -> dict[str, Any]:
    """Norms and movement of each slot, its sharpness over texts and molecules, and dead slots."""
    both = [slot_sharpness(trained, params, side) for side in (text, mol)]
    start, end = (np.asarray(p["memory"]["bank"]) for p in (first_params(trained), params))
    record = slot_record(start, end, np.mean(both, 0))
    named = zip(("sharpness_text", "sharpness_mol"), both, strict=True)
    return record | {name: values.tolist() for name, values in named}


def first_params(trained: TrainedModel) -> dict[str, Any]:
    """The parameters before the first step, except those of a pretrained text encoder: they depend
    only on the seed, so any pair recreates them."""
    config = trained.config
    text = text_table(["a"], trained.tokenizer, config.features.max_tokens)
    mol, _, _ = Encoder(trained, None).molecule_table(["C"])
    one = np.zeros(1, np.int64)
    shapes = declare_shapes(mol, config.train.text_buckets, 1)
    batch = make_batch(one, text, mol, one, one, shapes, trained.tokenizer.pad_token)
    return init_params(trained, batch, config.train.seed)


def slot_sharpness(
    trained: TrainedModel, params: Any, side: EncodedCorpus
) -> Float[np.ndarray, " M"]:
    """Mean over items of 1 - (entropy of a slot's attention) / (entropy of even attention)."""

    @jax.jit
    def read(parts: Any, mask: Any) -> Any:
        return trained.model.apply(variables(params), parts, mask, method="slot_sharpness")

    count = len(side.pooled)
    items = np.unique(np.linspace(0, count - 1, min(ITEMS, count)).astype(np.int64))
    items = items[np.argsort(np.diff(side.offsets)[items], kind="stable")]  # like sizes together
    rows = []
    for start in range(0, len(items), CHUNK):
        index, mask = padded(side.offsets, items[start : start + CHUNK])
        rows.append(np.asarray(read(side.token_embeddings[index], mask)))
    return np.concatenate(rows).mean(0, dtype=np.float64)


def slot_record(
    start: Float[np.ndarray, "M D"],
    end: Float[np.ndarray, "M D"],
    sharpness: Float[np.ndarray, " M"],
) -> dict[str, Any]:
    """How far training moved each slot, and how selectively it attends to words and atoms.

    Inputs: the bank before and after training; `sharpness` is `slot_sharpness`: 0 for even
    attention, 1 for attention to a single word or atom.

    A slot is dead if it moved at most 1 % as far as the median slot and attends evenly within 1 %:
    it has learned nothing, and its output is the plain mean. One sign alone is not enough: a slot
    may start well, and a slot that moved may have learned the mean.
    """
    moved = np.linalg.norm(end - start, axis=1)
    norms = np.linalg.norm(start, axis=1), np.linalg.norm(end, axis=1)
    length = norms[0] * norms[1]
    dot = (start * end).sum(1)
    dead = (moved <= MOVED * np.median(moved)) & (sharpness < SHARP)
    return {
        "moved": moved.tolist(),
        "norm_start": norms[0].tolist(),
        "norm_end": norms[1].tolist(),
        # The first slot starts as a row of zeros, which has no direction.
        "cosine": [float(d / n) if n else None for d, n in zip(dot, length, strict=True)],
        "sharpness": sharpness.tolist(),
        "dead": np.flatnonzero(dead).tolist(),
    }
