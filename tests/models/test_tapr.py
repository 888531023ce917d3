"""The perturbation of a molecule against an independent float64 form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import reference_difftmr as reference
from tmr_jax.models.difftmr import Tapr, best_of
from tmr_jax.models.layers.gcn import l2_normalize

SLOTS, D, T, F = 6, 4, 5, 7
MODES = ("off", "mean", "scalar", "matrix")


def drawn(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).normal(size=shape))


def parameters(mode):
    random = np.random.default_rng(3)
    fresh = Tapr(mode, SLOTS, D, -3.0).init(
        jax.random.key(0), jnp.zeros((1, T)), jnp.ones((1, T), bool)
    )
    return jax.tree.map(lambda p: jnp.float32(random.normal(size=p.shape)), fresh.get("params", {}))


def test_padding_beyond_the_slots_changes_nothing():
    """Evaluation pads words to a power of two, which max_tokens need not be."""
    cosines, mask = drawn(2, SLOTS), np.ones((2, SLOTS), bool)
    params = parameters("matrix")
    wide = np.pad(cosines, ((0, 0), (0, 2)), constant_values=9), np.pad(mask, ((0, 0), (0, 2)))
    module = Tapr("matrix", SLOTS, D, -3.0)
    got, padded = (module.apply({"params": params}, *x) for x in ((cosines, mask), wide))
    np.testing.assert_array_equal(got, padded)


@pytest.mark.parametrize("mode", MODES)
def test_radius_equals_the_reference(mode):
    words, mol = drawn(2, T, D), drawn(2, D, seed=1)
    mask = np.array([[True] * 5, [True, True, True, False, False]])
    params = parameters(mode)
    cosines = (l2_normalize(words) @ l2_normalize(mol)[:, :, None])[..., 0]
    got = Tapr(mode, SLOTS, D, -3.0).apply({"params": params}, cosines, mask)
    wide = {name: np.float64(value) for name, value in params.items()}
    for i in range(2):
        c = reference.coupling(np.float64(mol[i]), np.float64(words[i]), mask[i], SLOTS)
        wanted = reference.radius(c, mask[i], mode, wide, width=D)
        np.testing.assert_allclose(got[i], wanted, atol=1e-5)


def test_radius_starts_small_and_is_clipped():
    module = Tapr("matrix", SLOTS, D, -3.0)
    cosines, mask = jnp.ones((1, T)), jnp.ones((1, T), bool)
    params = module.init(jax.random.key(0), cosines, mask)["params"]
    np.testing.assert_allclose(params["kernel"], np.eye(SLOTS, D))
    np.testing.assert_allclose(module.apply({"params": params}, cosines, mask), np.exp(-2.0))
    large = jax.tree.map(lambda p: p + 100, params)
    np.testing.assert_allclose(module.apply({"params": large}, cosines, mask), np.exp(2.0))


def test_closed_form_finds_the_sample_that_is_drawn_best():
    text, mol, radius = drawn(3, 1, D), drawn(3, 6, D, seed=1), np.exp(drawn(3, 6, D, seed=2))
    noise = drawn(F, D, seed=4)
    score, sample = best_of(text, mol, radius, noise)
    for i in range(3):
        for j in range(6):
            t, g, p = (np.float64(a) for a in (text[i, 0], mol[i, j], radius[i, j]))
            wanted, f = reference.best_of(t, g, p, np.float64(noise))
            np.testing.assert_allclose(score[i, j], wanted, atol=1e-5)
            np.testing.assert_allclose(sample[i, j], g + p * noise[f], atol=1e-5)


def test_without_noise_the_score_is_the_cosine_and_zero_radius_too():
    text, mol = drawn(2, 1, D), drawn(2, 3, D, seed=1)
    wanted = (l2_normalize(text) * l2_normalize(mol)).sum(-1)
    none, _ = best_of(text, mol, np.ones((2, 3, D), np.float32), np.zeros((0, D), np.float32))
    zero, _ = best_of(text, mol, np.zeros((2, 3, D), np.float32), drawn(F, D))
    np.testing.assert_allclose(none, wanted, atol=1e-6)
    np.testing.assert_allclose(zero, wanted, atol=1e-6)
