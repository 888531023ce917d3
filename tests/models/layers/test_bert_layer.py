"""The layers of BERT as a TPU runs them are those of `layer`; kernels are interpreted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmr_jax.models.layers.attention import Segments
from tmr_jax.models.layers.bert import Bert, BertConfig

CONFIG = BertConfig(40, 128, 2, 4, 48, max_positions=32, pooler=False, dropout=0.2)
ROWS, T = 3, 24


def drawn() -> tuple[dict, jax.Array, Segments]:
    """Parameters without any zero, tokens, and rows of three texts each, one place unread."""
    random = np.random.default_rng(0)
    tokens = jnp.asarray(random.integers(0, 40, (ROWS, T)))
    text = np.repeat(np.arange(3), [5, 12, 7])[None].repeat(ROWS, 0).astype(np.int32)
    key = text.copy()
    key[1, 8] = -1
    segments = Segments(jnp.asarray(text), jnp.asarray(key))
    params = Bert(CONFIG).init(jax.random.key(0), tokens, segments)
    noise = jax.tree.map(lambda p: 0.05 * random.normal(size=p.shape).astype(np.float32), params)
    return jax.tree.map(jnp.add, params, noise), tokens, segments


def fused(gelu="exact", dtype=jnp.float32):
    return Bert(CONFIG, dtype, "low_memory", "flash", gelu, interpret=True)


def value_and_slope(model, params, tokens, segments, drops):
    weight = jax.random.normal(jax.random.key(4), (*tokens.shape, CONFIG.hidden))

    def total(params):
        out = model.apply(
            params, tokens, segments, deterministic=not drops, rngs={"dropout": jax.random.key(5)}
        )
        return (out.astype(jnp.float32) * weight).sum(), out

    (_, out), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    return out, slope


@pytest.mark.slow("tanh")
@pytest.mark.costly
@pytest.mark.parametrize(("gelu", "drops"), [("exact", True), ("tanh", False)])
def test_states_and_gradients_are_those_of_autodiff(gelu, drops):
    given = drawn()
    out, slope = value_and_slope(fused(gelu), *given, drops)
    plain = Bert(CONFIG, gelu=gelu)
    wanted, slopes = value_and_slope(plain, *given, drops)
    np.testing.assert_allclose(out, wanted, atol=5e-6)
    # A key's bias has no slope but rounding's: all are measured against the largest of their kind.
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slopes))
    pairs = zip(jax.tree.leaves(slope), jax.tree.leaves(slopes), strict=True)
    for one, other in pairs:
        scale = max(float(jnp.abs(other).max()), 1e-3 * size)
        np.testing.assert_allclose(one, other, atol=5e-6 * scale, rtol=0)


@pytest.mark.slow
def test_bfloat16_is_as_near_to_float32_as_the_other_form():
    given = drawn()
    exact = value_and_slope(Bert(CONFIG), *given, True)
    errors = []
    for model in (fused(dtype=jnp.bfloat16), Bert(CONFIG, jnp.bfloat16, "low_memory")):
        found = value_and_slope(model, *given, True)
        both = zip(jax.tree.leaves(found[1]), jax.tree.leaves(exact[1]), strict=True)
        squares = [(float(((a - b) ** 2).sum()), float((b**2).sum())) for a, b in both]
        errors.append(np.sqrt(sum(d for d, _ in squares) / sum(s for _, s in squares)))
    assert 0 < errors[0] < 1.3 * errors[1] < 0.1


@pytest.mark.costly
def test_texts_that_share_a_row_are_as_they_are_alone():
    params, tokens, segments = drawn()
    model = fused()
    together = model.apply(params, tokens, segments, jnp.arange(T)[None].repeat(ROWS, 0) % 5)
    place = np.arange(T)[None].repeat(ROWS, 0) % 5
    for text in range(3):
        own = np.asarray(segments.query[1]) == text
        one = Segments(segments.query[1:2, own], segments.key[1:2, own])
        alone = model.apply(params, tokens[1:2, own], one, jnp.asarray(place[1:2, own]))
        np.testing.assert_allclose(alone[0], together[1, own], atol=5e-6)
