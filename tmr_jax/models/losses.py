"""Losses of both papers: contrastive, triplet, second order, diffusion, adversarial, distances.

Each takes the embeddings or the scores of a whole batch, whose row i of texts and row i of
molecules are one pair, and returns a scalar that training minimizes, with its metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

MARGIN = 0.3  # of the triplet loss
# Above the contrastive loss's, which starts at 0.07 and falls: under that a teacher has nearly all
# of its mass on the pairs themselves, which their labels say already.
TEACHING = 0.1
NORM_FLOOR = 1e-8
ROW_ARRAYS = 16  # arrays as large as a row's distances that its divergences and their slopes take
PENALTY = 10.0  # weight of the gradient penalty
SQUARE_FLOOR = 1e-12  # of a squared norm or distance, whose root has no slope at zero
BLOCK = 2**24  # numbers that `in_blocks` holds at a time

Kernel = Literal["euclid_pos", "euclid_neg", "cos"]
Critic = Callable[[Float[Array, "B D"]], Float[Array, " B"]]


# Contrastive: DiffTMR's discriminative loss


def duplicate_mask(
    text_group: Int[Array, " B"],
    mol_group: Int[Array, " B"],
    described: Int[Array, "B K"] | None = None,
    mutual: bool = False,
) -> Bool[Array, "B B"]:
    """Where text i describes molecule j off the diagonal, too: they share their text or their
    molecule, or text i is one of the other texts of molecule j, of the groups `described[j]`.
    `mutual`: or text j describes molecule i, for losses that compare texts with texts."""
    same = (text_group[:, None] == text_group[None, :]) | (mol_group[:, None] == mol_group[None, :])
    if described is not None:
        also = (text_group[:, None, None] == described[None]).any(-1)
        same |= also | also.T if mutual else also
    return same & ~jnp.eye(len(text_group), dtype=bool)


def info_nce(
    logits: Float[Array, "B B"], duplicate: Bool[Array, "B B"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean of both directions' cross-entropy against the diagonal.

    Inputs: logits [B, B], already scaled, text i against molecule j; `duplicate` from
        `duplicate_mask`.
    Requires: the batch is the global batch; row i and column i are one pair.
    Relation: -1/(2B) sum_i [log softmax_row(Z)_ii + log softmax_col(Z)_ii]. Both denominators leave
        duplicates out: a caption that two molecules share must not push either of them away.
    Reference: docs/papers.md#contrastive-loss.
    """
    masked = jnp.where(duplicate, jnp.finfo(logits.dtype).min, logits)
    t2m = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(masked, axis=1)))
    m2t = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(masked, axis=0)))
    hits = jnp.mean(jnp.argmax(masked, axis=1) == jnp.arange(len(logits)))
    return (t2m + m2t) / 2, {"loss/t2m": t2m, "loss/m2t": m2t, "batch/t2m_hits@1": hits}


