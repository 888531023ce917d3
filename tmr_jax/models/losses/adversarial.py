"""WGAN-GP between the modalities, of Memory Bank (MODELS.md 6.2): texts real, molecules fake."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

PENALTY = 10.0
FLOOR = 1e-12  # of a squared norm, whose root has no slope at zero

Critic = Callable[[Float[Array, "B D"]], Float[Array, " B"]]


def critic_loss(
    critic: Critic, text: Float[Array, "B D"], mol: Float[Array, "B D"], key: Key[Array, ""]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """L_D, what the critic's own step makes smaller.

    Inputs: `critic` rates rows; features of text i and of molecule i, detached; a key for mixing.
    Relation: -E D(u^t) + E D(u^m) + 10 E (||grad D(a u^t + (1 - a) u^m)|| - 1)^2, a ~ U[0, 1] for
        each row.
    Reference: MODELS.md 6.2; Gulrajani et al. 2017.
    """
    share = jax.random.uniform(key, (len(text), 1))
    penalty = gradient_penalty(critic, share * text + (1 - share) * mol)
    distance = critic(text).mean() - critic(mol).mean()
    loss = PENALTY * penalty - distance
    return loss, {
        "loss/critic": loss,
        "critic/distance": distance,
        "critic/penalty": penalty,
    }


def gradient_penalty(critic: Critic, rows: Float[Array, "B D"]) -> Float[Array, ""]:
    """Mean of (||grad D|| - 1)^2 over the rows; zero for a linear critic of unit norm."""

    def slope(row: Float[Array, " D"]) -> Float[Array, ""]:
        gradient = jax.grad(lambda x: critic(x[None])[0])(row)
        return jnp.sqrt(jnp.maximum(jnp.square(gradient).sum(), FLOOR))

    return jnp.square(jax.vmap(slope)(rows) - 1).mean()


def generator_loss(critic: Critic, mol: Float[Array, "B D"]) -> Float[Array, ""]:
    """L_G = -E D(u^m): what the molecule encoder makes smaller."""
    return -critic(mol).mean()
