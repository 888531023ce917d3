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

from tmr_jax.models.layers import attention as attention_module
from tmr_jax.models.layers.attention import HIDDEN, Segments, kept_share
from tmr_jax.models.layers.bert import (
    LAYERS,
    Bert,
    BertConfig,
    by_layer,
    low_memory_dense,
    plain_dense,
    stacked,
)
from tmr_jax.models.layers.bert_layer import (
    NORMS,
    SHAPES,
    SITES,
    Kind,
    _normal,
    _normal_backward,
    _scaled,
    gelu,
    gelu_pulled,
    layer,
    low_memory_layer,
)
from tmr_jax.models.pretrained import assemble, layout, load_bert, read_config

pytestmark = pytest.mark.usefixtures("optimized")

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
recipe = SimpleNamespace(**runpy.run_path(str(GOLDEN / "bert_recipe.py")))


def random_bert(size, folder):
    """Configuration and parameters of a random BERT, made from the recipe as published tensors."""
    (folder / "config.json").write_text(json.dumps(recipe.config_of(size)))
    config = read_config(folder / "config.json")
    shapes = {name: slot.shape for name, slot in layout(config).items()}
    return config, stacked(assemble(config, recipe.weights(shapes)))


def drawn(model):
    """Random parameters of any model."""
    row = jnp.ones((1, 4), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), row, row > 0)["params"]
    stream = np.random.RandomState(2)

    def draw(path, leaf):
        about = float(path[-1].key == "scale")
        noise = 0.1 * stream.standard_normal(leaf.shape)
        return np.float32(about + noise)

    return jax.tree_util.tree_map_with_path(draw, shapes)


# What a form of the backward pass is built with, as tmr_jax/models does.
HOW = {
    "autodiff": {"backward": "autodiff", "form": "plain"},
    "low_memory": {"backward": "low_memory", "form": "low_memory"},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return random_bert("small", tmp_path_factory.mktemp("small"))


@partial(jax.jit, static_argnames=("model",))
def encode(model, params, tokens, mask):
    """Hidden states [B, T, hidden] and pooled [B, hidden]."""
    hidden = model.apply({"params": params}, tokens, mask)
    return hidden, model.apply({"params": params}, hidden, method="pool")


@pytest.mark.costly("base")
@pytest.mark.parametrize(
    ("size", "backward"),
    [
        ("small", "autodiff"),
        ("small", "low_memory"),
        ("base", "autodiff"),
        ("minilm", "low_memory"),
    ],
)
def test_states_and_pooled_are_those_of_pytorch(size, backward, tmp_path):
    if size == "minilm":
        config, weights, _ = load_bert("minilm")
        params = stacked(weights)
    else:
        config, params = random_bert(size, tmp_path)
    with np.load(GOLDEN / f"bert_{size}.npz", allow_pickle=False) as golden:
        tokens, mask = golden["tokens"], golden["mask"]
        assert not mask.all()  # there is padding to ignore
        hidden, pooled = encode(Bert(config, **HOW[backward]), params, tokens, mask)
        assert hidden.dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(hidden)[mask], golden["states"], rtol=0, atol=2e-5)
        np.testing.assert_allclose(pooled, golden["pooled"], rtol=0, atol=2e-5)


@partial(jax.jit, static_argnums=0)
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

    return jax.grad(loss)(params)


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


@pytest.mark.slow("tanh", "False")
@pytest.mark.costly
@pytest.mark.parametrize(("dropout", "kind"), [(False, "exact"), (True, "exact"), (True, "tanh")])
def test_hand_written_gradients_are_those_of_autodiff(small, dropout, kind):
    config, params = small
    tokens, mask = recipe.random_tokens("small")
    key = jax.random.key(3) if dropout else None
    plain, ours = (
        gradient(Bert(config, gelu=kind, **how), params, tokens, mask, key) for how in HOW.values()
    )
    assert jax.tree.structure(plain) == jax.tree.structure(ours)
    assert relative(ours, plain) < 2e-6


