"""HDAN, the denoiser of DiffTMR, and its sampler (docs/papers.md#denoiser).

For a query and N candidates the state x [N] is a noisy one-hot row of which candidate belongs to
the query; the network reads it with the features and says what the clean row is. It treats all
candidates alike: no index of a candidate reaches it, so where the positive stands says nothing
(docs/papers.md#depthwise-convolution).

Everything that does not depend on the state is linear in what it is made of. `prepare` (pairs) and
`at_time` (steps) do that part once, outside of the scan; `denoise` is what is left for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int

from tmr_jax.models.layers.attention import LANES
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
        same = np.sqrt(self.similarity) * np.eye(d, dtype=np.float32)

        def near_same(key: Array, shape: tuple[int, ...]) -> Array:
            return small(key, shape) + same

        matrices = {
            **dict.fromkeys(("query", "key"), near_same if self.similarity else small),
            **dict.fromkeys(("value", "out", "time_in", "time_out"), small),
        }
        w = {name: self.param(name, start, (d, d)) for name, start in matrices.items()}
        w |= {name: self.param(name, small, (d,)) for name in ("depth", "lift")}
        w |= {"inner": self.param("inner", small, (2 * d, 2 * d))}
        w |= {"outer": self.param("outer", small, (2 * d,))}
        sizes = dict.fromkeys(("out", "time_in", "time_out", "depth", "lift"), (d,))
        for name, shape in {**sizes, "inner": (2 * d,), "outer": ()}.items():
            w[f"{name}_bias"] = self.param(f"{name}_bias", nn.initializers.zeros, shape)
        return HdanWeights(**w)


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


# KL at all noise levels, with its gradient, in one pass (docs/papers.md#all-noise-levels). Of a
# level only sums outlive it. The plain form loops over levels and lets XLA do the rest. The other
# is a Pallas kernel for TPU, one query at a time: XLA goes over a query's numbers [N, D2] several
# times a level and sums them across lanes each time.
#
# With past = -step, relu(hidden + step) = max(hidden, past) - past, and what past adds is the same
# for all candidates of a query: the softmax over them does not see it. So a level costs the kernel
# seven operations for each number of `hidden`: three for the scores (max, times outer, sum), four
# for the slopes (whether hidden > past, select, two sums).

SHARPNESS = 100.0  # d of docs/papers.md#decoder
NOWHERE = -1e9  # logit of a padded candidate
SUBLANES = 8  # rows that a vector register of a TPU holds
SCORED = 64  # candidates that are scored side by side: a divisor of LANES, as is
SUMMED = 32  # how many of them slopes are summed of while the levels go by
SOME = 10  # levels in a turn of a loop, so that one's waits are another's work


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def levels_kl(
    hidden: Float[Array, "Q N D2"],
    step: Float[Array, "S Q D2"],
    own: Float[Array, "S Q N"],
    outer: Float[Array, " D2"],
    goal: Float[Array, "Q N"],
    kernel: bool = False,
    interpret: bool = False,
) -> Float[Array, " Q"]:
    """Mean over S of KL(goal || softmax(100 (relu(hidden + step) outer + own))).

    `kernel` is for TPUs; `interpret` runs it anywhere, slowly.
    """
    if kernel:
        return _kernel_forward(hidden, step, own, outer, goal, interpret)[0]

    def level(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _kl_of(_scores(hidden, *inputs, outer), goal)[0].sum(-1), None

    total, _ = jax.lax.scan(level, jnp.zeros(len(goal)), (step, own))
    return total / len(step)


def _scores(hidden: Array, step: Array, own: Array, outer: Array) -> Array:
    active = nn.relu(hidden + step[:, None, :])
    return (active * outer[None, None]).sum(-1) + own


def _kl_of(p: Array, goal: Array) -> tuple[Array, Array]:
    """What each number adds to the KL of its row, and the KL's slope by p."""
    log_clean = jax.nn.log_softmax(SHARPNESS * p, -1)
    known = jnp.where(goal > 0, goal, 1.0)  # 0 log 0 = 0
    kl = goal * (jnp.log(known) - log_clean)
    return kl, SHARPNESS * (jnp.exp(log_clean) * goal.sum(-1, keepdims=True) - goal)


