"""DiffTMR's generative loss: KL of the clean row from the denoiser's (MODELS.md 2.3, A1.5, R16)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def clean_rows(duplicate: Bool[Array, "B B"]) -> Float[Array, "B B"]:
    """X_0: row i is one at its own candidate, or even over those that are equally right (R16)."""
    right = duplicate | jnp.eye(len(duplicate), dtype=bool)
    return right / right.sum(-1, keepdims=True)


def denoising_kl(
    target: Float[Array, "*batch N"], log_predicted: Float[Array, "*batch N"]
) -> Float[Array, "*batch"]:
    """KL(X_0 || X0_hat) of each row, entropy of X_0 included.

    Inputs: rows that sum to one, and the logarithm of rows that do.
    Relation: sum_j X_0,j (log X_0,j - log X0_hat,j); for one-hot rows the cross-entropy.
    Reference: MODELS.md A1.5, R16.
    """
    known = jnp.where(target > 0, target, 1.0)  # 0 log 0 = 0, and no infinite slope
    return (target * (jnp.log(known) - log_predicted)).sum(-1)
