"""InfoNCE on matrices small enough to do by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from tmr_jax.models.losses import duplicate_mask, info_nce, sigmoid_pairs

NONE = jnp.zeros((2, 2), bool)


def test_hand_made_two_by_two():
    logits = jnp.array([[2.0, 0.0], [1.0, 3.0]])
    t2m = np.mean([np.log1p(np.exp(-2)), np.log1p(np.exp(-2))])
    m2t = np.mean([np.log1p(np.exp(-1)), np.log1p(np.exp(-3))])
    loss, parts = info_nce(logits, NONE)
    np.testing.assert_allclose(loss, (t2m + m2t) / 2, rtol=1e-6)
    np.testing.assert_allclose([parts["loss/t2m"], parts["loss/m2t"]], [t2m, m2t], rtol=1e-6)


def test_uniform_logits_cost_log_batch():
    loss, _ = info_nce(jnp.zeros((8, 8)), jnp.zeros((8, 8), bool))
    np.testing.assert_allclose(loss, np.log(8), rtol=1e-6)


def test_sign_a_better_score_costs_less():
    gradient = jax.grad(lambda z: info_nce(z, NONE)[0])(jnp.zeros((2, 2)))
    assert (jnp.diagonal(gradient) < 0).all() and gradient[0, 1] > 0 and gradient[1, 0] > 0


def test_duplicates_leave_both_denominators():
    logits = jnp.array([[1.0, 9.0, 0.0], [9.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    duplicate = duplicate_mask(jnp.array([0, 1, 2]), jnp.array([7, 7, 8]))
    loss, _ = info_nce(logits, duplicate)
    two, three = np.log1p(np.exp(-1)), np.log1p(2 * np.exp(-1))
    np.testing.assert_allclose(loss, (two + two + three) / 3, rtol=1e-6)
    gradient = jax.grad(lambda z: info_nce(z, duplicate)[0])(logits)
    assert float(jnp.abs(gradient[0, 1])) == 0.0


def test_same_pair_marks_texts_and_molecules_but_never_the_diagonal():
    got = duplicate_mask(jnp.array([5, 5, 6]), jnp.array([1, 2, 2]))
    expected = [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    np.testing.assert_array_equal(got, np.array(expected, bool))


def test_other_texts_of_a_molecule_describe_it_in_one_direction():
    described = jnp.array([[7, 8], [8, -1], [-1, -1]])
    got = duplicate_mask(jnp.array([8, 1, 7]), jnp.arange(3), described)
    expected = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
    np.testing.assert_array_equal(got, expected)
    both = duplicate_mask(jnp.array([8, 1, 7]), jnp.arange(3), described, mutual=True)
    np.testing.assert_array_equal(both, expected | expected.T)


def test_sigmoid_of_each_pair_by_hand():
    logits = jnp.array([[2.0, -1.0], [0.5, 3.0]])
    loss, parts = sigmoid_pairs(logits, NONE)
    right, wrong = np.log1p(np.exp([-2.0, -3.0])), np.log1p(np.exp([-1.0, 0.5]))
    np.testing.assert_allclose(loss, (right.sum() + wrong.sum()) / 2, rtol=1e-6)
    np.testing.assert_allclose(parts["loss/right"], right.sum() / 2, rtol=1e-6)
    assert float(parts["batch/t2m_hits@1"]) == 1.0


def test_sigmoid_pulls_duplicates_and_pushes_all_others():
    duplicate = jnp.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
    slope = jax.grad(lambda z: sigmoid_pairs(z, duplicate)[0])(jnp.zeros((3, 3)))
    right = duplicate | jnp.eye(3, dtype=bool)
    np.testing.assert_allclose(slope, np.where(right, -0.5, 0.5) / 3, rtol=1e-6)
