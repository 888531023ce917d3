"""Subgroups of the queries: rare roles, scaffolds that training has not seen, long texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from tmr_jax.config import DataConfig
from tmr_jax.eval.metrics import metrics, of_rows
from tmr_jax.types import Ranking

RARE_ROLE = 5  # a rare role is named by at most so many training texts
LONG = 0.9  # quantile of the texts' lengths
ROLE = re.compile(r"has (?:a )?roles? as (.*?)(?:\.|$)")
ROLE_PARTS = re.compile(r",\s*(?:and\s+)?|\s+and\s+")


class TrainingSeen(NamedTuple):
    """What the training pairs of all stages contain, the encoder's included."""

    texts: list[str]
    scaffolds: set[str]


def training_seen(stages: Sequence[DataConfig]) -> TrainingSeen | None:
    """Texts and scaffolds of the training pairs; None if their files are not on disk."""
    from tmr_jax.data import load_pairs
    from tmr_jax.data.features.graph import BadMolecule
    from tmr_jax.data.features.similarity import scaffold

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
    texts: Sequence[str],
    scaffolds: Sequence[str],
    train_texts: Sequence[str],
    train_scaffolds: set[str],
) -> dict[str, Bool[np.ndarray, " Q"]]:
    """Which queries are in each subgroup; text i and scaffold i belong to query i."""
    known = Counter(role for text in train_texts for role in set(roles(text)))
    lengths = np.array([len(text.split()) for text in texts])
    return {
        "all": np.ones(len(texts), bool),
        "scaffold unseen in training": np.array([s not in train_scaffolds for s in scaffolds]),
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
