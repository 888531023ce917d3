"""The encoder computes what PyTorch's does, and both of its backward passes are the derivative."""

from __future__ import annotations

import dataclasses
import json
import math
import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmr_jax.nn.bert import (
    Bert,
    BertLayer,
    Kept,
    fast_attention,
    fast_dense,
    fast_gelu,
    fast_norm,
    plain_attention,
    plain_dense,
)
from tmr_jax.nn.pretrained import assemble, layout, load_bert, read_config

pytestmark = pytest.mark.usefixtures("optimized")

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
recipe = SimpleNamespace(**runpy.run_path(str(GOLDEN / "bert_recipe.py")))


def random_bert(size, folder):
    """Configuration and parameters of a random BERT, made from the recipe as published tensors."""
    (folder / "config.json").write_text(json.dumps(recipe.config_of(size)))
    config = read_config(folder / "config.json")
    shapes = {name: slot.shape for name, slot in layout(config).items()}
    return config, assemble(config, recipe.weights(shapes))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return random_bert("small", tmp_path_factory.mktemp("small"))


@partial(jax.jit, static_argnames=("model",))
def encode(model, params, tokens, mask):
    """Hidden states [B, T, hidden] and pooled [B, hidden]."""
    hidden = model.apply({"params": params}, tokens, mask)
    return hidden, model.apply({"params": params}, hidden, method="pool")


@pytest.mark.parametrize(
    ("size", "backward"),
    [("small", "autodiff"), ("small", "cpu_fast"), ("base", "autodiff"), ("minilm", "cpu_fast")],
)
def test_states_and_pooled_are_those_of_pytorch(size, backward, tmp_path):
    if size == "minilm":
        config, params, _ = load_bert("minilm")
    else:
        config, params = random_bert(size, tmp_path)
    with np.load(GOLDEN / f"bert_{size}.npz", allow_pickle=False) as golden:
        tokens, mask = golden["tokens"], golden["mask"]
        assert not mask.all()  # there is padding to ignore
        hidden, pooled = encode(Bert(config, backward=backward), params, tokens, mask)
        assert hidden.dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(hidden)[mask], golden["states"], rtol=0, atol=2e-5)
        np.testing.assert_allclose(pooled, golden["pooled"], rtol=0, atol=2e-5)


def gradient(model, params, tokens, mask, key=None):
    """Of a weighted sum of all real states and the pooled ones; dropout where a key is given."""
    weights = jax.random.normal(jax.random.key(5), (*mask.shape, model.config.hidden))

    def loss(params):
        rngs = None if key is None else {"dropout": key}
        hidden = model.apply(
            {"params": params}, tokens, mask, deterministic=key is None, rngs=rngs
        ).astype(jnp.float32)
        pooled = model.apply({"params": params}, hidden, method="pool")
        real = jnp.where(mask[:, :, None], hidden * weights, 0.0)
        return real.sum() + (pooled * weights[:, 0]).sum()

    return jax.jit(jax.grad(loss))(params)


def relative(one, other):
    """Largest L2 distance of two leaves of the same place, as a part of the leaf's own norm.

    Softmax does not feel a constant added to a query's scores, so keys' biases have no gradient:
    leaves are measured against the layer's gradients, not against their own rounding noise.
    """
    floor = 1e-2 * max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(other))
    parts = jax.tree.map(
        lambda a, b: np.linalg.norm(np.asarray(a - b)) / max(np.linalg.norm(b), floor), one, other
    )
    return max(jax.tree.leaves(parts))


@pytest.mark.parametrize("dropout", [False, True])
def test_hand_ordered_gradients_are_those_of_autodiff(small, dropout):
    config, params = small
    tokens, mask = recipe.random_tokens("small")
    key = jax.random.key(3) if dropout else None
    plain = gradient(Bert(config, backward="autodiff"), params, tokens, mask, key)
    fast = gradient(Bert(config, backward="cpu_fast"), params, tokens, mask, key)
    assert jax.tree.structure(plain) == jax.tree.structure(fast)
    assert relative(fast, plain) < 2e-6


def test_hand_ordered_bfloat16_gradients_are_as_good_as_autodiffs(small):
    config, params = small
    tokens, mask = recipe.random_tokens("small")
    exact = gradient(Bert(config), params, tokens, mask)
    errors = {
        backward: relative(
            gradient(Bert(config, jnp.bfloat16, backward), params, tokens, mask), exact
        )
        for backward in ("autodiff", "cpu_fast")
    }
    assert 0 < errors["cpu_fast"] < 1.2 * errors["autodiff"] < 0.2


@partial(jax.jit, static_argnums=0)
def pull_back(function, g, *inputs):
    return jax.vjp(function, *inputs)[1](g)


