"""The memory bank against attention written out slot by slot, the head and the critic (A2)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmr_jax.models.layers.memory_bank import Critic, Memory, SharedHead

SLOTS, DIM, HEADS = 5, 8, 4
KEY = jax.random.key(0)
TOKENS = jax.random.normal(jax.random.key(1), (2, 3, DIM))
MASK = jnp.array([[True, True, True], [True, True, False]])


def bank(slots=SLOTS):
    module = Memory(slots, DIM)
    return module, module.init(KEY, TOKENS, MASK, method="texts")["params"]


def attention(params, parts):
    """Every slot and head by itself, projected, then the mean of the slots."""

    def dense(name, x):
        return x @ np.float64(params[name]["kernel"]) + np.float64(params[name]["bias"])

    width, parts = DIM // HEADS, np.float64(parts)
    asked = dense("query", np.float64(params["bank"]))
    keys, values = dense("key", parts), dense("value", parts)
    outputs = []
    for slot in range(SLOTS):
        heads = []
        for h in range(HEADS):
            own = slice(h * width, (h + 1) * width)
            logits = [asked[slot, own] @ k[own] / width**0.5 for k in keys]
            weight = np.exp(logits) / np.exp(logits).sum()
            heads.append(sum(w * v[own] for w, v in zip(weight, values, strict=True)))
        outputs.append(dense("out", np.concatenate(heads)))
    return np.exp(0.07) * np.mean(outputs, 0)


def test_texts_equal_attention_slot_by_slot_without_their_padding():
    module, params = bank()
    got = module.apply({"params": params}, TOKENS, MASK, method="texts")
    expected = [attention(params, TOKENS[0]), attention(params, TOKENS[1, :2])]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_molecules_are_read_as_texts_are():
    """The same parts as words and as atoms, with padding atoms in the last graph."""
    module, params = bank()
    nodes = jnp.concatenate([TOKENS[0], TOKENS[1, :2], 9 * jnp.ones((4, DIM))])
    of_graph = jnp.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    read = module.apply({"params": params}, nodes, of_graph, 3, method="molecules")
    texts = module.apply({"params": params}, TOKENS, MASK, method="texts")
    np.testing.assert_allclose(read[:2], texts, atol=1e-5)


def test_the_bank_begins_with_a_row_of_zeros():
    rows = bank()[1]["bank"]
    np.testing.assert_array_equal(rows[0], np.zeros(DIM))
    assert (jnp.linalg.norm(rows[1:], axis=1) > 0.5).all()


def test_without_slots_it_is_the_mean():
    module, params = bank(slots=0)
    assert set(params) == {"theta"}
    got = module.apply({"params": params}, TOKENS, MASK, method="texts")
    means = jnp.stack([TOKENS[0].mean(0), TOKENS[1, :2].mean(0)])
    np.testing.assert_allclose(got, jnp.exp(0.07) * means, rtol=1e-5)


def test_sharpness_is_zero_for_even_attention_and_one_for_a_single_word():
    module, params = bank()
    even = {**params, "bank": jnp.zeros((SLOTS, DIM))}
    even["query"] = {**params["query"], "bias": jnp.zeros(DIM)}
    got = module.apply({"params": even}, TOKENS, MASK, method="sharpness")
    np.testing.assert_allclose(got, np.zeros((2, SLOTS)), atol=1e-6)
    sharp = {**params, "bank": 1e4 * params["bank"]}
    got = module.apply({"params": sharp}, TOKENS, MASK, method="sharpness")
    np.testing.assert_allclose(got[:, 1:], np.ones((2, SLOTS - 1)), atol=1e-3)
    one = module.apply({"params": sharp}, TOKENS[:, :1], MASK[:, :1], method="sharpness")
    np.testing.assert_array_equal(one, np.zeros((2, SLOTS)))


@pytest.mark.parametrize(
    "kind, means",
    [
        # Flax keeps 0.9 of what it had: after text t and molecule m, 0.9 (0.9 x 0 + 0.1 t) + 0.1 m.
        ("mixed", {"norm": [0.9 * 0.1 * 2, 0.1 * 20]}),
        ("own", {"norm_text": [0.1 * 2, 0.0], "norm_mol": [0.0, 0.1 * 20]}),
    ],
)
def test_statistics_of_the_head_mix_both_modalities_text_then_molecule(kind, means):
    head = SharedHead(2, kind)
    text, mol = jnp.array([[1.0, 0.0], [3.0, 0.0]]), jnp.array([[0.0, 10.0], [0.0, 30.0]])

    def both(module, train=True):
        return module(text, "text", train), module(mol, "mol", train)

    variables = head.init(KEY, False, method=both)
    linear = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    variables = {**variables, "params": {**variables["params"], "linear": linear}}
    _, moved = head.apply(variables, method=both, mutable=["batch_stats"])
    found = {name: s["mean"] for name, s in moved["batch_stats"].items()}
    assert found.keys() == means.keys()
    for name, mean in means.items():
        np.testing.assert_allclose(found[name], mean, rtol=1e-5)


def test_the_head_ends_in_rows_of_length_one():
    head = SharedHead(DIM)
    rows = 5 * jax.random.normal(KEY, (6, DIM))
    variables = head.init(KEY, rows, "text", False)
    out, _ = head.apply(variables, rows, "text", True, mutable=["batch_stats"])
    np.testing.assert_allclose(jnp.linalg.norm(out, axis=1), np.ones(6), rtol=1e-5)


def test_the_critic_is_of_the_paper_s_widths():
    params = Critic().init(KEY, jnp.zeros((1, 300)))["params"]
    shapes = {name: p["kernel"].shape for name, p in params.items()}
    assert shapes == {"inner_0": (300, 512), "inner_1": (512, 256), "outer": (256, 1)}
    assert Critic().apply({"params": params}, jnp.zeros((7, 300))).shape == (7,)