@pytest.mark.slow("True")
@pytest.mark.costly
@pytest.mark.parametrize("dropout", [False, True])
def test_hand_written_bfloat16_gradients_are_as_good_as_autodiffs(small, dropout):
    config, params = small
    tokens, mask = recipe.random_tokens("small")
    key = jax.random.key(3) if dropout else None  # of the same masks in both precisions
    exact = gradient(Bert(config), params, tokens, mask, key)
    errors = {
        name: relative(
            gradient(Bert(config, jnp.bfloat16, **how), params, tokens, mask, key), exact
        )
        for name, how in HOW.items()
    }
    assert 0 < errors["low_memory"] < 1.2 * errors["autodiff"] < 0.2


@pytest.mark.slow("changes1", "changes2")
@pytest.mark.costly
@pytest.mark.parametrize(
    ("name", "changes"),
    [("autodiff", {"remat": True}), ("low_memory", {"remat": True}), ("low_memory", {"unroll": 0})],
)
def test_layers_run_again_or_side_by_side_have_the_same_gradients(small, name, changes):
    config, params = small
    tokens, mask = recipe.random_tokens("small")
    model = Bert(config, **HOW[name])
    plain = gradient(model, params, tokens, mask, jax.random.key(3))
    other = gradient(model.clone(**changes), params, tokens, mask, jax.random.key(3))
    assert relative(other, plain) < 1e-6


def test_what_is_kept_for_the_gradient(small):
    """Less by hand than by autodiff, in bfloat16; with `remat` little but the states between."""
    config, params = small
    config = dataclasses.replace(config, layers=8)
    params = {
        **params,
        LAYERS: jax.tree.map(lambda x: jnp.tile(x, (4, *[1] * (x.ndim - 1))), params[LAYERS]),
    }
    tokens, mask = recipe.random_tokens("small")

    def kept(**how):
        """Numbers beside the parameters that lie in memory between forward and backward pass."""
        model = Bert(config, jnp.bfloat16, **how)

        def pulled(params):
            rngs = {"dropout": jax.random.key(0)}
            return jax.vjp(
                lambda p: model.apply({"params": p}, tokens, mask, deterministic=False, rngs=rngs),
                params,
            )[1]

        found = jax.tree.leaves(jax.eval_shape(pulled, params))
        bare = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
        return sum(x.size * x.dtype.itemsize for x in found) - bare

    autodiff, ours = (kept(**how) for how in HOW.values())
    again = kept(**HOW["low_memory"], remat=True)
    assert ours < 0.6 * autodiff and again < 0.4 * ours


@partial(jax.jit, static_argnums=0)
def pull_back(function, g, *inputs):
    return jax.vjp(function, *inputs)[1](g)


