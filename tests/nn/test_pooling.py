import jax
import jax.numpy as jnp
import numpy as np

from tmr_jax.nn.pooling import Readout, masked_mean, segment_mean


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
