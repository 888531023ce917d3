"""Encoding a side of a pool: order, padding, unit rows, distinct inputs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tmr_jax.data.tables import TextTable
from tmr_jax.models.encode import (
    Encoder,
    distinct,
    encode,
    in_precision,
    l2_normalize,
    sequence_keys,
    text_states,
    with_states,
)
from tmr_jax.models.run import load_run
from tmr_jax.types import TextBatch


def batches(order, size):
    """Batches of `size` rows of one number; the last padded with rows that must not be read."""
    for start in range(0, len(order), size):
        indices = np.array(order[start : start + size])
        yield indices, np.pad(indices.astype(np.float32), (0, size - len(indices)), mode="edge")


def corner(numbers):
    return np.stack([numbers + 1, np.ones_like(numbers)], 1)


def test_rows_come_back_in_item_order_as_they_are():
    found = encode(corner, batches([4, 2, 0, 1, 3], 2), 5, 2)
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 1], [2, 1], [3, 1], [4, 1], [5, 1]]


def test_a_forgotten_or_repeated_item_is_our_own_bug():
    with pytest.raises(AssertionError, match="1 of 3"):
        encode(corner, batches([0, 1], 2), 3, 2)
    with pytest.raises(AssertionError, match="1 of 2"):
        encode(corner, batches([0, 1, 1], 1), 2, 2)


def test_an_embedding_that_is_not_finite_names_its_item():
    with pytest.raises(ValueError, match="item 2"):
        encode(lambda x: corner(np.where(x == 2, np.nan, x)), batches([0, 1, 2], 1), 3, 2)


def test_a_zero_row_stays_zero():
    assert l2_normalize(np.zeros((1, 3), np.float32)).tolist() == [[0, 0, 0]]


def test_distinct_keeps_the_order_of_appearance():
    keys = np.array([[9, 9], [1, 1], [9, 9], [0, 2], [1, 1]], np.uint8)
    first, group = distinct(keys)
    assert first.tolist() == [0, 1, 3]
    assert group.tolist() == [0, 1, 0, 2, 1]
    assert np.array_equal(keys[first][group], keys)


def test_distinct_of_nothing():
    first, group = distinct(np.zeros((0, 16), np.uint8))
    assert len(first) == len(group) == 0


def test_sequence_keys_see_borders():
    # [1, 2 | 3], [1 | 2, 3], and [1, 2 | 3] again: the same tokens, other borders.
    tokens = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3], np.int32)
    keys = sequence_keys(tokens, np.array([0, 2, 3, 4, 6, 8, 9]))
    assert distinct(keys)[1].tolist() == [0, 1, 2, 3, 0, 1]


# Strings in


def test_texts_of_a_library_leave_no_file(tiny_run, tmp_path, monkeypatch):
    """Not even of a frozen text encoder, whose states of a data set are kept."""
    from tmr_jax import load

    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    retriever = load(tiny_run)
    monkeypatch.setattr("tmr_jax.models.encode.CACHE_FROM", 2)
    config = retriever.config
    frozen = dataclasses.replace(config, train=dataclasses.replace(config.train, freeze="text"))
    encoder = Encoder(retriever._assembly._replace(config=frozen), retriever._params)
    texts = ["an acid", "ring " * 500, "an acid"]
    encoded, cut = encoder.corpus(texts)
    assert cut.tolist() == [False, True, False]
    assert not list((tmp_path / "cache").glob("states-*"))
    np.testing.assert_allclose(encoded.rows, encoder.texts(texts).rows, atol=1e-6)
    assert len(list((tmp_path / "cache").glob("states-*"))) == 1


@pytest.mark.costly
def test_several_devices_encode_what_one_does(tiny_run, monkeypatch):
    from tmr_jax import load
    from tmr_jax.models import encode as module

    smiles = ["C" * (i % 30 + 1) + "O" * (i // 30) for i in range(90)]
    texts = [f"an alcohol of {i} carbon atoms" for i in range(40)]
    alone = load(tiny_run)
    wanted = alone.encode_molecules(smiles), alone.encode_text(texts)
    monkeypatch.setattr(module, "local_devices", lambda: jax.devices()[:3])
    shared = load(tiny_run)
    for found, right in zip(
        (shared.encode_molecules(smiles), shared.encode_text(texts)), wanted, strict=True
    ):
        np.testing.assert_allclose(found, right, atol=1e-6)


def test_kernels_of_the_layers_are_rounded_once_and_nothing_else_is(tiny_run):
    """To what each call would round them to: the same embeddings, bit for bit."""
    model, params, _ = load_run(tiny_run, "best")
    model = model._replace(model=model.model.clone(dtype=jnp.bfloat16))
    found = in_precision(params, jnp.bfloat16)
    rounded = [x.shape for x in jax.tree.leaves(found) if x.dtype == jnp.bfloat16]
    assert len(rounded) == 6 and all(len(shape) == 3 for shape in rounded)  # [layers, in, out]
    texts, encoder = ["an alcohol", "a much longer name of an acid"], Encoder(model, params)
    once = encoder.texts(texts).rows
    encoder._read = params
    np.testing.assert_array_equal(encoder.texts(texts).rows, once)
    assert in_precision(params, np.dtype("float32")) is params


def test_a_corpus_is_padded_to_finer_lengths_and_encoded_the_same(tiny_run, monkeypatch):
    from tmr_jax import load
    from tmr_jax.models import encode as module

    retriever = load(tiny_run)
    texts = [f"{i} " + "acid " * (i % 5) for i in range(20)]
    coarse, lengths = retriever.encode_text(texts), []
    batches = module.encode_batches_text

    def seen(*words):
        for rows, batch in batches(*words):
            lengths.append(batch.tokens.shape[1])
            yield rows, batch

    monkeypatch.setattr(module, "encode_batches_text", seen)
    monkeypatch.setattr(module, "CORPUS", len(texts))
    np.testing.assert_allclose(retriever.encode_text(texts), coarse, atol=1e-5)
    assert set(lengths) == {8}  # the only bucket of this run is one of 96
    few = len(lengths)
    retriever.encode_text(texts[:-1])
    assert set(lengths[few:]) == {96}


TABLE = TextTable(
    np.array([7, 8, 9, 4], np.int32), np.array([0, 3, 4], np.int64), np.zeros(2, bool)
)


def text_batches():
    """Text 1, then text 0 with a row of padding behind it."""
    mask = np.array([[True, False, False], [True, True, True]])
    yield np.array([1]), TextBatch(np.array([[4, 0, 0]]), mask[:1])
    yield np.array([0]), TextBatch(np.array([[7, 8, 9], [7, 8, 9]]), mask[[1, 1]])


def read(batch):
    """A state of width 2: the id, and its half."""
    read.called += 1
    return np.stack([batch.tokens, batch.tokens / 2], -1).astype(np.float32)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    read.called = 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_are_those_of_each_text_and_are_read_once(dtype, tmp_path):
    for _ in range(2):
        states = text_states(read, "abc", TABLE, text_batches(), dtype)
        assert states.rows.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
        np.testing.assert_array_equal(states.rows.astype(np.float32)[:, 0], [7, 8, 9, 4])
    assert read.called == 2  # once for each batch, and not again
    assert [p.suffix for p in tmp_path.iterdir()] == [".npy"]


def test_batches_carry_states_and_nothing_on_padding():
    states = text_states(read, "abc", TABLE, text_batches(), "float32")
    (_, first), (_, second) = with_states(text_batches(), states)
    np.testing.assert_array_equal(first.tokens[0, :, 0], [4, 0, 0])
    np.testing.assert_array_equal(second.tokens[..., 0], [[7, 8, 9], [0, 0, 0]])


def test_other_weights_have_other_states():
    text_states(read, "abc", TABLE, text_batches(), "float32")
    text_states(read, "abd", TABLE, text_batches(), "float32")
    assert read.called == 4


def test_a_file_cut_short_is_made_again(tmp_path):
    text_states(read, "abc", TABLE, text_batches(), "float32")
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    states = text_states(read, "abc", TABLE, text_batches(), "float32")
    assert read.called == 4
    np.testing.assert_array_equal(states.rows[:, 1], [3.5, 4, 4.5, 2])
