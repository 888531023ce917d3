"""Batch-hard triplet loss of Memory Bank (MODELS.md 6.2)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tmr_jax.losses.distances import distances

MARGIN = 0.3


def batch_hard_triplet(
    text: Float[Array, "B D"], mol: Float[Array, "B D"], duplicate: Bool[Array, "B B"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Each text and each molecule against its partner and the nearest stranger.

    Inputs: embeddings of length one, row i of both is pair i; `duplicate` from `same_pair`.
    Requires: the batch is the global batch.
    Relation: mean over the 2B anchors of max(0, d(anchor, partner) - d(anchor, stranger) + 0.3),
        the stranger being the nearest item of either modality that is of another pair and no
        duplicate (A2). An anchor without any stranger costs nothing.
    Reference: MODELS.md 6.2, by way of ACME.
    """
    items = jnp.concatenate([text, mol])
    between = distances(items, items)  # [2B, 2B]
    pairs = len(text)
    own = jnp.eye(pairs, dtype=bool) | duplicate
    stranger = ~jnp.tile(own, (2, 2))
    partner = jnp.tile(jnp.diagonal(between[:pairs, pairs:]), 2)
    nearest = jnp.min(jnp.where(stranger, between, jnp.inf), axis=1)
    cost = jnp.where(stranger.any(1), jnp.maximum(0.0, partner - nearest + MARGIN), 0.0)
    loss = cost.mean()
    # The share of anchors that still teach anything: at zero the loss has run dry.
    return loss, {"loss/triplet": loss, "batch/triplet_active": (cost > 0).mean()}
