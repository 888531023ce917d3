"""Text-anchored perturbation of a molecule, TAPR (docs/papers.md#perturbation).

A molecule's embedding h^g is moved by noise whose radius P depends on how near each word of a text
is to it: h_P = h^g + P * eps. Which text that is decides about honesty: in training the molecule's
own (or every text of the batch in turn), in retrieval always the text of the pair being scored
(docs/papers.md#perturbation-anchor).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Bool, Float

from tmr_jax.models.layers.pooling import NORM_FLOOR

Mode = Literal["off", "mean", "scalar", "matrix"]
LOG_RADIUS = (-8.0, 2.0)  # docs/papers.md#perturbation-scale
# What decides ranks is float32; a TPU would read its factors as bfloat16.
matmul = partial(jnp.matmul, precision=Precision.HIGHEST)


class Tapr(nn.Module):
    """The radius P of pairs (text, molecule), from the cosines of the words with the molecule."""

    mode: Mode
    slots: int  # words that Theta has a row for
    dim: int
    bias: float

    @nn.compact
    def __call__(
        self, cosines: Float[Array, "*pairs T"], mask: Bool[Array, "*#pairs T"]
    ) -> Float[Array, "*pairs D"]:
        """P, positive (zero under `off`). Cosines of padding are not read."""
        cosines = jnp.where(mask, cosines, 0.0)
        shape = (*cosines.shape[:-1], self.dim)
        if self.mode == "off":
            return jnp.zeros(shape, cosines.dtype)
        if self.mode == "matrix":
            # T-MASS starts from the rectangular identity: each word moves a channel of its own.
            kernel = self.param("kernel", lambda _: jnp.eye(self.slots, self.dim))
            bias = self.param("bias", nn.initializers.constant(self.bias), (self.dim,))
            # Empty slots hold zeros, so the rows of Theta beyond the text's bucket drop out. Where
            # the bucket has more places than there are slots, what is beyond them is padding.
            read = min(cosines.shape[-1], self.slots)
            log_radius = matmul(cosines[..., :read], kernel[:read]) + bias.reshape(
                (1,) * (len(shape) - 1) + (self.dim,)
            )
        else:
            mean = cosines.sum(-1) / jnp.maximum(mask.sum(-1), 1)
            if self.mode == "scalar":
                mean = self.param("theta", nn.initializers.ones, ()) * mean
            log_radius = jnp.broadcast_to(mean[..., None], shape)
        return jnp.exp(jnp.clip(log_radius, *LOG_RADIUS))


def best_of(
    text: Float[Array, "#Q #K D"],
    mol: Float[Array, "#Q #K D"],
    radius: Float[Array, "Q K D"],
    noise: Float[Array, "F D"],
) -> tuple[Float[Array, "Q K"], Float[Array, "Q K D"]]:
    """The largest cosine over the samples h_P = g + P * eps_f, and the sample that has it.

    `noise` is the same for every pair (docs/papers.md#common-noise); with no row in it the score is
    the cosine of text and molecule. The cosines of all samples follow from three products with
    the noise, so no F-fold tensor is made.
    """
    along = (text * mol).sum(-1)
    length = jnp.maximum(jnp.linalg.norm(text, axis=-1), NORM_FLOOR)
    square = (mol * mol).sum(-1)
    if len(noise) == 0:
        cosine = along / (length * jnp.maximum(jnp.sqrt(square), NORM_FLOOR))
        return cosine, jnp.broadcast_to(mol, radius.shape)
    inner = along[..., None] + matmul(text * radius, noise.T)
    spread = matmul(radius * radius, (noise**2).T)
    norm2 = square[..., None] + matmul(2 * (mol * radius), noise.T) + spread
    norm = jnp.sqrt(jnp.maximum(norm2, NORM_FLOOR**2))  # rounding may leave it below zero
    cosines = inner / (length[..., None] * norm)
    chosen = jnp.argmax(cosines, -1)
    return cosines.max(-1), mol + radius * jnp.take(noise, chosen, axis=0)
