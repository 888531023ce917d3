"""Second-order losses against loops, and what must be zero (Memory Bank, arXiv 2410.23715)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.losses import plain
from tmr_jax.models.losses import second_order_losses

KERNELS = ("euclid_pos", "euclid_neg", "cos")
TEMPERATURES = {"temperature_u2u": 0.5, "temperature_u2c": 2.0}


def embeddings(seed=0, rows=7, dim=5):
    found = np.random.default_rng(seed).normal(size=(2, rows, dim))
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def near(a, b, kernel):
    if kernel == "cos":
        return (1 + a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) / 2
    distance = max(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)), 1e-12) ** 0.5
    return distance if kernel == "euclid_pos" else -distance


def distribution(row, others, kernel, temperature):
    mass = [np.exp(near(row, other, kernel) / temperature) for other in others]
    return [m / sum(mass) for m in mass]


def divergence(rows, target, model, kernel, temperature):
    """Mean over i of KL(p || q), p of (a_i, all of b), q of (c_i, all of d), loop by loop."""
    (a, b), (c, d) = target, model
    total = 0.0
    for i in range(rows):
        p = distribution(a[i], b, kernel, temperature)
        q = distribution(c[i], d, kernel, temperature)
        total += sum(x * np.log(x / y) for x, y in zip(p, q, strict=True))
    return total / rows


def by_loops(text, mol, kernel, temperature_u2u, temperature_u2c):
    tt, mm, tm, mt = (text, text), (mol, mol), (text, mol), (mol, text)
    n = len(text)
    u2u = divergence(n, mm, tt, kernel, temperature_u2u)
    u2u += divergence(n, tt, mm, kernel, temperature_u2u)
    u2c = divergence(n, mm, tm, kernel, temperature_u2c)
    return u2u, u2c + divergence(n, tt, mt, kernel, temperature_u2c)


def losses(text, mol, kernel="euclid_pos"):
    arrays = jnp.asarray(text, jnp.float32), jnp.asarray(mol, jnp.float32)
    return second_order_losses(*arrays, kernel=kernel, **TEMPERATURES)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_an_independent_loop(kernel, seed):
    text, mol = embeddings(seed)
    expected = by_loops(text, mol, kernel, **TEMPERATURES)
    np.testing.assert_allclose(losses(text, mol, kernel), expected, atol=1e-5)
    assert min(expected) > 1e-3  # there is something to be equal to


@pytest.mark.parametrize("kernel", KERNELS)
def test_identical_modalities_cost_nothing(kernel):
    text, _ = embeddings()
    np.testing.assert_allclose(losses(text, text, kernel), [0.0, 0.0], atol=1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_u2u_is_symmetric_and_u2c_is_not_its_double(kernel):
    text, mol = embeddings()
    (one, _), (other, _) = losses(text, mol, kernel), losses(mol, text, kernel)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert abs(losses(text, mol, kernel)[1] - one) > 1e-3


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("side", [0, 1], ids=["text", "mol"])
def test_no_gradient_into_the_unimodal_targets(kernel, side):
    """u2c moves an embedding through the cross-modal rows alone: its slope is that of the loss
    whose targets are constants."""
    fixed = [jnp.asarray(x, jnp.float32) for x in embeddings()]

    def with_constants(moving):
        text, mol = (moving if i == side else x for i, x in enumerate(fixed))

        def rows(a, b):
            squares = ((a[:, None] - b[None]) ** 2).sum(-1)
            distance = jnp.sqrt(jnp.maximum(squares, 1e-12))
            lengths = jnp.linalg.norm(a, axis=1)[:, None] * jnp.linalg.norm(b, axis=1)[None]
            cosine = (1 + a @ b.T / lengths) / 2
            kind = {"euclid_pos": distance, "euclid_neg": -distance, "cos": cosine}[kernel]
            return jax.nn.softmax(kind / TEMPERATURES["temperature_u2c"], axis=1)

        p_tt, p_mm = rows(fixed[0], fixed[0]), rows(fixed[1], fixed[1])  # not of what moves
        p_tm, p_mt = rows(text, mol), rows(mol, text)
        first = (p_mm * jnp.log(p_mm / p_tm)).sum(1).mean()
        return first + (p_tt * jnp.log(p_tt / p_mt)).sum(1).mean()

    def with_targets(moving):
        text, mol = (moving if i == side else x for i, x in enumerate(fixed))
        return losses(text, mol, kernel)[1]

    got = jax.grad(with_targets)(fixed[side])
    np.testing.assert_allclose(got, jax.grad(with_constants)(fixed[side]), atol=2e-6)
    assert float(jnp.abs(got).max()) > 1e-4


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_finite_where_rows_repeat(kernel):
    text, mol = embeddings()
    text[1] = text[0]
    mol[3] = mol[2] = text[2]
    for which in (0, 1):
        slopes = jax.grad(lambda t, m, w=which: losses(t, m, kernel)[w], (0, 1))(
            jnp.asarray(text, jnp.float32), jnp.asarray(mol, jnp.float32)
        )
        assert all(bool(jnp.isfinite(s).all()) for s in slopes)


def test_euclid_pos_gives_the_far_item_more_mass():
    """As released: with the plus sign the loss looks at far items; by hand for two pairs."""
    text, mol = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [-1.0, 0.0]])
    near_self, far_text, far_mol = np.exp(0), np.exp(2**0.5 / 0.5), np.exp(2 / 0.5)
    p = np.array([near_self, far_text]) / (near_self + far_text)
    q = np.array([near_self, far_mol]) / (near_self + far_mol)
    u2u = (p * np.log(p / q)).sum() + (q * np.log(q / p)).sum()
    np.testing.assert_allclose(losses(text, mol)[0], u2u, rtol=1e-4)


@pytest.mark.parametrize("block", [2**24, 5 * 24 * 300], ids=["whole", "blocks"])
@pytest.mark.parametrize("which", [0, 1], ids=["u2u", "u2c"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_slopes_are_those_of_autodiff_in_float64(kernel, which, block, monkeypatch):
    """Duplicates and near duplicates included."""
    monkeypatch.setattr("tmr_jax.models.losses.BLOCK", block)
    plain.same_slopes(
        lambda t, m: second_order_losses(t, m, kernel=kernel, **TEMPERATURES)[which],
        lambda t, m: plain.second_order(t, m, kernel, **TEMPERATURES)[which],
        plain.repeated(),
    )


@pytest.mark.parametrize("kernel", ["euclid_pos", "cos"])
def test_a_batch_of_4096_takes_less_than_a_gigabyte(kernel):
    """Its slope took 76 GiB with all differences at once."""

    def loss(text, mol):
        return sum(second_order_losses(text, mol, kernel=kernel, **TEMPERATURES))

    assert 0 < plain.temporaries(loss, (4096, 300), (4096, 300)) < 2**30


def test_products_of_cosines_are_whole_float32():
    """On a TPU a product of float32 is one pass in bfloat16 unless it says otherwise."""
    text, mol = (jnp.asarray(x, jnp.float32) for x in embeddings())
    lowered = jax.jit(jax.grad(lambda t: losses(t, mol, "cos")[0])).lower(text).as_text()
    products = [line for line in lowered.splitlines() if "stablehlo.dot_general" in line]
    assert products and all("precision = [HIGHEST, HIGHEST]" in line for line in products)
