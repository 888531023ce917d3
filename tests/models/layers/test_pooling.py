import jax
import jax.numpy as jnp
import numpy as np

from tmr_jax.models.layers.pooling import Readout, l2_normalize, masked_mean, segment_mean


def test_masked_mean_ignores_padding():
    x = jnp.array([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = jnp.array([[True, True, False], [True, True, True]])
    np.testing.assert_allclose(masked_mean(x, mask), [[2.0], [7.0]])


def test_segment_mean_gives_zero_for_an_empty_segment():
    x = jnp.array([[2.0], [4.0], [9.0]])
    got = segment_mean(x, jnp.array([0, 0, 2]), 4)
    np.testing.assert_allclose(got, [[3.0], [0.0], [9.0], [0.0]])


def test_readout_tells_two_equal_atoms_from_one_and_reads_an_empty_segment_as_zeros():
    x = jnp.array([[2.0, -1.0], [2.0, -1.0], [2.0, -1.0]])
    segment = jnp.array([0, 0, 1])
    model = Readout()
    variables = model.init(jax.random.key(0), x, segment, 3)
    two, one, none = model.apply(variables, x, segment, 3)
    np.testing.assert_allclose(segment_mean(x, segment, 2)[0], segment_mean(x, segment, 2)[1])
    assert float(jnp.abs(two - one).max()) > 1e-3
    np.testing.assert_allclose(none, [0.0, 0.0])  # its biases are zero at the start


def test_rows_of_length_one_have_a_gradient_at_zero_too():
    """A padded token may be all zeros; its cosines are masked afterwards."""
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    slope = jax.grad(
        lambda x: jnp.where(jnp.array([True, False]), l2_normalize(x)[:, 0], 0.0).sum()
    )(x)
    # d (x / |x|) / dx = (1 - x x' / |x|^2) / |x|
    np.testing.assert_allclose(slope, [[0.128, -0.096], [0.0, 0.0]], atol=1e-6)
