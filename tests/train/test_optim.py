"""Groups, schedules, clipping, weight decay and skipped updates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tmr_jax.config import OptimConfig
from tmr_jax.train.optim import (
    build_optimizer,
    if_finite,
    moving_average,
    norm_of,
    schedule,
    skipped,
)

PARAMS = {
    "text_encoder": {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
    "graph_encoder": {"atoms": {"embedding": jnp.ones((3, 2))}, "norm": {"scale": jnp.ones(2)}},
    "text_projection": {"kernel": jnp.ones((2, 2))},
    "log_scale": jnp.ones(()),
}

GROUPS = {"text_encoder": "text"}


def ones_like(tree):
    return jax.tree.map(jnp.ones_like, tree)


def rates(config, steps):
    return np.asarray(schedule(config, 1.0, steps)(jnp.arange(steps)))


def test_linear_rises_to_the_peak_and_reaches_zero_at_the_last_update():
    found = rates(OptimConfig(warmup=4), 40)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[4] == pytest.approx(35 / 36)
    assert found[-1] == 0
    assert found[-2] > 0
    assert (np.diff(found[3:]) < 0).all()


def test_a_short_run_warms_up_for_a_tenth_of_its_steps():
    assert rates(OptimConfig(warmup=1000), 40).argmax() == 3
    assert rates(OptimConfig(warmup=1000), 20_000).argmax() == 999
    assert rates(OptimConfig(warmup=0), 5)[0] == pytest.approx(0.8)
    assert rates(OptimConfig(warmup=1000), 1) == [0]


def test_cosine_is_half_way_down_in_the_middle_and_zero_at_the_end():
    found = rates(OptimConfig(warmup=10, schedule="cosine"), 110)
    assert found[59] == pytest.approx(0.5, abs=1e-6)
    assert found[-1] == pytest.approx(0, abs=1e-6)


def test_released_keeps_the_last_thousand_updates_at_zero():
    found = rates(OptimConfig(warmup=1000, schedule="released"), 12_000)
    assert (found[-1000:] == 0).all()
    assert found[10_998] > 0


def test_groups_move_at_their_own_rates():
    config = OptimConfig(text_lr=1e-3, base_lr=1e-2, warmup=0, clip=1e9)
    optimizer = build_optimizer(config, 10**6, PARAMS, GROUPS)
    updates, _ = optimizer.update(ones_like(PARAMS), optimizer.init(PARAMS), PARAMS)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        wanted = 1e-3 if path[0].key == "text_encoder" else 1e-2
        np.testing.assert_allclose(update, -wanted, rtol=1e-4)


@pytest.mark.parametrize("clip, norm", [(1.0, 1.0), (0.0, 5 * 19**0.5)])
def test_the_gradient_is_clipped_over_all_groups_together_or_not_at_all(clip, norm):
    config = OptimConfig(text_lr=1.0, base_lr=1.0, warmup=0, clip=clip)
    optimizer = build_optimizer(config, 10**6, PARAMS, GROUPS)
    gradients = jax.tree.map(lambda p: 5 * jnp.ones_like(p), PARAMS)
    _, state = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    seen = jax.tree.leaves(optax.tree_utils.tree_get_all_with_path(state, "mu"))
    squares = sum(float(jnp.sum((m / 0.1) ** 2)) for m in seen if isinstance(m, jax.Array))
    assert squares == pytest.approx(norm**2, rel=1e-5)


def test_only_matrices_of_linear_layers_decay():
    config = OptimConfig(text_lr=0.1, base_lr=0.1, warmup=0, weight_decay=0.5)
    optimizer = build_optimizer(config, 10**6, PARAMS, GROUPS)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zero, optimizer.init(PARAMS), PARAMS)
    moved = {path[-1].key for path, u in jax.tree_util.tree_leaves_with_path(updates) if u.any()}
    assert moved == {"kernel"}


def test_an_update_that_is_not_finite_changes_nothing_and_is_counted():
    optimizer = build_optimizer(OptimConfig(warmup=0), 100, PARAMS, GROUPS)
    _, before = optimizer.update(ones_like(PARAMS), optimizer.init(PARAMS), PARAMS)
    bad = ones_like(PARAMS)
    bad["log_scale"] = jnp.asarray(jnp.nan)
    state = before
    for count in (1, 2, 3, 4, 5):
        updates, state = optimizer.update(bad, state, PARAMS)
        assert not any(u.any() for u in jax.tree.leaves(updates))
        assert tuple(map(int, skipped(state))) == (count, count)
    for old, new in zip(
        jax.tree.leaves(before.inner_state), jax.tree.leaves(state.inner_state), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    _, state = optimizer.update(ones_like(PARAMS), state, PARAMS)
    assert tuple(map(int, skipped(state))) == (0, 5)


def random_like(tree, seed, scale=1.0):
    leaves, shape = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(shape, drawn)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 10.0, 0.0])
def test_gradients_are_clipped_as_optax_clips_them(scale):
    """Below the bound, about it, above it, and where there is nothing to clip."""
    gradients = random_like(PARAMS, 1, scale)
    ours = if_finite(optax.identity(), 0.5)
    theirs = optax.clip_by_global_norm(0.5)
    found, _ = ours.update(gradients, ours.init(PARAMS), PARAMS)
    wanted, _ = theirs.update(gradients, theirs.init(PARAMS), PARAMS)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=0)
    flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(gradients)])
    assert float(norm_of(gradients)) == pytest.approx(np.linalg.norm(flat), rel=1e-6)


def test_what_is_finite_moves_as_without_the_guard():
    inner = optax.adam(0.1)
    guarded = if_finite(inner)
    plain, state = inner.init(PARAMS), guarded.init(PARAMS)
    for seed in range(3):
        gradients = random_like(PARAMS, seed)
        wanted, plain = inner.update(gradients, plain, PARAMS)
        found, state = guarded.update(gradients, state, PARAMS)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found, wanted)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), state.inner_state, plain)


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize(
    ("value", "sound"), [(np.nan, True), (np.inf, True), (-np.inf, True), (1.0, False)]
)
def test_what_is_not_sound_moves_nothing_and_is_counted(value, sound, clip):
    """A gradient that is not finite in one number, and a loss that is none with finite ones."""
    optimizer = if_finite(optax.adam(0.1), clip)
    update = jax.jit(optimizer.update)
    _, before = update(ones_like(PARAMS), optimizer.init(PARAMS), PARAMS, sound=True)
    assert bool(before.last_finite) and tuple(map(int, skipped(before))) == (0, 0)
    bad = ones_like(PARAMS)
    bad["text_encoder"]["dense"]["kernel"] = jnp.ones((2, 2)).at[1, 0].set(value)
    state = before
    for count in (1, 2):
        updates, state = update(bad, state, PARAMS, sound=jnp.asarray(sound))
        assert all((np.asarray(u) == 0).all() for u in jax.tree.leaves(updates))
        assert tuple(map(int, skipped(state))) == (count, count) and not bool(state.last_finite)
    jax.tree.map(np.testing.assert_array_equal, state.inner_state, before.inner_state)
    updates, state = update(ones_like(PARAMS), state, PARAMS, sound=jnp.asarray(True))
    assert any(u.any() for u in jax.tree.leaves(updates))
    assert tuple(map(int, skipped(state))) == (0, 2)


def test_a_state_shares_no_memory_with_itself():
    """A step that takes it over would refuse an array that is there twice."""
    state = build_optimizer(OptimConfig(), 10, PARAMS, GROUPS).init(PARAMS)
    jax.jit(lambda s: jax.tree.map(lambda x: x, s), donate_argnums=0)(state)


def test_an_average_forgets_its_start_and_then_decays_slowly():
    """Decays 1/10, 2/11 and, after many steps, the one that is asked for."""
    average, still = {"moves": jnp.float32(1), "stays": jnp.float32(0.1)}, jnp.float32(0.1)
    for steps, value, wanted in ((0, 2, 1.9), (1, 3, 2.8), (99_999, 4, 2.8 * 0.9 + 0.4)):
        params = {"moves": jnp.float32(value), "stays": still}
        average = moving_average(average, params, 0.9, jnp.int32(steps))
        assert float(average["moves"]) == pytest.approx(wanted)
    assert average["stays"] == still  # to the bit
