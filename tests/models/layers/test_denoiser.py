"""The denoiser and its sampler against an independent float64 form, and what they may not see."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import reference_difftmr as reference
from tmr_jax.config import HdanConfig
from tmr_jax.models import difftmr
from tmr_jax.models.layers import denoiser as diffusion
from tmr_jax.models.layers.denoiser import (
    LANES,
    NOWHERE,
    SHARPNESS,
    Form,
    Hdan,
    HdanWeights,
    alpha_bar,
    at_time,
    denoise,
    levels_kl,
    log_clean,
    prepare,
    sample,
    time_features,
    visited,
)

B, N, D, T = 3, 5, 8, 50
NAMES = {
    **{"query": "Wq", "key": "Wk", "value": "Wv", "out": "Wo", "out_bias": "bo"},
    **{"time_in": "T1", "time_in_bias": "t1", "time_out": "T2", "time_out_bias": "t2"},
    **{"depth": "a", "depth_bias": "b", "lift": "wl", "lift_bias": "bl"},
    **{"inner": "W1", "inner_bias": "b1", "outer": "W2", "outer_bias": "b2"},
}


def weights(seed: int = 0, spread: float = 0.3) -> HdanWeights:
    """All parameters random, biases too: a zero would hide a missing one."""
    fresh = Hdan(D).init_with_output(jax.random.key(0))[0]
    random = np.random.default_rng(seed)
    return HdanWeights(*(jnp.float32(random.normal(0, spread, p.shape)) for p in fresh))


def for_reference(w: HdanWeights) -> dict[str, np.ndarray]:
    """The same numbers under the reference's names and shapes."""
    found = {NAMES[name]: np.float64(value) for name, value in w._asdict().items()}
    return found | {"W2": found["W2"][:, None], "b2": found["b2"][None]}


def inputs(seed: int = 1):
    random = np.random.default_rng(seed)
    mask = np.ones((B, N), bool)
    mask[1, 3:] = False  # two candidates are padding
    return (
        np.float32(random.normal(size=(B, D))),
        np.float32(random.normal(size=(B, N, D))),
        np.float32(random.normal(size=(B, N))),
        np.float32(random.normal(size=(B, N))),
        mask,
    )


@pytest.mark.parametrize("form", [Form(), Form(gamma=0.0), Form(gamma=1.0)])
def test_denoiser_equals_the_float64_reference(form):
    w, (q, u, r, x, mask) = weights(), inputs()
    k = np.array([1, 17, 50])
    pairs = prepare(w, q, u, r, jnp.asarray(mask), form)
    got = denoise(w, pairs, at_time(w, pairs, jnp.asarray(k), form), jnp.asarray(x), form)
    p, x0 = reference.hdan(
        for_reference(w), *(np.float64(a) for a in (q, u, r, x)), k, mask,
        gamma=form.gamma,
    )  # fmt: skip
    np.testing.assert_allclose(np.asarray(got)[mask], p[mask], atol=1e-5)
    np.testing.assert_allclose(clean(got, jnp.asarray(mask)), x0, atol=1e-3)
    exact = denoise64(w, (q, u, r, x, mask), k, form)
    np.testing.assert_allclose(exact, x0, atol=1e-9)


def test_a_posterior_start_is_the_softmax_of_the_logits():
    """With a silent decoder X0_hat is the attention itself; the decoder's part is as ever."""
    w, (q, u, r, x, mask) = weights(spread=0.1), inputs()
    k = jnp.array([1, 17, 50])
    pairs = prepare(w, q, u, r, jnp.asarray(mask), Form())
    times = at_time(w, pairs, k, Form())
    logits = np.where(mask, np.float64(pairs.attention + times.attention), -np.inf)
    attention = np.exp(logits - logits.max(1, keepdims=True))
    attention /= attention.sum(1, keepdims=True)
    silent = w._replace(outer=jnp.zeros_like(w.outer), outer_bias=jnp.zeros(()))
    form = Form(posterior=True)
    p = denoise(silent, pairs, times, jnp.asarray(x), form)
    np.testing.assert_allclose(clean(p, jnp.asarray(mask)), attention, atol=1e-5)
    heard = [[denoise(one, pairs, times, x, f) for one in (w, silent)] for f in (Form(), form)]
    as_ever, here = (np.asarray(full - own)[mask] for full, own in heard)
    np.testing.assert_allclose(here, as_ever, atol=1e-5)