def _forward(hidden, step, own, outer, goal, kernel, interpret):
    """Value and slopes in one pass: of a level nothing is kept but sums."""
    if kernel:
        return _kernel_forward(hidden, step, own, outer, goal, interpret)
    return _plain_forward(hidden, step, own, outer, goal)


def _plain_forward(hidden, step, own, outer, goal):
    """relu's slope is 1 where hidden + step > 0. `sums` adds up the slopes of p there; outer, which
    multiplies all of them, and hidden, for the slope by outer, come in once at the end.
    """
    count = len(step)

    def level(carry: tuple, inputs: tuple[Array, Array]) -> tuple[tuple, tuple]:
        total, sums = carry
        step, own = inputs
        kl, slope = _kl_of(_scores(hidden, step, own, outer), goal)
        passed = jnp.where(hidden + step[:, None, :] > 0, slope[..., None], 0.0)
        return (total + kl.sum(-1), sums + passed), (passed.sum(1), slope)

    start = jnp.zeros(len(goal)), jnp.zeros_like(hidden)
    (total, sums), (by_step, by_own) = jax.lax.scan(level, start, (step, own))
    by_outer = (sums * hidden).sum(1) + (by_step * step).sum(0)  # of each query
    slopes = (sums * outer[None, None], by_step * outer[None, None], by_own, by_outer)
    return total / count, jax.tree.map(lambda x: x / count, slopes)


def _backward(kernel, interpret, slopes, g):
    hidden, step, own, outer = slopes
    by_goal = jnp.zeros_like(own[0])  # nobody learns the goal
    return (
        hidden * g[:, None, None],
        step * g[None, :, None],
        own * g[None, :, None],
        (outer * g[:, None]).sum(0),
        by_goal,
    )


levels_kl.defvjp(_forward, _backward)


# TPU: a kernel for each query


def _kernel_forward(hidden, step, own, outer, goal, interpret):
    """As `_plain_forward`. Candidates are filled up to whole registers with ones of no weight."""
    count = hidden.shape[1]
    more = -count % LANES
    past, own = -step.swapaxes(0, 1), own.swapaxes(0, 1)
    if more:
        hidden = jnp.pad(hidden, ((0, 0), (0, more), (0, 0)))
        own = jnp.pad(own, ((0, 0), (0, 0), (0, more)), constant_values=NOWHERE)
        goal = jnp.pad(goal, ((0, 0), (0, more)))
    kl, by_hidden, by_step, by_own, by_outer = _call(hidden, past, own, outer, goal, interpret)
    by_step, by_own = by_step.swapaxes(0, 1), by_own.swapaxes(0, 1)
    slopes = by_hidden[:, :count], by_step, by_own[..., :count], by_outer[:, 0]
    return kl[:, 0, 0], slopes


