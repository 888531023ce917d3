"""WGAN-GP with critics simple enough to do by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tmr_jax.models.losses import critic_loss, generator_loss, gradient_penalty
from tmr_jax.models.memory_bank import Critic

TEXT, MOL = jnp.array([[1.0, 0.0], [3.0, 0.0]]), jnp.array([[0.0, 4.0], [0.0, 2.0]])


def linear(*weight):
    return lambda rows: rows @ jnp.array(weight)


def test_a_linear_critic_of_unit_norm_pays_no_penalty():
    np.testing.assert_allclose(gradient_penalty(linear(0.6, 0.8), TEXT), 0.0, atol=1e-12)
    np.testing.assert_allclose(gradient_penalty(linear(3.0, 4.0), TEXT), 16.0, rtol=1e-6)


def test_a_critic_without_slope_has_a_finite_gradient():
    slope = jax.grad(lambda w: gradient_penalty(lambda rows: rows @ w, TEXT))(jnp.zeros(2))
    assert bool(jnp.isfinite(slope).all())


def test_texts_are_real_and_molecules_are_fake():
    """D(x) = 3 x0 + 4 x1: texts 3 and 9, molecules 16 and 8; the slope is 5 everywhere."""
    loss, parts = critic_loss(linear(3.0, 4.0), TEXT, MOL, jax.random.key(0))
    np.testing.assert_allclose(parts["critic/distance"], 6 - 12, rtol=1e-6)
    np.testing.assert_allclose(loss, -6 + 12 + 10 * 16, rtol=1e-6)
    np.testing.assert_allclose(generator_loss(linear(3.0, 4.0), MOL), -12, rtol=1e-6)


def test_the_penalty_is_taken_between_the_modalities():
    """D(x) = x0^2 / 2 slopes as x0: between 0 and 2 each row has a slope of its own share."""
    text, mol = jnp.full((4000, 1), 2.0), jnp.zeros((4000, 1))
    _, parts = critic_loss(lambda x: x[:, 0] ** 2 / 2, text, mol, jax.random.key(1))
    np.testing.assert_allclose(parts["critic/penalty"], 1 / 3, rtol=0.05)  # mean of (2a - 1)^2


@pytest.mark.costly
def test_its_steps_tell_the_modalities_apart_at_a_slope_near_one():
    """Clouds 2 apart: the Wasserstein distance that a critic of slope one can reach is 2."""
    cloud = 0.1 * jax.random.normal(jax.random.key(2), (32, 4))
    text, mol = cloud + 1, cloud - jnp.array([[1.0, -1.0, -1.0, -1.0]])
    model, optimizer = Critic(), optax.adam(1e-3)
    params = model.init(jax.random.key(0), text)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, key):
        def loss(p):
            return critic_loss(lambda rows: model.apply(p, rows), text, mol, key)

        (_, parts), slopes = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(slopes, state)
        return optax.apply_updates(params, updates), state, parts

    for i in range(200):
        params, state, parts = step(params, state, jax.random.key(i))
    np.testing.assert_allclose(parts["critic/distance"], 2.0, rtol=0.2)
    assert parts["critic/penalty"] < 0.05