def denoise64(w, arrays, k, form):
    """X0_hat in float64: the hundredfold softmax would show float32 rounding, not mistakes."""
    with jax.enable_x64(True):
        wide = HdanWeights(*(jnp.asarray(np.float64(a)) for a in w))
        q, u, r, x = (jnp.asarray(np.float64(a)) for a in arrays[:4])
        mask = jnp.asarray(arrays[4])
        pairs = prepare(wide, q, u, r, mask, form)
        p = denoise(wide, pairs, at_time(wide, pairs, jnp.asarray(k), form), x, form)
        return np.asarray(clean(p, mask))


def clean(p, mask):
    return jnp.exp(log_clean(p, mask))


@pytest.mark.parametrize("samples", [1, 5, 50])
def test_sampler_equals_the_plain_form(samples):
    # The spread of trained weights; at 0.3 a softmax of 100 p is a coin toss of rounding.
    w, (q, u, r, noise, mask) = weights(spread=0.05), inputs()

    def predict(x, k):
        _, x0 = reference.hdan(
            for_reference(w), *(np.float64(a) for a in (q, u, r)), x, np.full(B, k), mask,
            gamma=form.gamma,
        )  # fmt: skip
        return x0

    form = Form()
    wanted = reference.ddim(predict, np.float64(noise), T, samples)
    pairs = prepare(w, q, u, r, jnp.asarray(mask), form)
    trace, _ = jax.jit(lambda x: sample(w, pairs, x, form, samples))(jnp.asarray(noise))
    assert trace.shape == (len(visited(T, samples)), B, N)
    np.testing.assert_allclose(trace[-1], wanted, atol=1e-5)


def test_schedule_has_the_values_of_the_paper_of_it():
    levels = alpha_bar(50)
    assert levels[0] == 1 and levels[1] == pytest.approx(0.99825, abs=1e-5)
    assert levels[50] == pytest.approx(9.7e-7, rel=0.01)
    np.testing.assert_allclose(levels, reference.alpha_bar(50), rtol=1e-12)


def test_visited_steps_start_at_the_last_and_end_at_the_first():
    assert visited(50, 1) == (50,)
    assert visited(50, 2) == (50, 1)
    assert visited(50, 50) == tuple(range(50, 0, -1))
    assert visited(50, 5) == reference_visited(50, 5) and len(visited(50, 10)) == 10
    with pytest.raises(ValueError, match="expected 1 to 50 sampling steps"):
        visited(50, 51)


def reference_visited(steps, samples):
    return tuple(int(k) for k in reference.visited(steps, samples))


def test_time_features_are_those_of_the_reference():
    got = time_features(jnp.array([1, 25]), D)
    np.testing.assert_allclose(got[0], reference.time_features(1, D), atol=1e-6)
    np.testing.assert_allclose(got[1], reference.time_features(25, D), atol=1e-6)


def test_permuted_candidates_have_permuted_states():
    w, (q, u, r, noise, _) = weights(spread=0.05), inputs()
    order = np.array([3, 0, 4, 2, 1])
    real, form = jnp.ones((1, N), bool), Form()

    def run(u, r, x):
        return np.asarray(sample(w, prepare(w, q, u, r, real, form), x, form, 50)[0])

    a, b = run(u, r, noise), run(u[:, order], r[:, order], noise[:, order])
    np.testing.assert_allclose(a[:, :, order], b, atol=1e-5)


def test_padded_candidates_change_nothing():
    w, (q, u, r, noise, mask) = weights(spread=0.05), inputs()
    form = Form()

    def run(u, r, x, mask):
        pairs = prepare(w, q, u, r, jnp.asarray(mask), form)
        return np.asarray(sample(w, pairs, jnp.asarray(x), form, 10)[0][-1])

    poisoned = [np.where(mask[..., None], u, 50), np.where(mask, r, -9), np.where(mask, noise, 7)]
    a, b = run(u, r, noise, mask), run(*poisoned, mask)
    np.testing.assert_allclose(a[mask], b[mask], atol=1e-6)
    assert (b[~mask] == 0).all()


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


@pytest.mark.costly("size2", "size4", "size3")
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


@pytest.mark.costly
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
