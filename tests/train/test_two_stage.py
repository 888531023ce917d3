"""The texts that the second stage trains on; the stage itself is in test_refinement.py."""

import pytest

from tmr_jax.train.two_stage import with_dropout

TEXT = " ".join(f"word{i}" for i in range(1000))


def test_dropout_leaves_a_share_of_the_words_in_their_order():
    [kept] = with_dropout([TEXT], 0.3, 0)
    words = kept.split()
    assert 650 < len(words) < 750  # 700 expected, 14.5 of standard deviation
    assert words == [w for w in TEXT.split() if w in set(words)]


def test_dropout_is_a_function_of_the_seed():
    assert with_dropout([TEXT], 0.3, 0) == with_dropout([TEXT], 0.3, 0)
    assert with_dropout([TEXT], 0.3, 0) != with_dropout([TEXT], 0.3, 1)


def test_a_word_stays_of_every_text():
    assert all(with_dropout(["one", "two words"] * 50, 0.99, 0))


def test_without_dropout_texts_stay_as_they_are():
    assert with_dropout(["two  spaces\n"], 0.0, 0) == ["two  spaces\n"]


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_impossible_shares_are_refused(share):
    with pytest.raises(ValueError, match="from 0 to below 1"):
        with_dropout(["a"], share, 0)