def test_hand_ordered_pieces_have_the_gradients_of_the_plain_ones():
    keys = jax.random.split(jax.random.key(0), 7)
    x, g = jax.random.normal(keys[0], (3, 5, 8)), jax.random.normal(keys[1], (3, 5, 6))
    kernel, bias = jax.random.normal(keys[2], (8, 6)), jax.random.normal(keys[3], (6,))
    plain = pull_back(plain_dense, g, x, kernel, bias)
    fast = pull_back(fast_dense, g, x, kernel, bias)
    for one, other in zip(fast, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

    q, k, v, g = (jax.random.normal(key, (2, 4, 3, 5)) for key in keys[3:7])
    mask = jnp.array([[True, True, True, False], [True, True, False, False]])
    keep = Kept(jax.random.bernoulli(keys[0], 0.5, (2, 3, 4, 4)), jnp.float32(0.5))
    for noise in (None, keep):
        plain = pull_back(plain_attention, g, q, k, v, mask, noise)[:3]
        fast = pull_back(fast_attention, g, q, k, v, mask, noise)[:3]
        for one, other in zip(fast, plain, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_gelu_and_norm_are_flax_s_own_with_their_gradients():
    keys = jax.random.split(jax.random.key(0), 4)
    x, g = (3 * jax.random.normal(key, (3, 5, 8)) for key in keys[:2])
    for function in (fast_gelu, partial(jax.nn.gelu, approximate=False)):
        wide = jnp.linspace(-9, 9, 101)
        exact = [0.5 * v * math.erfc(-v / 2**0.5) for v in wide.tolist()]
        np.testing.assert_allclose(function(wide), exact, atol=2e-6)
    plain = pull_back(partial(jax.nn.gelu, approximate=False), g, x)
    np.testing.assert_allclose(pull_back(fast_gelu, g, x)[0], plain[0], rtol=1e-5, atol=1e-6)

    norm = nn.LayerNorm(1e-12)
    scale, bias = (jax.random.normal(key, (8,)) for key in keys[2:])

    def of_flax(x, scale, bias):
        return norm.apply({"params": {"scale": scale, "bias": bias}}, x)

    def ours(x, scale, bias):
        return fast_norm(x, scale, bias, 1e-12)

    np.testing.assert_allclose(ours(x, scale, bias), of_flax(x, scale, bias), atol=2e-6)
    plain, fast = (pull_back(f, g, x, scale, bias) for f in (of_flax, ours))
    for one, other in zip(fast, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    still = jnp.ones((1, 8))  # a row without spread has no slope to blow up
    assert all(np.isfinite(s).all() for s in pull_back(ours, jnp.ones((1, 8)), still, scale, bias))


def test_padding_changes_nothing(small):
    config, params = small
    tokens, mask = recipe.random_tokens("small")
    model = Bert(config)
    wide, pooled = encode(model, params, tokens, mask)
    # other words where the padding is
    noisy, _ = encode(model, params, np.where(mask, tokens, 99), mask)
    np.testing.assert_allclose(np.asarray(noisy)[mask], np.asarray(wide)[mask], atol=1e-6)
    for row in range(len(tokens)):  # each row alone, without any padding
        n = int(mask[row].sum())
        alone, alone_pooled = encode(
            model, params, tokens[row : row + 1, :n], mask[row : row + 1, :n]
        )
        np.testing.assert_allclose(alone[0], wide[row, :n], atol=3e-6)
        np.testing.assert_allclose(alone_pooled[0], pooled[row], atol=3e-6)


@pytest.mark.parametrize("backward", ["autodiff", "cpu_fast"])
def test_a_row_of_padding_only_is_finite_and_so_are_its_gradients(small, backward):
    config, params = small
    tokens, mask = np.zeros((2, 8), np.int32), np.zeros((2, 8), bool)
    mask[0, :3] = True
    model = Bert(config, backward=backward)
    assert np.isfinite(encode(model, params, tokens, mask)[0]).all()
    grads = gradient(model, params, tokens, mask)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_bfloat16_stays_close_and_parameters_stay_float32(small):
    config, params = small
    tokens, mask = recipe.random_tokens("small")
    exact, _ = encode(Bert(config), params, tokens, mask)
    rough, _ = encode(Bert(config, jnp.bfloat16), params, tokens, mask)
    assert rough.dtype == jnp.bfloat16
    a, b = np.asarray(exact)[mask], np.asarray(rough, np.float32)[mask]
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert 0 < np.abs(a - b).max() < 0.1 and cosine.min() > 0.9995
    variables = jax.eval_shape(Bert(config, jnp.bfloat16).init, jax.random.key(0), tokens, mask)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_dropout_follows_its_key_and_is_off_by_default(small):
    config, params = small
    tokens, mask = recipe.random_tokens("small")
    model = Bert(config)

    @partial(jax.jit, static_argnames="model")
    def train(model, key):
        rngs = {"dropout": key}
        return model.apply({"params": params}, tokens, mask, deterministic=False, rngs=rngs)

    def drop(seed):
        return np.asarray(train(model, jax.random.key(seed)))

    assert np.array_equal(drop(1), drop(1))
    assert np.abs(drop(1) - drop(2)).max() > 0.1
    still, _ = encode(model, params, tokens, mask)
    off = train(Bert(dataclasses.replace(config, dropout=0.0)), jax.random.key(1))
    np.testing.assert_allclose(still, off, atol=1e-6)


def test_attention_and_embeddings_lose_a_tenth_and_keep_their_mean(small):
    config, params = small
    shape = (2, 4, 40, 40)

    def keep(seed, deterministic):
        rngs = {"dropout": jax.random.key(seed)}
        return BertLayer(config).apply({}, shape, deterministic, method="_keep", rngs=rngs)

    kept = np.asarray(keep(1, False).mask)
    assert float(keep(1, False).share) == pytest.approx(0.9, abs=1e-5)
    assert abs((~kept).mean() - config.dropout) < 0.01  # 12,800 draws, sd 0.003
    assert not np.array_equal(kept, keep(2, False).mask) and keep(1, True) is None

    tokens, mask = recipe.random_tokens("small")
    bare = Bert(dataclasses.replace(config, layers=0, pooler=False))
    names = [name for name in params if "embeddings" in name]
    embed = partial(bare.apply, {"params": {name: params[name] for name in names}}, tokens, mask)
    whole = np.asarray(embed())
    dropped = np.asarray(embed(deterministic=False, rngs={"dropout": jax.random.key(1)}))
    lost = dropped == 0
    assert abs(lost.mean() - config.dropout) < 0.02  # 10,240 draws
    np.testing.assert_allclose(dropped[~lost], whole[~lost] / 0.9, rtol=1e-5)
