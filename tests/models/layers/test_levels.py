"""All noise levels at once: the plain loop and the kernel against float64, slopes by JAX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmr_jax.config import HdanConfig
from tmr_jax.models import difftmr
from tmr_jax.models.layers import denoiser as diffusion
from tmr_jax.models.layers.levels import LANES, NOWHERE, SHARPNESS, levels_kl

pytestmark = pytest.mark.usefixtures("optimized")

# Queries, candidates, hidden numbers, levels: less than a register and a turn, odd ones, full ones.
SIZES = [(3, 5, 10, 4), (4, 130, 24, 23), (2, 200, 150, 50), (1, 128, 256, 10), (2, 9, 12, 131)]
FORMS = {"plain": {}, "kernel": {"kernel": True, "interpret": True}}


def drawn(q, n, d, s, seed=0):
    """hidden, step, own, outer, goal and the slope by each query's KL; the last candidates are
    padding, and query 0 has three positives."""
    random = np.random.default_rng(seed)
    arrays = [random.normal(size=shape) for shape in ((q, n, d), (s, q, d), (s, q, n), (d,))]
    spread = 0.3, 1.0, 0.03, 0.02
    hidden, step, own, outer = (np.float32(x * r) for x, r in zip(arrays, spread, strict=True))
    own[..., -2:] = NOWHERE
    goal = np.zeros((q, n), np.float32)
    goal[np.arange(q), np.arange(q) + 1] = 1
    goal[0, :3] = 1 / 3
    g = np.float32(random.normal(size=q))
    return hidden, step, own, outer, goal, g


def formula(hidden, step, own, outer, goal):
    """As it is printed, for every level, query and candidate at once."""
    p = jax.nn.relu(hidden[None] + step[:, :, None]) @ outer + own
    log_clean = jax.nn.log_softmax(SHARPNESS * p, -1)
    log_goal = jnp.log(jnp.where(goal > 0, goal, 1.0))
    return (goal[None] * (log_goal[None] - log_clean)).sum(-1).mean(0)


@partial(jax.jit, static_argnums=0)
def with_slopes(form, hidden, step, own, outer, goal, g):
    kl, pull = jax.vjp(lambda *x: levels_kl(*x, goal, **FORMS[form]), hidden, step, own, outer)
    return kl, *pull(g)


def exact(*arrays):
    with jax.enable_x64(True):
        *learned, goal, g = (jnp.asarray(np.float64(x)) for x in arrays)
        kl, pull = jax.vjp(lambda *x: formula(*x, goal), *learned)
        return [np.asarray(x) for x in (kl, *pull(g))]


@pytest.mark.slow("size1", "size2", "size3")
@pytest.mark.costly("size4")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_value_and_slopes_are_those_of_the_formula(form, size):
    arrays = drawn(*size)
    for found, wanted in zip(with_slopes(form, *arrays), exact(*arrays), strict=True):
        scale = max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("size", SIZES)
def test_the_kernel_is_the_loop(size):
    arrays = drawn(*size, seed=1)
    plain, kernel = (with_slopes(form, *arrays) for form in FORMS)
    for found, wanted in zip(kernel, plain, strict=True):
        scale = max(1.0, float(jnp.abs(wanted).max()))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("form", FORMS)
def test_padded_candidates_weigh_nothing(form):
    hidden, *rest = drawn(*SIZES[1])
    kl, by_hidden, by_step, by_own, by_outer = with_slopes(form, hidden, *rest)
    assert not np.any(by_hidden[:, -2:]) and not np.any(by_own[..., -2:])
    hidden = hidden.copy()
    hidden[:, -2:] = 1e3
    other = with_slopes(form, hidden, *rest)
    np.testing.assert_array_equal(other[0], kl)
    np.testing.assert_array_equal(other[2], by_step)
    # The slope by outer sums zeros times their numbers.
    np.testing.assert_allclose(other[4], by_outer, atol=1e-6 * float(jnp.abs(by_outer).max()))


def test_a_query_by_itself_is_what_it_is_among_others():
    hidden, step, own, outer, goal, g = drawn(*SIZES[1])
    whole = with_slopes("kernel", hidden, step, own, outer, goal, g)
    one = slice(2, 3)
    alone = with_slopes("kernel", hidden[one], step[:, one], own[:, one], outer, goal[one], g[one])
    for i, place in enumerate([one, one, (slice(None), one), (slice(None), one)]):
        np.testing.assert_array_equal(alone[i], whole[i][place])


@pytest.mark.costly
def test_a_large_step_costs_no_digits():
    """What the kernel leaves out, step itself, is many times what it scores."""
    hidden, step, own, outer, goal, g = drawn(2, 64, 40, 6)
    arrays = hidden, 30 * step, own, outer, goal, g
    wanted = exact(*arrays)
    for form in FORMS:
        for found, value in zip(with_slopes(form, *arrays), wanted, strict=True):
            scale = max(1.0, np.abs(value).max())
            np.testing.assert_allclose(found, value, rtol=0, atol=1e-4 * scale)


def test_the_kernel_lowers_for_tpu():
    hidden, step, own, outer, goal, _ = drawn(2, LANES + 2, 24, 50)

    def total(*x):
        return levels_kl(*x, goal, True).sum()

    traced = jax.jit(jax.grad(total, (0, 1, 2, 3))).trace(hidden, step, own, outer)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 1


@pytest.mark.slow
def test_difftmr_learns_the_same_by_either(monkeypatch):
    """One direction of its generator, two queries at a time."""
    from tests.models.test_difftmr import B, D, model

    m = model(HdanConfig(objective="all_steps", steps=12))
    key, random = jax.random.key(0), np.random.default_rng(0)
    query, candidates, local = (
        jnp.float32(random.normal(size=shape)) for shape in ((B, D), (1, B, D), (B, B))
    )
    weights = diffusion.Hdan(D).init_with_output(key)[0]

    def found(m):
        def total(weights, *arrays):
            return m._generate(weights, *arrays, jnp.eye(B), key)

        return jax.jit(jax.value_and_grad(total, (0, 1, 2, 3)))(weights, query, candidates, local)

    calls = []

    def interpreted(*arrays):
        *arrays, kernel = arrays
        calls.append(arrays[0].shape)
        return levels_kl(*arrays, kernel, kernel)

    value, slope = found(m)
    monkeypatch.setattr(diffusion, "levels_kl", interpreted)
    monkeypatch.setattr(difftmr, "LEVELS", 2 * B * 2 * D)
    other_value, other = found(m.clone(kernels=True))
    assert set(calls) == {(2, B, 2 * D)}
    np.testing.assert_allclose(other_value, value, rtol=1e-5)
    size = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(slope)))
    for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * size)
