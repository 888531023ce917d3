"""HDAN, the denoiser of DiffTMR, and its sampler (docs/papers.md#denoiser).

For a query and N candidates the state x [N] is a noisy one-hot row of which candidate belongs to
the query; the network reads it with the features and says what the clean row is. It treats all
candidates alike: no index of a candidate reaches it, so where the positive stands says nothing
(docs/papers.md#depthwise-convolution).

Everything that does not depend on the state is linear in what it is made of. `prepare` (pairs) and
`at_time` (steps) do that part once, outside of the scan; `denoise` is what is left for each step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tmr_jax.models.layers.levels import NOWHERE, SHARPNESS, levels_kl
from tmr_jax.types import UserError

OFFSET = 0.008  # of the cosine schedule (docs/papers.md#noise-schedule)
MAX_BETA = 0.999
TIME_BASE = 10_000.0

small = nn.initializers.normal(0.02)  # mandatory: d multiplies the output a hundredfold


def alpha_bar(steps: int) -> Float[np.ndarray, " S1"]:
    """abar_0 = 1, abar_1 .. abar_T of the cosine schedule, float64 [T + 1]."""
    u = np.arange(steps + 1) / steps
    f = np.cos((u + OFFSET) / (1 + OFFSET) * np.pi / 2) ** 2
    beta = np.minimum(1 - f[1:] / f[:-1], MAX_BETA)
    return np.concatenate([[1.0], np.cumprod(1 - beta)])


def visited(steps: int, samples: int) -> tuple[int, ...]:
    """The steps that a sampler of `samples` <= T steps visits, from T down."""
    if not 1 <= samples <= steps:
        raise UserError(
            f"expected 1 to {steps} sampling steps, as many as were trained at most; got {samples}"
        )
    return tuple(sorted({round(k) for k in np.linspace(steps, 1, samples)}, reverse=True))


def time_features(k: Int[Array, "*B"], dim: int) -> Float[Array, "*B D"]:
    """Sinusoids of the step number: sines, then cosines, base 10,000."""
    half = dim // 2
    rate = TIME_BASE ** (-jnp.arange(half) / half)
    angle = k[..., None] * rate.reshape((1,) * k.ndim + (half,))
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


class HdanWeights(NamedTuple):
    """Parameters of one direction; D is the shared embedding."""

    query: Array  # [D, D]
    key: Array  # [D, D]
    value: Array  # [D, D]
    out: Array  # [D, D]
    out_bias: Array  # [D]
    time_in: Array  # [D, D]
    time_in_bias: Array  # [D]
    time_out: Array  # [D, D]
    time_out_bias: Array  # [D]
    depth: Array  # [D], the depthwise kernel of size one
    depth_bias: Array  # [D]
    lift: Array  # [D], of the local score
    lift_bias: Array  # [D]
    inner: Array  # [2 D, 2 D]
    inner_bias: Array  # [2 D]
    outer: Array  # [2 D]
    outer_bias: Array  # []


class Hdan(nn.Module):
    """Holds the parameters of one direction; the mathematics are the functions below.

    With `similarity` W_q and W_k start near the root of it times the identity, so that features of
    length one meet with `similarity` times their cosine.
    """

    dim: int
    similarity: float = 0.0

    @nn.compact
    def __call__(self) -> HdanWeights:
        d = self.dim
        shape = {
            **dict.fromkeys(("query", "key", "value", "out", "time_in", "time_out"), (d, d)),
            **dict.fromkeys(("depth", "lift"), (d,)),
            "inner": (2 * d, 2 * d),
            "outer": (2 * d,),
        }
        bias = {
            **dict.fromkeys(("out", "time_in", "time_out", "depth", "lift"), (d,)),
            "inner": (2 * d,),
            "outer": (),
        }
        same = np.sqrt(self.similarity) * np.eye(d, dtype=np.float32)

        def near_same(key: Array, shape: tuple[int, ...]) -> Array:
            return small(key, shape) + same

        weights = {
            name: self.param(
                name, near_same if self.similarity and name in ("query", "key") else small, s
            )
            for name, s in shape.items()
        }
        biases = {
            f"{name}_bias": self.param(f"{name}_bias", nn.initializers.zeros, s)
            for name, s in bias.items()
        }
        return HdanWeights(**weights, **biases)


class Form(NamedTuple):
    """What the equations leave open."""

    steps: int = 50  # T
    gamma: float = 0.4  # share of the local score
    # p carries the attention's logits / d in place of the attention: X0_hat starts as the attention
    posterior: bool = False


class Pairs(NamedTuple):
    """What `denoise` needs of queries and candidates; a leading 1 is shared by all queries."""

    attention: Float[Array, "Q N"]  # logits of the candidates, but for the step's share
    key: Float[Array, "#Q N D"]  # u W_k
    # Of candidates that all queries share what the hidden layer gets of u W_v (`_lifted`).
    value: Float[Array, "1 N D2"] | Float[Array, "Q N D"]  # of others u W_v
    hidden: Float[Array, "Q N D2"]  # all of the decoder's first layer that the state leaves alone
    mask: Bool[Array, "#Q N"]


class Times(NamedTuple):
    """What `denoise` needs of the step: rows for every query, or one for all; steps may lead."""

    attention: Float[Array, "*S #Q N"]  # added to the logits of the candidates
    value: Float[Array, "*S #Q D2"]  # e W_v, lifted
    hidden: Float[Array, "*S #Q D2"]


def prepare(
    w: HdanWeights,
    query: Float[Array, "Q D"],
    candidates: Float[Array, "#Q N D"],
    local: Float[Array, "Q N"],
    mask: Bool[Array, "#Q N"],
    form: Form,
) -> Pairs:
    """The part of the denoiser that knows neither state nor step."""
    d = query.shape[-1]
    fused, own = w.inner[:d], w.inner[d:]  # rows for E_joint and for the candidate
    value = candidates @ w.value
    rest = 1 - form.gamma
    constant = (form.gamma * w.lift_bias + rest * (w.depth_bias + w.out_bias)) @ fused
    hidden = (rest * value * _row(w.depth, 3)) @ fused + candidates @ own
    hidden = hidden + _row(constant + w.inner_bias, 3)
    hidden = hidden + form.gamma * local[..., None] * _row(w.lift @ fused, 3)
    key = candidates @ w.key
    # Of candidates that all queries share it is less work to lift each once than all that is read.
    value = _lifted(w, value, form) if len(value) == 1 else value
    return Pairs(_meet(query @ w.query, key), key, value, hidden, mask)


def at_time(w: HdanWeights, pairs: Pairs, k: Int[Array, "*S #Q"], form: Form) -> Times:
    """The part that knows the step, but not the state."""
    d = w.query.shape[0]
    e = nn.silu(time_features(k, d) @ w.time_in + _row(w.time_in_bias, k.ndim + 1))
    e = e @ w.time_out + _row(w.time_out_bias, k.ndim + 1)
    value = e @ w.value
    hidden = (1 - form.gamma) * (value * _row(w.depth, k.ndim + 1)) @ w.inner[:d]
    # q and u both carry e; (q + e W_q) . e W_k is the same for all candidates and cancels.
    return Times(_meet(e @ w.query, pairs.key), _lifted(w, value, form), hidden)


def denoise(
    w: HdanWeights, pairs: Pairs, times: Times, x: Float[Array, "Q N"], form: Form
) -> Float[Array, "Q N"]:
    """p for a state x; softmax(100 p) over the candidates is X0_hat."""
    step, own = read_state(w, pairs, times, x, form)
    return nn.relu(pairs.hidden + step[:, None, :]) @ w.outer + w.outer_bias + own


def read_state(
    w: HdanWeights, pairs: Pairs, times: Times, x: Float[Array, "Q N"], form: Form
) -> tuple[Float[Array, "Q D2"], Float[Array, "Q N"]]:
    """What the state adds to every candidate's hidden layer, and to p itself."""
    weight, own = weigh_candidates(pairs, times.attention, x, form)
    return read_candidates(w, pairs, times, weight, form), own


