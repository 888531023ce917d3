"""The ridge baseline on toys whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from tmr_jax.data.features.similarity import fingerprints
from tmr_jax.eval import baseline
from tmr_jax.eval.baseline import fit_ridge, molecule_rows, text_rows

WORDS = ["alcohol", "amine", "nitrile", "ketone", "thiol", "ether"]


def toy(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Each word switches one column on; a seventh word means nothing, an eighth column is fixed."""
    stream = np.random.default_rng(seed)
    present = stream.random((count, len(WORDS))) < 0.5
    present[:, 0] |= ~present.any(1)
    texts = [" ".join(["compound", *(np.array(WORDS)[row])]) for row in present]
    return texts, np.concatenate([present, np.ones((count, 1))], 1).astype(np.float32)


def test_finds_the_molecule_whose_columns_the_words_name() -> None:
    texts, fps = toy(200, 0)
    ridge = fit_ridge(texts, fps, *toy(40, 1))
    asked = ["compound amine thiol", "compound ketone", "compound alcohol nitrile ether"]
    library = np.array(
        [[1, 0, 1, 0, 0, 1, 1], [0, 1, 0, 0, 1, 0, 1], [0, 0, 0, 1, 0, 0, 1]], np.float32
    )
    scores = text_rows(ridge, asked) @ molecule_rows(ridge, library).T
    assert scores.argmax(1).tolist() == [1, 2, 0]
    assert scores.argmax(0).tolist() == [2, 0, 1]


def test_centred_ridge_equals_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against dense centred regression in float64, written out from the definition."""
    monkeypatch.setattr(baseline, "STRENGTHS", (0.5,))
    monkeypatch.setattr(baseline, "POWERS", (0.0,))
    texts, fps = toy(60, 2)
    ridge = fit_ridge(texts, fps, texts, fps)
    words = baseline._tfidf(texts, ridge.index, ridge.idf).toarray().astype(np.float64)
    centred, targets = words - words.mean(0), fps - fps.mean(0)
    weights = np.linalg.solve(
        centred.T @ centred + 0.5 * np.eye(words.shape[1]), centred.T @ targets
    )
    expected = centred @ weights
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(text_rows(ridge, texts), expected, atol=1e-4)


def test_tfidf_by_hand() -> None:
    """Two texts, "a a b" and "b c": b is in both, so its idf is 1; a is in one: ln(3/2) + 1."""
    index, idf = baseline._vocabulary(["a a b", "b c"])
    assert sorted(index) == ["a", "a a", "a b", "b", "b c", "c"]
    assert idf[index["b"]] == pytest.approx(1.0)
    assert idf[index["a"]] == pytest.approx(np.log(3 / 2) + 1)
    row = baseline._tfidf(["A unknown a"], index, idf).toarray()[0]
    assert row[index["a"]] == pytest.approx(1.0)  # the only known gram, so a unit row
    assert np.count_nonzero(row) == 1


def test_the_vocabulary_is_that_of_the_training_rows() -> None:
    texts, fps = toy(50, 3)
    ridge = fit_ridge(texts, fps, ["unheard of"] * 50, fps)
    assert "unheard" not in ridge.index


def test_columns_that_never_vary_do_not_count() -> None:
    texts, fps = toy(50, 4)
    ridge = fit_ridge(texts, fps, *toy(20, 5))
    other = fps.copy()
    other[:, -1] = 7
    np.testing.assert_array_equal(molecule_rows(ridge, fps), molecule_rows(ridge, other))


def test_the_same_rows_give_the_same_bits() -> None:
    texts, fps = toy(50, 6)
    first, second = (fit_ridge(texts, fps, *toy(20, 7)) for _ in range(2))
    assert text_rows(first, texts).tobytes() == text_rows(second, texts).tobytes()


@pytest.mark.parametrize("texts", [[], ["one", "two"]])
def test_texts_and_rows_that_do_not_match_are_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="expected training texts and as many fingerprint rows"):
        fit_ridge(texts, np.ones((3, 4), np.float32), ["one"], np.ones((1, 4), np.float32))


def test_fingerprints_count_environments() -> None:
    """Methane: one environment. Ethane: its atoms alike, each with one shared bond of radius 1."""
    methane, ethane, again = fingerprints(["C", "CC", "C(C)"])
    assert methane.sum() == pytest.approx(np.log(2))
    assert np.sort(ethane[ethane > 0]) == pytest.approx([np.log(2), np.log(3)])
    np.testing.assert_array_equal(ethane, again)


def test_fingerprints_see_mirror_images() -> None:
    left, right = fingerprints(["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"])
    assert not np.array_equal(left, right)
