"""Memory slots after training: how far each moved, how selectively it attends, which are dead.

In: a run's model and an encoded pool, with words and atoms. Out: a record for results.json. The
initial bank is computed again from the run's seed.
"""

# pyright: reportArgumentType=false
# (numpy arrays stand in for jax.Array in a batch until it moves to the device)

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from tmr_jax.data.batching import declare_shapes, make_batch
from tmr_jax.data.tables import apply_vocabulary, molecule_table, text_table
from tmr_jax.eval.rerank_steps import padded
from tmr_jax.models.checkpoint import variables
from tmr_jax.models.run import TrainedModel, init_params
from tmr_jax.types import EncodedCorpus

ITEMS = 500  # of each modality, evenly spaced: enough for a mean to 1 %
CHUNK = 50
MOVED, SHARP = 0.01, 0.01  # a dead slot is below both, see `slot_record`


def has_slots(assembly: TrainedModel) -> bool:
    return assembly.model.memory_slots > 0


def bank_record(
    assembly: TrainedModel, params: Any, text: EncodedCorpus, mol: EncodedCorpus
) -> dict[str, Any]:
    """Norms and movement of each slot, its sharpness over texts and molecules, and dead slots."""
    both = [slot_sharpness(assembly, params, side) for side in (text, mol)]
    end = np.asarray(params["memory"]["bank"])
    record = slot_record(first_bank(assembly), end, np.mean(both, 0))
    named = zip(("sharpness_text", "sharpness_mol"), both, strict=True)
    return record | {name: values.tolist() for name, values in named}


def first_bank(assembly: TrainedModel) -> Float[np.ndarray, "M D"]:
    return np.asarray(first_params(assembly)["memory"]["bank"])


def first_params(assembly: TrainedModel) -> dict[str, Any]:
    """The parameters before the first step, except those of a pretrained text encoder: they depend
    only on the seed, so any pair recreates them."""
    config = assembly.config
    text = text_table(["a"], assembly.tokenizer, config.features.max_tokens)
    mol, _, _ = molecule_table(["C"], config.features.molecule, config.features.motif)
    if assembly.vocabulary is not None:
        mol, _ = apply_vocabulary(mol, assembly.vocabulary)
    one = np.zeros(1, np.int64)
    shapes = declare_shapes(mol, config.train.text_buckets, 1)
    batch = make_batch(one, text, mol, one, one, shapes, assembly.tokenizer.pad_token)
    return init_params(assembly, batch, config.train.seed)


def slot_sharpness(
    assembly: TrainedModel, params: Any, side: EncodedCorpus
) -> Float[np.ndarray, " M"]:
    """Mean over items of 1 - (entropy of a slot's attention) / (entropy of even attention)."""

    @jax.jit
    def read(parts: Any, mask: Any) -> Any:
        return assembly.model.apply(variables(params), parts, mask, method="slot_sharpness")

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
