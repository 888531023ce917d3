import jax.numpy as jnp
import numpy as np

from tmr_jax.nn.pooling import masked_mean, segment_mean


def test_masked_mean_ignores_padding():
    x = jnp.array([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = jnp.array([[True, True, False], [True, True, True]])
    np.testing.assert_allclose(masked_mean(x, mask), [[2.0], [7.0]])


def test_segment_mean_gives_zero_for_an_empty_segment():
    x = jnp.array([[2.0], [4.0], [9.0]])
    got = segment_mean(x, jnp.array([0, 0, 2]), 4)
    np.testing.assert_allclose(got, [[3.0], [0.0], [9.0], [0.0]])