def _call(
    hidden: Float[Array, "Q N D2"],
    past: Float[Array, "Q S D2"],
    own: Float[Array, "Q S N"],
    outer: Float[Array, " D2"],
    goal: Float[Array, "Q N"],
    interpret: bool,
) -> Sequence[Array]:
    """KL [Q, 1, LANES] and the slopes by hidden, step [Q, S, D2], own and outer [Q, 1, D2]."""
    q, n, d = hidden.shape
    s = past.shape[1]
    wide = pl.cdiv(s, LANES) * LANES

    def of_query(rows: int, columns: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, rows, columns), lambda i: (i, 0, 0))

    def like(rows: int, columns: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((q, rows, columns), jnp.float32)

    outs = [(1, LANES), (n, d), (s, d), (s, n), (1, d)]
    whole = pl.BlockSpec((1, d), lambda i: (0, 0))
    return pl.pallas_call(
        _levels_kernel,
        grid=(q,),
        in_specs=[of_query(n, d), of_query(s, d), of_query(s, n), whole, of_query(1, n)],
        out_specs=[of_query(*shape) for shape in outs],
        out_shape=[like(*shape) for shape in outs],
        scratch_shapes=[
            pltpu.VMEM((n, wide), jnp.float32),
            pltpu.VMEM((wide, n), jnp.float32),
            pltpu.VMEM((s, SUBLANES, d), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=_room(n, d, s)
        ),
        interpret=interpret,
        name="noise_levels",
    )(hidden, past, own, outer[None], goal[:, None])


def _room(n: int, d: int, s: int) -> int:
    """Bytes of vector memory: two of each block, as one comes or goes while the other is used."""
    d, wide = (pl.cdiv(x, LANES) * LANES for x in (d, s))
    numbers = 4 * n * d + 4 * wide * (n + d) + 2 * n * wide + wide * SUBLANES * d
    return max(16 * 2**20, 5 * numbers)


def _levels_kernel(
    hidden, past, own, outer, goal, kl, by_hidden, by_step, by_own, by_outer, columns, rows, parts
):
    """`columns` [N, S]: scores, then slopes of all levels; `rows` [S, N]: the same, turned;
    `parts` [S, SUBLANES, D2]: slopes by step, of every SUBLANES-th candidate."""
    s, mean = past.shape[0], 1 / past.shape[0]
    weight = outer[...] * mean
    _score(hidden, past, outer, columns)
    rows[...] = columns[...].T
    found, slope = _kl_of(rows[:s, :] + own[...], jnp.broadcast_to(goal[...], own.shape))
    kl[...] = jnp.full(kl.shape, found.sum() * mean)
    by_own[...] = slope * mean
    rows[:s, :] = slope
    columns[...] = rows[...].T
    through = _collect(hidden, past, columns, weight, by_hidden, parts)
    steps = parts[...].sum(1)
    through = through.sum(0, keepdims=True) - (steps * past[...]).sum(0, keepdims=True)
    by_outer[...] = through * mean
    by_step[...] = steps * weight


def _score(hidden, past, outer, scores):
    """scores[:, s] = max(hidden, past_s) outer."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, scores.shape[1]), 1)

    def block(i, _):
        at = pl.ds(i * SCORED, SCORED)
        numbers, weight = hidden[at, :], outer[...]

        def levels(first, count, found):
            for s in range(count):
                high = jnp.maximum(numbers, past[pl.ds(first + s, 1), :])
                one = (high * weight).sum(1, keepdims=True)
                found = jnp.where(lane == first + s, one, found)
            return found

        start = jnp.zeros((SCORED, scores.shape[1]), jnp.float32)
        scores[at, :] = _by_some(past.shape[0], levels, start)
        return 0

    jax.lax.fori_loop(0, hidden.shape[0] // SCORED, block, 0)


def _collect(hidden, past, slopes, weight, by_hidden, parts):
    """by_hidden[n] = weight * the sum of slopes[n, s] over s where hidden > past_s; parts[s] is the
    sum over n, [SUBLANES, D2]. The value is the sum over both times hidden, [SUBLANES, D2] too."""
    parts[...] = jnp.zeros_like(parts)
    wide = slopes.shape[1]
    zero = jnp.zeros((SUBLANES, hidden.shape[1]), jnp.float32)

    def block(i, through):
        places = [pl.ds(i * SUMMED + j, SUBLANES) for j in range(0, SUMMED, SUBLANES)]

        def levels(first, count, carry):
            sums, turned = carry
            for s in range(count):
                low, part, new = past[pl.ds(first + s, 1), :], parts[first + s], []
                for at, total, slope in zip(places, sums, turned, strict=True):
                    passed = jnp.where(hidden[at, :] > low, slope[:, s : s + 1], 0.0)
                    part += passed
                    new.append(total + passed)
                parts[first + s], sums = part, new
            # The next levels come to the front.
            return sums, [pltpu.roll(slope, wide - count, 1) for slope in turned]

        start = [zero for _ in places], [slopes[at, :] for at in places]
        sums, _ = _by_some(past.shape[0], levels, start)
        for at, total in zip(places, sums, strict=True):
            through += total * hidden[at, :]
            by_hidden[at, :] = total * weight
        return through

    return jax.lax.fori_loop(0, hidden.shape[0] // SUMMED, block, zero)


def _by_some(count, levels, carry):
    """`carry = levels(first, how many, carry)` for all of `count` levels, SOME at a time."""
    turns, rest = divmod(count, SOME)
    if turns:
        carry = jax.lax.fori_loop(0, turns, lambda i, c: levels(i * SOME, SOME, c), carry)
    return levels(turns * SOME, rest, carry) if rest else carry