def weigh_candidates(
    pairs: Pairs, attention: Float[Array, "#Q N"], x: Float[Array, "Q N"], form: Form
) -> tuple[Float[Array, "Q N"], Float[Array, "Q N"]]:
    """How much each candidate is read, by the step's logits and the state; what goes to p."""
    x = jnp.where(pairs.mask, x, 0.0)
    # Not scaled by 1 / sqrt(D), and x outside of the softmax: docs/papers.md#state-in-attention.
    logits = jnp.where(pairs.mask, pairs.attention + attention, NOWHERE)
    weight = jax.nn.softmax(logits, -1)
    return weight + x, logits / SHARPNESS if form.posterior else weight


def read_candidates(
    w: HdanWeights, pairs: Pairs, times: Times, weight: Float[Array, "*S Q N"], form: Form
) -> Float[Array, "*S Q D2"]:
    """What is read reaches all hidden layers alike; the bias of W_o is in `prepare`."""
    if len(pairs.value) == 1:
        read = weight @ pairs.value[0]
    else:
        read = _lifted(w, jnp.einsum("...qn,qnd->...qd", weight, pairs.value), form)
    return read + weight.sum(-1, keepdims=True) * times.value + times.hidden


def all_levels(
    w: HdanWeights,
    pairs: Pairs,
    steps: Int[Array, " S"],
    states: Float[Array, "S Q N"],
    goal: Float[Array, "Q N"],
    form: Form,
    kernels: bool = False,
) -> Float[Array, " Q"]:
    """KL(X_0 || X0_hat) of each query, its mean over all noise levels.

    `kernels`: by a kernel for TPU, whose loop over the levels no program shows. The candidates are
    then weighed in a loop, too, so that one over all levels stays to be seen; in the compiled step
    it costs more than to weigh them for all levels at once.
    """
    times = at_time(w, pairs, steps[:, None], form)

    def weigh(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        return weigh_candidates(pairs, *inputs, form)

    inputs = times.attention, states
    weight, own = jax.lax.map(weigh, inputs) if kernels else jax.vmap(weigh)(inputs)
    step = read_candidates(w, pairs, times, weight, form)
    own = jnp.where(pairs.mask[None], own + w.outer_bias, NOWHERE)
    return levels_kl(pairs.hidden, step, own, w.outer, goal, kernels)


def log_clean(p: Float[Array, "Q N"], mask: Bool[Array, "#Q N"]) -> Float[Array, "Q N"]:
    """log X0_hat: log softmax of 100 p over the real candidates."""
    return jax.nn.log_softmax(jnp.where(mask, SHARPNESS * p, NOWHERE), -1)


def sample(
    w: HdanWeights,
    pairs: Pairs,
    noise: Float[Array, "Q N"],
    form: Form,
    samples: int,
    each: Callable[[Array], Array] | None = None,
) -> tuple[Float[Array, "S Q N"], Array | None]:
    """X0_hat after each visited step, the last being the result: DDIM without noise.

    `each`, where given, is called on p of every step; its values come back stacked. It is how
    training reads the chain; with it, steps are recomputed in the backward pass.
    """
    steps = np.array(visited(form.steps, samples))
    levels = alpha_bar(form.steps)
    now, then = levels[steps], levels[np.append(steps[1:], 0)]
    times = at_time(w, pairs, jnp.asarray(steps)[:, None], form)

    def step(x: Array, inputs: tuple[Times, Array, Array]) -> tuple[Array, tuple]:
        time, a, b = inputs
        p = denoise(w, pairs, time, x, form)
        x0 = jnp.exp(log_clean(p, pairs.mask))  # on the simplex: docs/papers.md#clean-state
        eps = (x - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a)
        seen = each(p) if each is not None else None
        return jnp.sqrt(b) * x0 + jnp.sqrt(1 - b) * eps, (x0, seen)

    step = jax.checkpoint(step) if each is not None else step
    _, (x0, seen) = jax.lax.scan(step, noise, (times, jnp.float32(now), jnp.float32(then)))
    return x0, seen


def _meet(query: Float[Array, "*S #Q D"], key: Float[Array, "#Q N D"]) -> Float[Array, "*S #Q N"]:
    """Every query with its candidates."""
    if len(key) == 1:
        return query @ key[0].T
    if query.shape[-2] == 1:  # of all queries one row, as a step has
        found = query[..., 0, :] @ key.reshape(-1, key.shape[-1]).T
        return found.reshape(*found.shape[:-1], *key.shape[:2])
    return jnp.einsum("...qd,qnd->...qn", query, key)


def _lifted(w: HdanWeights, value: Float[Array, "*R D"], form: Form) -> Float[Array, "*R D2"]:
    """What the hidden layer gets of a value that is read."""
    return (1 - form.gamma) * (value @ (w.out @ w.inner[: len(w.out)]))


def _row(vector: Array, rank: int) -> Array:
    return vector.reshape((1,) * (rank - 1) + vector.shape)
