"""Subgroups of the queries: rare roles, scaffolds that training has not seen, long texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
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
    """What training has shown: of all stages, the encoder's too."""

    texts: list[str]
    scaffolds: set[str]


def training_seen(stages: Sequence[DataConfig]) -> TrainingSeen | None:
    """Texts and scaffolds of the training pairs; None where they are not at hand."""
    from tmr_jax.data import load_pairs
    from tmr_jax.data.features.graph import BadMolecule
    from tmr_jax.data.features.variety import scaffold

    try:
        pairs = [p for data in stages for p in load_pairs(data) if p.split == "train"]
    except ValueError:  # scores need no training pairs, and the record says what was left out
        return None
    scaffolds = set()
    for smiles in {p.smiles for p in pairs}:
        try:
            scaffolds.add(scaffold(smiles))
        except BadMolecule:  # training refused it, too
            continue
    return TrainingSeen([p.text for p in pairs], scaffolds)


def roles(text: str) -> list[str]:
    """What a description says that the molecule has a role as, without articles."""
    found = []
    for group in ROLE.findall(text):
        for part in ROLE_PARTS.split(group):
            name = re.sub(r"^(?:an?|the)\s+", "", part.strip())
            if name:
                found.append(name)
    return found


def slices(
    texts: Sequence[str],
    scaffolds: Sequence[str],
    train_texts: Sequence[str],
    train_scaffolds: set[str],
) -> dict[str, Bool[np.ndarray, " Q"]]:
    """Which queries are of each rare kind; text i and scaffold i belong to query i."""
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
    """Queries and metrics of each slice that has any."""
    found = {}
    for name, chosen in parts.items():
        if chosen.any():
            part = of_rows(ranking, chosen)
            found[name] = {"queries": int(chosen.sum())} | metrics(part)
    return found
