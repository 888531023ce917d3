"""Why a molecule matches: words and atoms without which its score would be lower.

In: an encoder with parts, a text and a SMILES. Out: what the cosine loses when a word, or an atom
with its bonds, is removed from the input (occlusion: Zeiler, Fergus 2014), and the cosines between
single words and atoms. This explains the first stage; a second stage reorders its hits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tmr_jax.data.features.graph import atom_order, featurise, number_by_first
from tmr_jax.data.features.text import clean_text
from tmr_jax.data.tables import MolTable, joined_table, pack, vocabulary_ids
from tmr_jax.models.encode import Encoded, Encoder, l2_normalize
from tmr_jax.models.run import TrainedModel
from tmr_jax.types import MolFeatures

WORD = re.compile(r"\S+")


class Word(NamedTuple):
    text: str
    start: int  # in the text as the model reads it, `Explanation.text`
    end: int
    drop: float  # what the cosine loses without it; below 0 where it gains
    weight: float  # drop over the largest drop, 0 to 1


class Explanation(NamedTuple):
    score: float  # cosine of text and molecule
    text: str  # after clean_text
    words: tuple[Word, ...]
    smiles: str  # writes the atoms in the order of `atoms`
    atoms: tuple[float, ...]  # weights, 0 to 1
    drops: tuple[float, ...]  # what the cosine loses without each atom
    heat: Float[np.ndarray, "words atoms"]  # cosines of words and atoms by themselves


def explain(
    assembly: TrainedModel, encoder: Encoder, text: str, smiles: str, plain: Encoder | None = None
) -> Explanation:
    """The parts of a pair that its score rests on. `encoder` keeps parts.

    A `plain` one, which keeps none, encodes the occluded pairs, whose parts would grow with the
    square of words and atoms. Raises UserError for an empty text, and where the SMILES is refused.
    """
    settings = assembly.config.features
    text = clean_text(text)
    features = featurise(smiles, settings.molecule, settings.motif)
    written, order = atom_order(smiles, settings.molecule)
    spans = [match.span() for match in WORD.finditer(text)]
    alone = [without_atoms(features, [i]) for i in range(len(order))] if len(order) > 1 else []
    reader = plain or encoder
    texts = reader.texts([text, *(without_words(text, [i]) for i in range(len(spans)))]).rows
    mols = reader.mol_rows(table_of(assembly, [features, *alone])).rows
    score = float(texts[0] @ mols[0])
    word_drop = score - texts[1:] @ mols[0]
    atom_drop = score - mols[1:] @ texts[0] if alone else np.full(1, score)
    by_atom = np.argsort(order)  # from the rows of the features to the atoms of `written`
    words = _words(assembly, encoder.texts([text]), text, spans)
    atoms = _atoms(encoder.mol_rows(table_of(assembly, [features])), features)
    heat = l2_normalize(words) @ l2_normalize(atoms).T
    return Explanation(
        score,
        text,
        _weighed(text, spans, word_drop),
        written,
        tuple(_weights(atom_drop)[by_atom].tolist()),
        tuple(atom_drop[by_atom].tolist()),
        heat[:, by_atom],
    )


def without_words(text: str, places: Iterable[int]) -> str:
    """The text without the words at these places; "[UNK]" where none is left."""
    removed = set(places)
    words = [match.group() for i, match in enumerate(WORD.finditer(text)) if i not in removed]
    return " ".join(words) or "[UNK]"


def without_atoms(features: MolFeatures, rows: Iterable[int]) -> MolFeatures:
    """The molecule without these rows of `nodes` and their bonds; at least one atom must stay.

    Features of the other atoms, such as their number of neighbours, and fragments do not change.
    """
    remains = np.ones(len(features.nodes), bool)
    remains[list(rows)] = False
    assert remains.any(), "every atom is removed"
    bonds = remains[features.senders] & remains[features.receivers]
    place = (np.cumsum(remains) - 1).astype(np.int32)
    return MolFeatures(
        nodes=features.nodes[remains],
        edges=features.edges[bonds],
        senders=place[features.senders[bonds]],
        receivers=place[features.receivers[bonds]],
        motif=number_by_first(features.motif[remains]),
        counts=features.counts,
    )


def table_of(assembly: TrainedModel, molecules: list[MolFeatures]) -> MolTable:
    """The input of the encoder, molecules and atoms in the order given."""
    settings = assembly.config.features
    table = joined_table(
        [pack(molecules, [""] * len(molecules), settings.molecule, settings.motif)]
    )
    if assembly.vocabulary is None:
        return table
    return table._replace(nodes=vocabulary_ids(table.nodes, assembly.vocabulary))


def _weights(drop: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Drops over the largest; 0 for what does not lower the score."""
    largest = max(float(drop.max(initial=0)), 1e-6)
    return np.clip(drop / largest, 0, 1)


def _weighed(text: str, spans: list[tuple[int, int]], drop: np.ndarray) -> tuple[Word, ...]:
    weights = _weights(drop).tolist()
    words = zip(spans, drop.tolist(), weights, strict=True)
    return tuple(Word(text[a:b], a, b, fall, weight) for (a, b), fall, weight in words)


def _words(
    assembly: TrainedModel, texts: Encoded, text: str, spans: list[tuple[int, int]]
) -> Float[np.ndarray, "words D"]:
    """Mean states of the pieces of each word; zeros of a word beyond the tokens that are read."""
    pieces = assembly.tokenizer.spans(text, assembly.config.features.max_tokens)
    states = _parts(texts)
    means = np.zeros((len(spans), states.shape[1]), np.float32)
    for row, (start, end) in zip(means, spans, strict=True):
        inside = [i for i, (a, b) in enumerate(pieces) if a < b and start <= a < end]
        if inside:
            row[:] = states[inside].mean(0)
    return means


def _atoms(mols: Encoded, features: MolFeatures) -> Float[np.ndarray, "atoms D"]:
    """States of the atoms in the rows of the features, or of their motifs."""
    states = _parts(mols)
    return states if len(states) == len(features.nodes) else states[features.motif]


def _parts(encoded: Encoded) -> np.ndarray:
    """Of the first string."""
    side = encoded.side
    assert side is not None, "encode with parts"
    first = encoded.group[0]
    return side.token_embeddings[side.offsets[first] : side.offsets[first + 1]]