def test_hand_ordered_dense_has_the_gradients_of_the_plain_one():
    keys = jax.random.split(jax.random.key(0), 4)
    x, g = jax.random.normal(keys[0], (3, 5, 8)), jax.random.normal(keys[1], (3, 5, 6))
    kernel, bias = jax.random.normal(keys[2], (8, 6)), jax.random.normal(keys[3], (6,))
    plain = pull_back(plain_dense, g, x, kernel, bias)
    ours = pull_back(low_memory_dense, g, x, kernel, bias)
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_gelu_is_exact_and_so_is_its_slope():
    wide = jnp.linspace(-9, 9, 101)
    exact = [0.5 * v * math.erfc(-v / 2**0.5) for v in wide.tolist()]
    slopes = [
        0.5 * math.erfc(-v / 2**0.5) + v * math.exp(-0.5 * v * v) / (2 * math.pi) ** 0.5
        for v in wide.tolist()
    ]
    for function in (gelu, partial(jax.nn.gelu, approximate=False)):
        np.testing.assert_allclose(function(wide), exact, atol=2e-6)

    keys = jax.random.split(jax.random.key(0), 2)
    x, g = (3 * jax.random.normal(key, (15, 8)) for key in keys)

    @partial(jax.jit, static_argnums=2)
    def again(x, g, kind):
        active, pull = gelu_pulled(x, kind)
        return active, pull(g)

    active, slope = again(wide, jnp.ones_like(wide), "exact")
    np.testing.assert_allclose(active, exact, atol=2e-6)
    np.testing.assert_allclose(slope, slopes, atol=2e-6)
    for kind in ("exact", "tanh"):
        plain = pull_back(partial(jax.nn.gelu, approximate=kind == "tanh"), g, x)
        np.testing.assert_allclose(again(x, g, kind)[1], plain[0], rtol=1e-5, atol=1e-6)
        of_jax = jax.nn.gelu(x, approximate=kind == "tanh")
        np.testing.assert_allclose(gelu(x, kind), of_jax, rtol=1e-5, atol=2e-6)
        rough = gelu(x.astype(jnp.bfloat16), kind)
        assert rough.dtype == jnp.bfloat16  # worked out in float32: off by what x and y round to
        np.testing.assert_allclose(rough.astype(jnp.float32), of_jax, rtol=2e-2, atol=2e-2)
    apart = np.abs(np.asarray(gelu(wide, "tanh") - gelu(wide, "exact"))).max()
    assert 1e-4 < apart < 5e-4


def test_norm_is_flax_s_own_with_its_gradients():
    keys = jax.random.split(jax.random.key(0), 4)
    x, g = (3 * jax.random.normal(key, (15, 8)) for key in keys[:2])
    norm = nn.LayerNorm(1e-12)
    scale, bias = (jax.random.normal(key, (8,)) for key in keys[2:])

    def of_flax(x, scale, bias):
        return norm.apply({"params": {"scale": scale, "bias": bias}}, x)

    def ours(x, scale, bias):
        return _scaled(_normal(x, 1e-12), {"scale": scale, "bias": bias})

    @jax.jit
    def by_hand(g, x, scale, bias):
        d_x, of = _normal_backward(_normal(x, 1e-12), {"scale": scale, "bias": bias}, g)
        return d_x, of["scale"], of["bias"]

    np.testing.assert_allclose(ours(x, scale, bias), of_flax(x, scale, bias), atol=2e-6)
    plain = pull_back(of_flax, g, x, scale, bias)
    for found in (by_hand(g, x, scale, bias), pull_back(ours, g, x, scale, bias)):
        for one, other in zip(found, plain, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    still = jnp.ones((1, 8))  # a row without spread has no slope to blow up
    assert all(np.isfinite(s).all() for s in by_hand(still, still, scale, bias))


# Flash attention runs on TPUs; here its kernels are interpreted.


@pytest.fixture
def interpreted(monkeypatch):
    plain = attention_module._call

    def call(kernel, heads, drop, interpret, *words):
        return plain(kernel, heads, drop, True, *words)

    monkeypatch.setattr(attention_module, "_call", call)


def one_layer(hidden, intermediate, rows):
    """Weights of a layer, rows [rows, hidden] and their slope."""
    stream = np.random.RandomState(1)
    inputs = dict.fromkeys(SHAPES, hidden) | {"output": intermediate}
    outputs = dict.fromkeys(SHAPES, hidden) | {"intermediate": intermediate}
    weights = {
        name: {
            "kernel": stream.standard_normal((inputs[name], outputs[name])) / inputs[name] ** 0.5,
            "bias": 0.1 * stream.standard_normal(outputs[name]),
        }
        for name in SHAPES
    } | {
        name: {
            "scale": 1 + 0.1 * stream.standard_normal(hidden),
            "bias": 0.1 * stream.standard_normal(hidden),
        }
        for name in NORMS
    }
    x, g = stream.standard_normal((2, rows, hidden))
    return jax.tree.map(jnp.float32, (weights, x, g))


@pytest.mark.slow("-2")
@pytest.mark.costly
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_layer_with_flash_attention_is_the_plain_layer(heads, rate):
    """Queries, keys and values are packed in another order, and nothing else differs."""
    weights, x, g = one_layer(256, 96, 2 * 24)
    segment = jnp.array([[0] * 9 + [1] * 8 + [2] * 7, [0] * 20 + [1] * 4])
    segments = Segments(segment, segment.at[0, 3].set(HIDDEN))
    seeds = jax.random.bits(jax.random.key(0), (SITES, 2), jnp.uint32)

    def run(function, form):
        kind = Kind(heads, 1e-12, rate, form)

        @jax.jit
        def both(weights, x, g):
            out, pull = jax.vjp(lambda w, x: function(kind, w, x, seeds, segments), weights, x)
            return out, pull(g)

        return both(weights, x, g)

    plain, d_plain = run(layer, "plain")
    for form in ("low_memory", "flash"):
        out, found = run(low_memory_layer, form)
        np.testing.assert_allclose(out, plain, atol=1e-5)
        assert relative(found, d_plain) < 2e-6, form


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "how",
    [{"backward": "low_memory"}, {"backward": "low_memory", "remat": True}, {}],
    ids=["all layers in one", "remat", "autodiff"],
)
def test_an_encoder_with_flash_attention_has_the_gradients_of_the_plain_one(how):
    """With JAX's gradient of the rest of a layer too: of a kernel it finds none by itself."""
    config = BertConfig(211, 128, 2, 4, 160, max_positions=40)
    tokens, mask = recipe.random_tokens("small")
    tokens, mask = tokens[2:, :33], mask[2:, :33]
    params = drawn(Bert(config))
    model = Bert(config, form="flash", interpret=True, **how)
    for key in (jax.random.key(3), None):
        plain = gradient(Bert(config), params, tokens, mask, key)
        assert relative(gradient(model, params, tokens, mask, key), plain) < 4e-6


