"""KL at all noise levels, with its gradient, in one pass (docs/papers.md#all-noise-levels).

Of a level only sums outlive it. `plain` loops over levels and lets XLA do the rest. `kernel` is a
Pallas kernel for TPU, one query at a time: XLA goes over a query's numbers [N, D2] several times a
level and sums them across lanes each time.

With past = -step, relu(hidden + step) = max(hidden, past) - past, and what past adds is the same
for all candidates of a query: the softmax over them does not see it. So a level costs the kernel
seven operations for each number of `hidden`: three for the scores (max, times outer, sum), four for
the slopes (whether hidden > past, select, two sums).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from tmr_jax.models.layers.attention import LANES

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
        return total + _kl_of(_scores(hidden, *inputs, outer), goal)[0], None

    total, _ = jax.lax.scan(level, jnp.zeros(len(goal)), (step, own))
    return total / len(step)


def _scores(hidden: Array, step: Array, own: Array, outer: Array) -> Array:
    active = nn.relu(hidden + step[:, None, :])
    return (active * outer[None, None]).sum(-1) + own


def _kl_of(p: Array, goal: Array) -> tuple[Array, Array]:
    """KL of each row, and its slope by p."""
    log_clean = jax.nn.log_softmax(SHARPNESS * p, -1)
    known = jnp.where(goal > 0, goal, 1.0)  # 0 log 0 = 0
    kl = (goal * (jnp.log(known) - log_clean)).sum(-1)
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
        return (total + kl, sums + passed), (passed.sum(1), slope)

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
