"""Second-order losses of Memory Bank: who is near whom, in and across modalities.

Four distributions over a batch, t2t, m2m, t2m and m2t: row i says how near every item is to item
i. They are made to agree, not the embeddings themselves.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tmr_jax.models.losses.distances import distances, in_blocks

Kernel = Literal["euclid_pos", "euclid_neg", "cos"]
NORM_FLOOR = 1e-8
KEPT = 16  # numbers for each pair of items that the slopes of a row's divergences are made of


def second_order_losses(
    text: Float[Array, "B D"],
    mol: Float[Array, "B D"],
    *,
    kernel: Kernel,
    temperature_u2u: float,
    temperature_u2c: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L_u2u and L_u2c, each the mean over rows.

    Inputs: embeddings of text i and of molecule i in row i, of length one as the models have them.
        `kernel`: what is softmaxed over each row, with 1 / temperature in front. euclid_pos is the
        distance itself, as released: far items get more mass; euclid_neg its negative; cos
        (1 + cos) / 2.
    Requires: the batch is the global batch. Duplicates stay in, and so does the item itself.
    Relation: with p the softmaxed rows and sg = stop-gradient
        L_u2u = KL(p_mm || p_tt) + KL(p_tt || p_mm)
        L_u2c = KL(sg p_mm || p_tm) + KL(sg p_tt || p_mt)
        rows of p_tm are texts, of p_mt molecules. Both are zero where text equals mol.
    Memory: O(B^2 + B D), in blocks of rows.
    Reference: Memory Bank, arXiv 2410.23715.
    """

    def of_rows(some: tuple[Array, Array]) -> tuple[Array, Array]:
        tt, mm, tm, mt = (
            _nearness(rows, columns, kernel)
            for rows, columns in zip((*some, *some), (text, mol, mol, text), strict=True)
        )
        fixed_tt, fixed_mm = jax.lax.stop_gradient((tt, mm))
        u2u = _divergences(mm, tt, temperature_u2u) + _divergences(tt, mm, temperature_u2u)
        crossed = _divergences(fixed_mm, tm, temperature_u2c)
        return u2u, crossed + _divergences(fixed_tt, mt, temperature_u2c)

    u2u, u2c = in_blocks(of_rows, (text, mol), KEPT * len(text))
    return u2u.mean(), u2c.mean()


def _nearness(
    rows: Float[Array, "R D"], columns: Float[Array, "C D"], kernel: Kernel
) -> Float[Array, "R C"]:
    if kernel == "cos":
        rows, columns = (
            x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), NORM_FLOOR)
            for x in (rows, columns)
        )
        cosine = jax.vmap(partial(jnp.matmul, columns, precision=jax.lax.Precision.HIGHEST))(rows)
        return (1 + cosine) / 2
    return distances(rows, columns) if kernel == "euclid_pos" else -distances(rows, columns)


def _divergences(
    target: Float[Array, "R C"], model: Float[Array, "R C"], temperature: float
) -> Float[Array, " R"]:
    """KL(softmax(target / T) || softmax(model / T)) of each row."""

    def of_row(p: Float[Array, " C"], q: Float[Array, " C"]) -> Float[Array, ""]:
        log_p, log_q = jax.nn.log_softmax(p / temperature), jax.nn.log_softmax(q / temperature)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q))

    return jax.vmap(of_row)(target, model)
