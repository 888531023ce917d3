"""The batch-hard triplet loss against a loop over anchors (Memory Bank, arXiv 2410.23715)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.losses import plain
from tmr_jax.models.losses import batch_hard_triplet


def embeddings(seed, rows=6, dim=4):
    found = np.random.default_rng(seed).normal(size=(2, rows, dim))
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def brute_force(text, mol, duplicate):
    rows = len(text)
    items = [(i, text[i]) for i in range(rows)] + [(i, mol[i]) for i in range(rows)]
    total = 0.0
    for a, (pair, anchor) in enumerate(items):
        positive = items[a + rows if a < rows else a - rows][1]
        negatives = [x for p, x in items if p != pair and not duplicate[pair, p]]
        if negatives:
            nearest = min(np.linalg.norm(anchor - x) for x in negatives)
            total += max(0.0, np.linalg.norm(anchor - positive) - nearest + 0.3)
    return total / len(items)


def test_equals_brute_force():
    for seed in range(5):
        text, mol = embeddings(seed)
        duplicate = np.zeros((6, 6), bool)
        duplicate[0, 1] = duplicate[1, 0] = duplicate[4, 2] = duplicate[2, 4] = True
        for held in (np.zeros((6, 6), bool), duplicate):
            got, _ = batch_hard_triplet(jnp.asarray(text), jnp.asarray(mol), jnp.asarray(held))
            np.testing.assert_allclose(got, brute_force(text, mol, held), rtol=1e-5)


def test_far_negatives_cost_nothing_and_the_margin_is_a_third():
    """Positives at distance 0, negatives at 2 and, of the second pair, at 0.2: by hand."""
    rows = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    none = jnp.zeros((2, 2), bool)
    loss, parts = batch_hard_triplet(rows, rows, none)
    assert float(loss) == 0.0 and float(parts["batch/triplet_active"]) == 0.0
    near = jnp.array([[1.0, 0.0], [0.8, 0.0]])
    loss, parts = batch_hard_triplet(near, near, none)
    np.testing.assert_allclose(loss, 0.3 - 0.2, rtol=1e-4)
    assert float(parts["batch/triplet_active"]) == 1.0


def test_a_batch_of_nothing_but_duplicates_costs_nothing_and_moves_nothing():
    text, mol = (jnp.asarray(x, jnp.float32) for x in embeddings(0, rows=3))
    everyone = ~jnp.eye(3, dtype=bool)
    loss, slope = jax.value_and_grad(lambda t: batch_hard_triplet(t, mol, everyone)[0])(text)
    assert float(loss) == 0.0
    np.testing.assert_array_equal(slope, np.zeros_like(text))


def test_gradients_are_finite_where_rows_coincide():
    rows = jnp.ones((4, 3)) / jnp.sqrt(3)
    slope = jax.grad(lambda t: batch_hard_triplet(t, rows, jnp.zeros((4, 4), bool))[0])(rows)
    assert bool(jnp.isfinite(slope).all())


@pytest.mark.costly
@pytest.mark.parametrize("block", [2**24, 2 * 48 * 6], ids=["whole", "blocks"])
def test_slopes_are_those_of_autodiff_in_float64(block, monkeypatch):
    """Duplicates, near duplicates and nearest negatives that are equal, whose slope is shared."""
    monkeypatch.setattr("tmr_jax.models.losses.BLOCK", block)
    text, mol = plain.repeated()
    duplicate = np.zeros((24, 24), bool)
    duplicate[0, 1] = duplicate[1, 0] = True
    text[9] = text[12] = mol[9]  # texts of other pairs, at the same place
    text[13] = mol[13] + 0.2 * (mol[9] - mol[13])
    plain.same_slopes(
        lambda t, m: batch_hard_triplet(t, m, duplicate)[0],
        lambda t, m: plain.triplet(t, m, duplicate),
        (text, mol),
    )


@pytest.mark.costly
def test_a_tie_is_shared_evenly():
    """Two negatives at the same distance on either side of an anchor: by the plain formula."""
    text = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], np.float32)
    mol = text + np.array([0.0, 0.8], np.float32)
    duplicate = np.zeros((3, 3), bool)
    got = jax.grad(lambda t: batch_hard_triplet(t, jnp.asarray(mol), duplicate)[0])(text)
    np.testing.assert_allclose(got[0, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(got[1], [-got[2, 0], got[2, 1]], atol=1e-6)
    plain.same_slopes(
        lambda t, m: batch_hard_triplet(t, m, duplicate)[0],
        lambda t, m: plain.triplet(t, m, duplicate),
        (text, mol),
    )


def test_a_batch_of_4096_takes_less_than_a_gigabyte():
    """Its slope took 76 GiB with all differences at once."""
    everyone = jnp.arange(4096)

    def loss(text, mol):
        return batch_hard_triplet(text, mol, everyone[:, None] == everyone[None])[0]

    assert 0 < plain.temporaries(loss, (4096, 300), (4096, 300)) < 2**30