def sigmoid_pairs(
    logits: Float[Array, "B B"], duplicate: Bool[Array, "B B"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Each of the B^2 pairs is right or wrong by itself, without a softmax over the batch.

    Inputs: logits [B, B], scaled and shifted by the learned bias, text i against molecule j;
        `duplicate` from `duplicate_mask`: those are right, too.
    Relation: -1/B sum_ij log sigmoid(+Z_ij where right, -Z_ij where wrong).
    Reference: docs/papers.md#contrastive-loss; Zhai et al. 2023, arXiv 2303.15343.
    """
    right = duplicate | jnp.eye(len(logits), dtype=bool)
    cost = -jax.nn.log_sigmoid(jnp.where(right, logits, -logits)) / len(logits)
    pulls, pushes = jnp.where(right, cost, 0).sum(), jnp.where(right, 0, cost).sum()
    own = jnp.where(duplicate, jnp.finfo(logits.dtype).min, logits)
    hits = jnp.mean(jnp.argmax(own, axis=1) == jnp.arange(len(logits)))
    parts = {"loss/right": pulls, "loss/wrong": pushes, "batch/t2m_hits@1": hits}
    return pulls + pushes, parts


# Triplet: the first-order loss of Memory Bank


def batch_hard_triplet(
    text: Float[Array, "B D"], mol: Float[Array, "B D"], duplicate: Bool[Array, "B B"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Each text and each molecule against its positive and the nearest negative.

    Inputs: embeddings of length one, row i of both is pair i; `duplicate` from `duplicate_mask`.
    Requires: the batch is the global batch.
    Relation: mean over the 2B anchors of max(0, d(anchor, positive) - d(anchor, negative) + 0.3).
        The negative is the nearest item of either modality from another pair that is not a
        duplicate. An anchor without any negative costs nothing.
    Memory: O(B^2 + B D), distances in blocks of anchors.
    Reference: docs/papers.md#triplet-loss; Memory Bank, arXiv 2410.23715, after ACME.
    """
    items, positives = jnp.concatenate([text, mol]), jnp.concatenate([mol, text])
    same = jnp.eye(len(text), dtype=bool) | duplicate

    def costs(anchors: tuple[Array, Array, Array]) -> Float[Array, " A"]:
        anchor, positive, same = anchors
        negative = ~jnp.tile(same, 2)
        nearest = jnp.min(jnp.where(negative, distances(anchor, items), jnp.inf), axis=1)
        # Without a negative the nearest one is infinitely far.
        return jnp.maximum(0.0, row_distances(anchor, positive) - nearest + MARGIN)

    cost = in_blocks(costs, (items, positives, jnp.tile(same, (2, 1))), 2 * len(items))
    loss = cost.mean()
    # The share of anchors with a gradient: at zero the loss teaches nothing more.
    return loss, {"loss/triplet": loss, "batch/triplet_active": (cost > 0).mean()}


# Second order: Memory Bank's agreement of similarities within and across modalities. Four
# distributions over a batch, t2t, m2m, t2m and m2t, are made to agree, not the embeddings
# themselves: row i is the similarity of every item to item i.


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
        `kernel`: the softmax of each row is over this, times 1 / temperature. euclid_pos is the
        distance itself, as released: far items get more mass; euclid_neg its negative; cos
        (1 + cos) / 2.
    Requires: the batch is the global batch. Duplicates stay in, and so does the item itself.
    Relation: with p the softmaxed rows and sg = stop-gradient
        L_u2u = KL(p_mm || p_tt) + KL(p_tt || p_mm)
        L_u2c = KL(sg p_mm || p_tm) + KL(sg p_tt || p_mt)
        rows of p_tm are texts, of p_mt molecules. Both are zero where text equals mol.
    Memory: O(B^2 + B D), in blocks of rows.
    Reference: docs/papers.md#second-order-losses; Memory Bank, arXiv 2410.23715.
    """

    def of_rows(some: tuple[Array, Array]) -> tuple[Array, Array]:
        tt, mm, tm, mt = (
            _similarities(rows, columns, kernel)
            for rows, columns in zip((*some, *some), (text, mol, mol, text), strict=True)
        )
        fixed_tt, fixed_mm = jax.lax.stop_gradient((tt, mm))
        u2u = _divergences(mm, tt, temperature_u2u) + _divergences(tt, mm, temperature_u2u)
        crossed = _divergences(fixed_mm, tm, temperature_u2c)
        return u2u, crossed + _divergences(fixed_tt, mt, temperature_u2c)

    u2u, u2c = in_blocks(of_rows, (text, mol), ROW_ARRAYS * len(text))
    return u2u.mean(), u2c.mean()


def _similarities(
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


# Distillation


def distillation(student: Float[Array, "B B"], teacher: Float[Array, "B B"]) -> Float[Array, ""]:
    """Mean over rows and columns of KL(softmax(teacher / T) || softmax(student / T)), T = 0.1.

    Inputs: cosines of text i and molecule j.
    Requires: the batch is the global batch. Duplicates stay in: a teacher gives them like mass.
    Relation: zero where all cosines are equal. One temperature for both, so that the student's
        cosines become the teacher's, whatever scale its own loss learns.
    Reference: docs/papers.md#distillation; Hinton et al. 2015, arXiv 1503.02531.
    """
    t2m = _divergences(teacher, student, TEACHING)
    m2t = _divergences(teacher.T, student.T, TEACHING)
    return (t2m.mean() + m2t.mean()) / 2


# Diffusion: DiffTMR's generative loss


def clean_rows(duplicate: Bool[Array, "B B"]) -> Float[Array, "B B"]:
    """X_0: row i is one at its own candidate, or even over all that are equally right.

    Reference: docs/papers.md#clean-state.
    """
    right = duplicate | jnp.eye(len(duplicate), dtype=bool)
    return right / right.sum(-1, keepdims=True)


def denoising_kl(
    target: Float[Array, "*batch N"], log_predicted: Float[Array, "*batch N"]
) -> Float[Array, "*batch"]:
    """KL(X_0 || X0_hat) of each row, entropy of X_0 included.

    Inputs: rows that sum to one, and the logarithm of rows that do.
    Relation: sum_j X_0,j (log X_0,j - log X0_hat,j); for one-hot rows the cross-entropy.
    Reference: docs/papers.md#generative-loss.
    """
    positive = jnp.where(target > 0, target, 1.0)  # 0 log 0 = 0, and no infinite slope
    return (target * (jnp.log(positive) - log_predicted)).sum(-1)


# Adversarial: Memory Bank's WGAN-GP between the modalities; texts are real, molecules fake


def critic_loss(
    critic: Critic, text: Float[Array, "B D"], mol: Float[Array, "B D"], key: Key[Array, ""]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """L_D, which the critic's own step minimizes.

    Inputs: `critic` rates rows; features of text i and of molecule i, detached; a key for mixing.
    Relation: -E D(u^t) + E D(u^m) + 10 E (||grad D(a u^t + (1 - a) u^m)|| - 1)^2, a ~ U[0, 1] for
        each row.
    Reference: docs/papers.md#adversarial-loss; Gulrajani et al. 2017.
    """
    share = jax.random.uniform(key, (len(text), 1))
    penalty = gradient_penalty(critic, share * text + (1 - share) * mol)
    distance = critic(text).mean() - critic(mol).mean()
    loss = PENALTY * penalty - distance
    return loss, {"loss/critic": loss, "critic/distance": distance, "critic/penalty": penalty}


def gradient_penalty(critic: Critic, rows: Float[Array, "B D"]) -> Float[Array, ""]:
    """Mean of (||grad D|| - 1)^2 over the rows; zero for a linear critic of norm one."""

    def slope(row: Float[Array, " D"]) -> Float[Array, ""]:
        gradient = jax.grad(lambda x: critic(x[None])[0])(row)
        return jnp.sqrt(jnp.maximum(jnp.square(gradient).sum(), SQUARE_FLOOR))

    return jnp.square(jax.vmap(slope)(rows) - 1).mean()


def generator_loss(critic: Critic, mol: Float[Array, "B D"]) -> Float[Array, ""]:
    """L_G = -E D(u^m), which the molecule encoder minimizes."""
    return -critic(mol).mean()


# Distances: Euclidean, with gradients that stay finite where rows coincide


def in_blocks(of_rows: Callable[[Any], Any], rows: Any, size: int) -> Any:
    """`of_rows`, which maps arrays with a leading axis of rows to such arrays, block by block.

    Inputs: arrays [R, ...]; `size`: how many numbers `of_rows` computes for one row.
    A block has every k-th row, so that rows that lie on several devices stay distributed. The
    backward pass computes the intermediate values of a block again instead of keeping them.
    """
    count = len(jax.tree.leaves(rows)[0])
    least = min(count, -(-count * size // BLOCK))
    blocks = next(n for n in range(least, count + 1) if count % n == 0)
    if blocks == 1:
        return of_rows(rows)
    cut = jax.tree.map(lambda x: x.reshape(-1, blocks, *x.shape[1:]).swapaxes(0, 1), rows)
    results = jax.lax.map(jax.checkpoint(of_rows), cut)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(count, *x.shape[2:]), results)


def row_distances(rows: Float[Array, "#R D"], others: Float[Array, "#R D"]) -> Float[Array, " R"]:
    """The distance of row i and other row i: sqrt(max(||row - other||^2, 1e-12))."""
    return jnp.sqrt(jnp.maximum(jnp.square(rows - others).sum(-1), SQUARE_FLOOR))


@jax.custom_vjp
def distances(rows: Float[Array, "R D"], columns: Float[Array, "C D"]) -> Float[Array, "R C"]:
    """`row_distances` of every row and every column.

    It sums the squared differences themselves: with scalar products rounding turns the zero between
    equal rows into 3e-4. At the floor the gradient is zero and not 0 x infinity. Memory is that of
    the inputs, of the result, and of a block of differences. The first derivative exists, the
    second does not.
    """
    of_row = jax.vmap(lambda row: row_distances(row[None], columns))
    return in_blocks(of_row, rows, columns.size)


def _forward(rows: Array, columns: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    result = distances(rows, columns)
    return result, (rows, columns, result)


def _backward(
    residuals: tuple[Array, Array, Array], slope: Float[Array, "R C"]
) -> tuple[Array, Array]:
    """d distance / d row = (row - column) / distance, and its negative for the column."""
    rows, columns, distance = residuals
    floor = jnp.sqrt(jnp.asarray(SQUARE_FLOOR, distance.dtype))
    weight = jnp.where(distance <= floor, 0.0, slope / distance)
    return _weighted_differences(weight, rows, columns), _weighted_differences(
        weight.T, columns, rows
    )


def _weighted_differences(
    weight: Float[Array, "R C"], rows: Float[Array, "R D"], columns: Float[Array, "C D"]
) -> Float[Array, "R D"]:
    """Sum over columns of weight x (row - column).

    From the differences, too: as the products sum(weight) row - weight @ columns float32 loses a
    share 1e-7 / distance of it, all of it between embeddings that differ by rounding alone.
    """
    across = columns.T

    def of_row(both: tuple[Float[Array, " C"], Float[Array, " D"]]) -> Float[Array, " D"]:
        weight, row = both
        return (weight[None] * (row[:, None] - across)).sum(1)

    return in_blocks(jax.vmap(of_row), (weight, rows), columns.size)


distances.defvjp(_forward, _backward)
