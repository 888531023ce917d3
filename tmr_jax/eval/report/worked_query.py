"""One query of a second stage, step by step, for report.html: what each part does to the order.

A text, its shortlist, the similarities of its words and the atoms of the best candidate, the state
of the denoiser at every step, and the order under each tier. Everything shown is what the ranks of
the table were made from.
"""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from tmr_jax.eval.rerank import Refiner, take
from tmr_jax.eval.rerank_steps import levels
from tmr_jax.models.encode import Encoded, unit
from tmr_jax.types import Pool

SHOWN = 10  # candidates of the table and rows of the state's picture
WORDS, ATOMS = 28, 40  # of the heat map; the heaviest words, the first atoms
CELL = 13  # pixels


def worked_query(
    pool: Pool,
    text: Encoded,
    mol: Encoded,
    query: int,
    refiner: Refiner,
    alpha: float,
    words: list[str],
) -> str:
    """HTML of text `query` of the pool, found among its molecules; `words` are its pieces."""
    assert text.side is not None and mol.side is not None, "encode with parts"
    first, place = np.unique(mol.group, return_index=True, return_inverse=True)[1:]
    candidates = take(mol.side, mol.group[first])
    refined, states = refiner.worked(text.side, candidates, text.group[query])
    weight = refiner.word_weights(take(text.side, text.group[[query]]))
    target = int(place[pool.text_target[query]])
    smiles = [pool.smiles[i] for i in first]
    head = refined.item[0, : refined.clean.shape[1]]
    own = unit(take(text.side, text.group[[query]]).parts)
    order = np.argsort(-levels(refined, "fused", alpha)[0], kind="stable")
    best = take(candidates, refined.item[0, order[:1]])
    similarity = own @ unit(best.parts).T
    return (
        f'<article><div class="query"><p class="text">{escape(pool.texts[query])}</p></div>'
        f"{_parts_table(refined, alpha, target, smiles)}"
        f"{_heat_map(similarity, weight, words, smiles[refined.item[0, order[0]]])}"
        f"{_states(states, head == target)}</article>"
    )


def _parts_table(refined: Any, alpha: float, target: int, smiles: list[str]) -> str:
    """The first candidates under `fused` with the score of every part and the place it gives."""
    every = np.argsort(-levels(refined, "fused", alpha)[0], kind="stable")
    order = every[:SHOWN]
    found = np.flatnonzero(refined.item[0, every] == target)
    if len(found) and found[0] >= SHOWN:  # the right one is shown wherever it came
        order = np.append(order, every[found])
    by_cosine = np.argsort(np.argsort(-refined.first[0], kind="stable"))
    head = refined.clean.shape[1]
    rows = []
    for column in order:
        rank = int(np.flatnonzero(every == column)[0]) + 1
        item, inside = refined.item[0, column], column < head
        local, clean = (
            (f"{refined.local[0, column]:.3f}", f"{refined.clean[0, column]:.3f}")
            if inside
            else ("", "")
        )
        mark = " ✓" if item == target else ""
        cells = (
            f"{refined.first[0, column]:.4f} ({by_cosine[column] + 1})",
            f"{refined.perturbed[0, column]:.4f} ({column + 1})",
            local,
            clean,
        )
        name = f'<th scope="row">{rank}{mark}<code>{escape(smiles[item])}</code></th>'
        rows.append(f"<tr>{name}{''.join(f'<td>{c}</td>' for c in cells)}</tr>")
    heads = ("cosine (place)", "perturbed (place)", "words and atoms", "denoised")
    titles = "".join(f'<th scope="col">{name}</th>' for name in heads)
    missing = "" if len(found) else f"<p>The right one is not on the shortlist of {len(every)}.</p>"
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">final order, alpha {alpha:g}</th>'
        f"{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{missing}"
    )


def _heat_map(similarity: np.ndarray, weight: np.ndarray, words: list[str], smiles: str) -> str:
    """Words by atoms; the words with the most weight, in the order of the sentence."""
    rows = np.sort(np.argsort(-weight, kind="stable")[:WORDS])
    shown = similarity[rows][:, :ATOMS]
    labels = [f"{words[i] if i < len(words) else ''} {100 * weight[i]:.0f}%" for i in rows]
    title = f"cosines of words (weight) and atoms of the best candidate, {smiles[:60]}"
    return _cells(title, shown, labels, "atoms, in the order of the featuriser")


def _states(states: np.ndarray, right: np.ndarray) -> str:
    """X0_hat of the candidates at every step of the sampler, the last being the result."""
    order = np.argsort(-states[-1], kind="stable")[:SHOWN]
    if right.any() and not right[order].any():
        order = np.append(order[:-1], np.flatnonzero(right)[0])
    labels = [f"{i + 1}{' ✓' if right[i] else ''}" for i in order]
    title = "what the denoiser takes each candidate for, step by step (rows: places by s1)"
    return _cells(title, states[:, order].T, labels, "steps, from noise to the answer")


def _cells(title: str, values: np.ndarray, labels: list[str], below: str) -> str:
    """A picture of cells, white to blue from the least value to the greatest."""
    left, top = 120, 8
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / ((high - low) or 1.0)
    rows, columns = values.shape
    drawn = []
    for i in range(rows):
        y = top + i * CELL
        drawn.append(
            f'<text x="{left - 6}" y="{y + 10}" text-anchor="end">{escape(labels[i])}</text>'
        )
        drawn += [
            f'<rect x="{left + j * CELL}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" '
            f'style="fill-opacity:{scaled[i, j]:.2f}"/>'
            for j in range(columns)
        ]
    bottom = top + rows * CELL + 14
    width = left + columns * CELL + 10
    drawn.append(f'<text x="{left}" y="{bottom}">{escape(below)}; {low:.3f} to {high:.3f}</text>')
    return (
        f"<figure><h3>{escape(title)}</h3>"
        f'<svg viewBox="0 0 {width} {bottom + 6}" role="img" aria-label="{escape(title)}">'
        f"{''.join(drawn)}</svg></figure>"
    )
