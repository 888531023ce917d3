"""Masked words: what is hidden and how, which texts are read, and what is kept of them."""

import dataclasses

import numpy as np
import pytest

from tests.tiny_pairs import PAIRS, TINY, with_section
from tmr_jax.config import DataConfig
from tmr_jax.data import load_pairs
from tmr_jax.data.datasets import chebi
from tmr_jax.data.tables import TextTable
from tmr_jax.models.run import init_params
from tmr_jax.train import masked_words
from tmr_jax.train.dataset import model_and_dataset
from tmr_jax.train.directory import _check
from tmr_jax.train.masked_words import ROWS, adapted, question, special, texts_of, windows

OPENS, CLOSES, HIDDEN, WORDS = 1, 2, 3, 40


def table(lengths):
    """Texts of words from 10 on, between two special tokens."""
    rows = [[OPENS, *range(10, 10 + n), CLOSES] for n in lengths]
    offsets = np.cumsum([0, *map(len, rows)])
    return TextTable(np.concatenate(rows).astype(np.int32), offsets, np.zeros(len(rows), bool))


def test_of_the_tokens_to_predict_most_are_hidden_and_some_are_others():
    tokens = next(windows(table([20] * 50), 64, 0))
    asked = question(np.random.default_rng(0), tokens, np.array([OPENS, CLOSES]), HIDDEN, WORDS)
    assert len(asked.places) == len(set(asked.places.tolist())) == int(0.15 * tokens.size)
    np.testing.assert_array_equal(asked.answers, tokens.ravel()[asked.places])
    assert (asked.answers >= 10).all()  # no special token
    changed = asked.tokens.ravel() != tokens.ravel()
    assert set(np.flatnonzero(changed)) <= set(asked.places)
    seen = asked.tokens.ravel()[asked.places]
    assert np.mean(seen == HIDDEN) == pytest.approx(0.8, abs=0.05)
    assert np.mean(seen == asked.answers) == pytest.approx(0.1, abs=0.05)
    others = seen[(seen != HIDDEN) & (seen != asked.answers)]
    assert len(set(others.tolist())) > 10


def test_rows_are_full_and_every_text_comes_once_a_round():
    texts = table([5, 9, 2])
    batches = windows(texts, 16, 0)
    stream = np.concatenate([next(batches).ravel() for _ in range(3)])
    assert len(stream) == 3 * ROWS * 16
    rounds = stream[: len(stream) // len(texts.tokens) * len(texts.tokens)]
    rounds = rounds.reshape(-1, len(texts.tokens))
    assert (np.sort(rounds) == np.sort(texts.tokens)).all()
    assert len(np.unique(rounds, axis=0)) > 1
    assert special(texts).tolist() == [OPENS, CLOSES]


def test_training_texts_and_definitions_are_read_and_nothing_evaluated():
    pairs = [*PAIRS, PAIRS[0], PAIRS[0]._replace(text="of the test", split="test")]
    own = [f"molecule number {i}" for i in range(7)]
    assert texts_of(TINY, pairs) == own
    found = texts_of(dataclasses.replace(TINY, data=DataConfig(name="open")), pairs)
    named = {f"{one.name}: {one.definition}" for one in chebi.definitions()}
    assert found[:7] == own and set(found[7:]) == named and len(named) > 3000
    dropped = {one.name for one in chebi.all_definitions()} - {d.name for d in chebi.definitions()}
    assert dropped and not dropped & {text.partition(": ")[0] for text in found}


def test_the_encoder_learns_words_once_for_all_runs_with_these_settings(capsys, monkeypatch):
    config = with_section("train", masked_words=12)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, text_lr=3e-3))
    pairs = load_pairs(config.data)
    model, data, _ = model_and_dataset(config, pairs)
    params = init_params(model, data.batch(np.arange(4), 0), 0)["text_encoder"]
    before = np.asarray(params["word_embeddings"]["embedding"]).copy()
    found = adapted(config, model, params, pairs)
    words = capsys.readouterr().out.split()
    first, last = (float(words[words.index(w) - 2]) for w in ("first,", "last,"))
    assert last < first - 0.2
    assert (before == params["word_embeddings"]["embedding"]).all()  # nothing was donated
    assert (before != found["word_embeddings"]["embedding"]).mean() > 0.5
    monkeypatch.setattr(masked_words, "_trained", lambda *_: pytest.fail("not from the cache"))
    again = adapted(config, model, params, pairs)
    np.testing.assert_array_equal(
        again["layers"]["query"]["kernel"], found["layers"]["query"]["kernel"]
    )
    with pytest.raises(pytest.fail.Exception, match="not from the cache"):
        adapted(with_section("train", masked_words=11), model, params, pairs)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="0 with"):
        _check(with_section("train", masked_words=3, start="runs/a"))
