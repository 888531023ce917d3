"""What training made of a memory bank: how far its slots moved, and how selectively each reads.

In: a run's model and the encoded pool of an evaluation, with words and atoms. Out: the record of
`tmr_jax.eval.ood.slot_record`. The bank's start follows from the run's seed and is made again.
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
from tmr_jax.eval.ood import slot_record
from tmr_jax.eval.rerank_steps import padded
from tmr_jax.models.run import TrainedModel, init_params
from tmr_jax.models.state import variables
from tmr_jax.types import Side

ITEMS = 500  # of each modality, evenly out of the pool: a mean to one part in a hundred
CHUNK = 50


def has_slots(assembly: TrainedModel) -> bool:
    return assembly.model.memory_slots > 0


def bank_record(assembly: TrainedModel, params: Any, text: Side, mol: Side) -> dict[str, Any]:
    """Norms and movement of each slot, its sharpness over texts and molecules, and dead slots."""
    both = [slot_sharpness(assembly, params, side) for side in (text, mol)]
    end = np.asarray(params["memory"]["bank"])
    record = slot_record(first_bank(assembly), end, np.mean(both, 0))
    named = zip(("sharpness_text", "sharpness_mol"), both, strict=True)
    return record | {name: values.tolist() for name, values in named}


def first_bank(assembly: TrainedModel) -> Float[np.ndarray, "M D"]:
    return np.asarray(first_params(assembly)["memory"]["bank"])


def first_params(assembly: TrainedModel) -> dict[str, Any]:
    """The parameters before the first step, a pretrained text encoder's excepted: they depend on
    the seed alone, so one pair of anything makes them again."""
    config = assembly.config
    text = text_table(["a"], assembly.tokenizer, config.features.max_tokens)
    mol, _, _ = molecule_table(["C"], config.features.molecule, config.features.motif)
    if assembly.vocabulary is not None:
        mol, _ = apply_vocabulary(mol, assembly.vocabulary)
    one = np.zeros(1, np.int64)
    shapes = declare_shapes(mol, config.train.text_buckets, 1)
    batch = make_batch(one, text, mol, one, one, shapes, assembly.tokenizer.pad_token)
    return init_params(assembly, batch, config.train.seed)


def slot_sharpness(assembly: TrainedModel, params: Any, side: Side) -> Float[np.ndarray, " M"]:
    """Mean over items of 1 - entropy of a slot's attention over that of even attention."""

    @jax.jit
    def read(parts: Any, mask: Any) -> Any:
        return assembly.model.apply(variables(params), parts, mask, method="slot_sharpness")

    count = len(side.pooled)
    items = np.unique(np.linspace(0, count - 1, min(ITEMS, count)).astype(np.int64))
    items = items[np.argsort(np.diff(side.offsets)[items], kind="stable")]  # like sizes together
    found = []
    for start in range(0, len(items), CHUNK):
        index, mask = padded(side.offsets, items[start : start + CHUNK])
        found.append(np.asarray(read(side.parts[index], mask)))
    return np.concatenate(found).mean(0, dtype=np.float64)
