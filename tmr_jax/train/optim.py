"""The optimizer of an experiment: groups of parameters by path, schedules, clipping.

skip if not finite( clip by the norm over all groups( Adam(W) of each group at its own rate ) )

The norm of all gradients decides both whether they are finite and how much they are clipped, so a
step reads them twice: once for the norm, once for the update. See docs/papers.md#optimiser.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from tmr_jax.config import OptimConfig

SHORT_RUN = 10  # warm-up takes at most one step in this many
TINY = 1e-30  # a norm of zero clips nothing


def build_optimizer(
    config: OptimConfig, total_steps: int, params: Any, groups: Mapping[str, str]
) -> optax.GradientTransformation:
    """Adam with a rate per group; AdamW where a weight decay is set.

    `groups`: the model's, from the name of a top-level parameter to its rate; others have
    `base_lr`.

    An update that is not finite leaves parameters and moments as they were and is counted in the
    state (see `skipped`).
    """
    rates: dict[str, optax.ScalarOrSchedule] = {
        "text": schedule(config, config.text_lr, total_steps),
        "base": schedule(config, config.base_lr, total_steps),
        "coupling": schedule(config, config.coupling_lr, total_steps),
        "denoiser": optax.cosine_decay_schedule(config.denoiser_lr, max(total_steps, 1)),
    }
    optimizers: dict[Hashable, optax.GradientTransformation] = {
        name: optax.adamw(rate, weight_decay=config.weight_decay, mask=_decays)
        if config.weight_decay
        else optax.adam(rate)
        for name, rate in rates.items()
    }
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: groups.get(_names(path)[0], "base"), params
    )
    return if_finite(optax.multi_transform(optimizers, labels), config.clip)


def build_adversary(config: OptimConfig) -> optax.GradientTransformation:
    """Adam at a constant rate, for the parameters of an adversary
    (docs/papers.md#adversarial-loss)."""
    return if_finite(optax.adam(config.critic_lr))


def if_finite(
    inner: optax.GradientTransformation, clip: float = 0.0
) -> optax.GradientTransformationExtraArgs:
    """`inner` on gradients clipped to the norm `clip` (0: not clipped), where they are finite.

    Otherwise nothing changes, and the state counts it. `update` takes `sound`, whether the loss is
    finite. `optax.apply_if_finite` does the same with a conditional, and XLA then needs two passes.
    """

    def init(params: Any) -> optax.ApplyIfFiniteState:
        # Separate arrays: a step donates the state, and no array can be donated twice.
        counts = [jnp.zeros((), jnp.int32) for _ in range(2)]
        return optax.ApplyIfFiniteState(counts[0], jnp.asarray(True), counts[1], inner.init(params))

    def update(
        updates: Any, state: Any, params: Any = None, *, sound: ArrayLike = True, **_: Any
    ) -> tuple[Any, optax.ApplyIfFiniteState]:
        norm = norm_of(updates)
        finite = jnp.isfinite(norm) & sound
        scale = jnp.minimum(1.0, clip / jnp.maximum(norm, TINY)) if clip else 1.0
        gradients = jax.tree.map(lambda g: jnp.where(finite, g * scale, 0), updates)
        updates, moved = inner.update(gradients, state.inner_state, params)

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(finite, new, old)

        updates = jax.tree.map(lambda u: jnp.where(finite, u, 0), updates)
        moved = jax.tree.map(chosen, moved, state.inner_state)
        missed = (~finite).astype(jnp.int32)
        in_a_row = (state.notfinite_count + 1) * missed
        total = state.total_notfinite + missed
        return updates, optax.ApplyIfFiniteState(in_a_row, finite, total, moved)

    return optax.GradientTransformationExtraArgs(init, update)


def norm_of(gradients: Any) -> Float[Array, ""]:
    """The norm of all gradients. optax renames its own between versions."""
    with jax.named_scope("global_norm"):
        return jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients)))


def schedule(config: OptimConfig, peak: float, total_steps: int) -> optax.Schedule:
    """The rate of the update after `count` updates.

    It rises linearly to `peak` at update `warmup`, then falls to zero at the last update. With
    `released` it is zero `warmup` updates earlier, as in the code released for this model family.
    """
    warmup = min(config.warmup, total_steps // SHORT_RUN)
    end = total_steps - warmup if config.schedule == "released" else total_steps

    def rate(count: ArrayLike) -> Array:
        update = jnp.asarray(count, jnp.float32) + 1
        done = jnp.clip((update - warmup) / max(end - warmup, 1), 0.0, 1.0)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * done)) if config.schedule == "cosine" else 1 - done
        return peak * jnp.minimum(update / max(warmup, 1), fall)

    return rate


def moving_average(average: Any, params: Any, decay: float, steps: Int[Array, ""]) -> Any:
    """The exponential moving average of parameters after one more step than `steps`.

    The decay is at most (1 + steps) / (10 + steps), so that the initial weights are forgotten soon.
    What does not change has an average of the same bits, which `optax.incremental_update` rounds.
    """
    share = 1 - jnp.minimum(decay, (1 + steps) / (10 + steps))
    return jax.tree.map(lambda old, new: old + share * (new - old), average, params)


def skipped(state: optax.OptState) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Updates skipped: in a row up to now, and in all."""
    assert isinstance(state, optax.ApplyIfFiniteState)
    return state.notfinite_count, state.total_notfinite


def _decays(params: Any) -> Any:
    """True for matrices of linear layers; biases, LayerNorms, scales and embeddings never decay."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _names(path)[-1] == "kernel", params)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(key.key) for key in path)
