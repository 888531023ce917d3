"""One query of a second stage, step by step, for report.html: how each part changes the order.

The text, its shortlist, the similarities of its words and the atoms of the best candidate, the
state of the denoiser at every step, and the order under each stage: what the ranks of the table are
computed from.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tmr_jax.eval.report.charts import Chart, cell_chart
from tmr_jax.eval.rerank import PoolReranker, levels, take
from tmr_jax.eval.rerank_steps import Reranked
from tmr_jax.models.encode import Encoded, l2_normalize
from tmr_jax.types import Pool

SHOWN = 10  # candidates of the table and rows of the state's picture
WORDS, ATOMS = 28, 40  # of the heat map; the heaviest words, the first atoms


class Row(NamedTuple):
    """A candidate of the table."""

    rank: int
    right: bool
    smiles: str
    cells: tuple[str, ...]


class WorkedQuery(NamedTuple):
    text: str
    alpha: float
    rows: list[Row]
    listed: bool  # is the right molecule on the shortlist
    shortlist: int
    charts: list[Chart]
    columns: tuple[str, ...] = (
        *("cosine (place)", "perturbed (place)", "words and atoms", "denoised"),
    )


def worked_query(
    pool: Pool,
    text: Encoded,
    mol: Encoded,
    query: int,
    reranker: PoolReranker,
    alpha: float,
    words: list[str],
) -> WorkedQuery:
    """Text `query` of the pool, ranked against its molecules; `words` are its pieces."""
    assert text.side is not None and mol.side is not None, "encode with parts"
    first, place = np.unique(mol.group, return_index=True, return_inverse=True)[1:]
    candidates = take(mol.side, mol.group[first])
    reranked, states = reranker.worked(text.side, candidates, text.group[query])
    one = take(text.side, text.group[[query]])
    target = int(place[pool.text_target[query]])
    smiles = [pool.smiles[i] for i in first]
    head = reranked.item[0, : reranked.clean.shape[1]]
    order = np.argsort(-levels(reranked, "fused", alpha)[0], kind="stable")
    best = reranked.item[0, order[0]]
    similarity = (
        l2_normalize(one.token_embeddings)
        @ l2_normalize(take(candidates, np.array([best])).token_embeddings).T
    )
    rows = candidate_rows(reranked, alpha, target, smiles)
    listed = bool((reranked.item[0] == target).any())
    charts = [
        _heat_map(similarity, reranker.word_weights(one), words, smiles[best]),
        _states(states, head == target),
    ]
    return WorkedQuery(pool.texts[query], alpha, rows, listed, len(order), charts)


def candidate_rows(reranked: Reranked, alpha: float, target: int, smiles: list[str]) -> list[Row]:
    """The first candidates under `fused`, and the right one wherever it came, with the score of
    every part and the place that it gives."""
    every = np.argsort(-levels(reranked, "fused", alpha)[0], kind="stable")
    order = every[:SHOWN]
    found = np.flatnonzero(reranked.item[0, every] == target)
    if len(found) and found[0] >= SHOWN:
        order = np.append(order, every[found])
    by_cosine = np.argsort(np.argsort(-reranked.first[0], kind="stable"))
    rows = []
    for column in order:
        rank = int(np.flatnonzero(every == column)[0]) + 1
        item = int(reranked.item[0, column])
        parts = (values[0, column : column + 1] for values in (reranked.local, reranked.clean))
        cells = (
            f"{reranked.first[0, column]:.4f} ({by_cosine[column] + 1})",
            f"{reranked.perturbed[0, column]:.4f} ({column + 1})",
            *("".join(f"{value:.3f}" for value in part) for part in parts),  # of the head only
        )
        rows.append(Row(rank, item == target, smiles[item], cells))
    return rows


def _heat_map(similarity: np.ndarray, weight: np.ndarray, words: list[str], smiles: str) -> Chart:
    """Words by atoms; the words with the most weight, in the order of the sentence."""
    rows = np.sort(np.argsort(-weight, kind="stable")[:WORDS])
    shown = similarity[rows][:, :ATOMS]
    labels = [f"{words[i] if i < len(words) else ''} {100 * weight[i]:.0f}%" for i in rows]
    title = f"cosines of words (weight) and atoms of the best candidate, {smiles[:60]}"
    return cell_chart(title, shown, labels, "atoms, in the order of the featuriser")


def _states(states: np.ndarray, right: np.ndarray) -> Chart:
    """X0_hat of the candidates at every step of the sampler; the last step is the result."""
    order = np.argsort(-states[-1], kind="stable")[:SHOWN]
    if right.any() and not right[order].any():
        order = np.append(order[:-1], np.flatnonzero(right)[0])
    labels = [f"{i + 1}{' ✓' if right[i] else ''}" for i in order]
    title = "the denoiser's estimate of each candidate, step by step (rows: places by s1)"
    return cell_chart(title, states[:, order].T, labels, "steps, from noise to the answer")
