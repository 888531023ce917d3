"""Batch-hard triplet loss of Memory Bank."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tmr_jax.models.losses.distances import apart, distances, in_blocks

MARGIN = 0.3


def batch_hard_triplet(
    text: Float[Array, "B D"], mol: Float[Array, "B D"], duplicate: Bool[Array, "B B"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Each text and each molecule against its partner and the nearest stranger.

    Inputs: embeddings of length one, row i of both is pair i; `duplicate` from `same_pair`.
    Requires: the batch is the global batch.
    Relation: mean over the 2B anchors of max(0, d(anchor, partner) - d(anchor, stranger) + 0.3),
        the stranger being the nearest item of either modality that is of another pair and no
        duplicate. An anchor without any stranger costs nothing.
    Memory: O(B^2 + B D), distances in blocks of anchors.
    Reference: Memory Bank, arXiv 2410.23715, by way of ACME.
    """
    items, partners = jnp.concatenate([text, mol]), jnp.concatenate([mol, text])
    own = jnp.eye(len(text), dtype=bool) | duplicate

    def costs(anchors: tuple[Array, Array, Array]) -> Float[Array, " A"]:
        anchor, partner, own = anchors
        stranger = ~jnp.tile(own, 2)
        nearest = jnp.min(jnp.where(stranger, distances(anchor, items), jnp.inf), axis=1)
        # Without a stranger the nearest is infinitely far.
        return jnp.maximum(0.0, apart(anchor, partner) - nearest + MARGIN)

    cost = in_blocks(costs, (items, partners, jnp.tile(own, (2, 1))), 2 * len(items))
    loss = cost.mean()
    # The share of anchors that still teach anything: at zero the loss has run dry.
    return loss, {"loss/triplet": loss, "batch/triplet_active": (cost > 0).mean()}