# Parameters by layer


def test_layers_of_parameters_are_stacked_in_their_order_and_come_apart_again():
    """Of twelve layers, whose names sort as 0, 1, 10, 11, 2."""
    weights = {
        f"layer_{i}": {"query": {"kernel": np.full((2, 3), i, np.float32)}} for i in range(12)
    }
    weights["word_embeddings"] = {"embedding": np.ones((4, 2), np.float32)}
    whole = stacked(weights)
    assert set(whole) == {LAYERS, "word_embeddings"}
    kernel = whole[LAYERS]["query"]["kernel"]
    assert isinstance(kernel, np.ndarray) and kernel.shape == (12, 2, 3)
    assert kernel[:, 0, 0].tolist() == list(range(12))
    back = by_layer(whole)
    assert jax.tree.structure(back) == jax.tree.structure(weights)
    jax.tree.map(np.testing.assert_array_equal, back, weights)
    assert stacked(whole) is whole and by_layer(weights) is weights
    on_device = stacked(jax.tree.map(jnp.asarray, weights))
    assert isinstance(on_device[LAYERS]["query"]["kernel"], jax.Array)
    jax.tree.map(np.testing.assert_array_equal, on_device, whole)


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("form", ["low_memory", "flash"])
def test_texts_that_share_a_row_are_encoded_as_texts_alone(form):
    config = BertConfig(211, 128, 2, 2, 160, max_positions=40)
    model = Bert(config, backward="low_memory", form=form, interpret=True)
    lengths, total = (9, 17, 9), 40
    stream = np.random.RandomState(0)
    tokens = np.zeros((1, total), np.int32)
    tokens[0, : sum(lengths)] = stream.randint(1, 211, sum(lengths))
    text = np.repeat(np.arange(4), [*lengths, total - sum(lengths)])[None]
    positions = np.concatenate([np.arange(n) for n in (*lengths, total - sum(lengths))])[None]
    key = np.array(text)
    key[0, [4, 12, 13]] = HIDDEN  # words that nobody reads
    params = drawn(model)

    @jax.jit
    def run(params, tokens, segments, positions):
        def total(params):
            states = model.apply({"params": params}, tokens, segments, positions)
            return (
                states * jnp.cos(jnp.arange(128.0))[None, None] * (segments.query < 3)[..., None]
            ).sum(), states

        (_, states), slopes = jax.value_and_grad(total, has_aux=True)(params)
        return states, slopes

    together, slopes = run(params, tokens, Segments(text, key), positions)
    assert np.isfinite(together).all()
    parts, begin = [], 0
    for n in lengths:
        own = slice(begin, begin + n)
        alone, d_alone = run(
            params,
            tokens[:, own],
            Segments(text[:, own], key[:, own]),
            np.arange(n)[None],
        )
        np.testing.assert_allclose(together[:, own], alone, atol=3e-6)
        parts.append(d_alone)
        begin += n
    assert relative(slopes, jax.tree.map(lambda *x: sum(x), *parts)) < 4e-6


