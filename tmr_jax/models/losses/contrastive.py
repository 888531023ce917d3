"""DiffTMR's discriminative loss: symmetric InfoNCE in a batch (MODELS.md A1.4, R16, R19, R20)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def same_pair(text_group: Int[Array, " B"], mol_group: Int[Array, " B"]) -> Bool[Array, "B B"]:
    """Where row i and column j are off the diagonal but share their text or their molecule."""
    same = (text_group[:, None] == text_group[None, :]) | (mol_group[:, None] == mol_group[None, :])
    return same & ~jnp.eye(len(text_group), dtype=bool)


def info_nce(
    logits: Float[Array, "B B"], duplicate: Bool[Array, "B B"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean of both directions' cross-entropy against the diagonal.

    Inputs: logits [B, B], already scaled, text i against molecule j; `duplicate` from `same_pair`.
    Requires: the batch is the global batch; row i and column i are one pair.
    Relation: -1/(2B) sum_i [log softmax_row(Z)_ii + log softmax_col(Z)_ii], duplicates left out of
        both denominators: a caption shared by two molecules must not push either of them away.
    Reference: MODELS.md A1.4; the sign is R19's.
    """
    masked = jnp.where(duplicate, jnp.finfo(logits.dtype).min, logits)
    t2m = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(masked, axis=1)))
    m2t = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(masked, axis=0)))
    hits = jnp.mean(jnp.argmax(masked, axis=1) == jnp.arange(len(logits)))
    return (t2m + m2t) / 2, {"loss/t2m": t2m, "loss/m2t": m2t, "batch/t2m_hits@1": hits}