@pytest.mark.costly
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


@pytest.mark.costly
@pytest.mark.parametrize("backward", HOW)
def test_a_row_of_padding_only_is_finite_and_so_are_its_gradients(small, backward):
    config, params = small
    tokens, mask = np.zeros((2, 8), np.int32), np.zeros((2, 8), bool)
    mask[0, :3] = True
    model = Bert(config, **HOW[backward])
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
    assert jax.tree.structure(variables["params"]) == jax.tree.structure(params)


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


@pytest.mark.costly
def test_each_layer_and_each_of_its_three_dropouts_draws_for_itself(small):
    config, params = small

    def seeds(key, drop=True):
        rngs = {"dropout": jax.random.key(key)}
        return Bert(config).apply({"params": params}, drop, method="_seeds", rngs=rngs)

    drawn = np.asarray(seeds(0))
    assert drawn.shape == (config.layers, SITES, 2)
    assert len(np.unique(drawn)) == drawn.size and not np.isin(seeds(1), drawn).any()
    assert not np.asarray(seeds(0, drop=False)).any()

    weights, x, _ = one_layer(64, 96, 24)
    segments = Segments.of_mask(jnp.ones((2, 12), bool))
    run = jax.jit(partial(layer, Kind(4, 1e-12, 0.1, "plain")))
    whole = run(weights, x, jnp.asarray(drawn[0]), segments)
    for site in range(SITES):
        other = jnp.asarray(drawn[0]).at[site].set(drawn[1, site])
        assert np.abs(np.asarray(run(weights, x, other, segments) - whole)).max() > 0.1, site
    off = partial(layer, Kind(4, 1e-12, 0.0, "plain"))
    calm = [off(weights, x, jnp.asarray(of), segments) for of in drawn]
    np.testing.assert_array_equal(*calm)


def test_embeddings_lose_a_tenth_and_keep_their_mean(small):
    config, params = small
    tokens, mask = recipe.random_tokens("small")
    seen = lambda module, _: "embeddings" in (module.name or "")  # noqa: E731
    _, found = Bert(config).apply(
        {"params": params},
        tokens,
        mask,
        deterministic=False,
        rngs={"dropout": jax.random.key(1)},
        capture_intermediates=seen,
        mutable=["intermediates"],
    )
    whole, dropped = (
        np.asarray(found["intermediates"][f"embeddings_{of}"]["__call__"][0])
        for of in ("norm", "dropout")
    )
    lost = dropped == 0
    assert abs(lost.mean() - config.dropout) < 0.02  # 10,240 draws
    np.testing.assert_allclose(dropped[~lost], whole[~lost] / kept_share(config.dropout), rtol=1e-5)
