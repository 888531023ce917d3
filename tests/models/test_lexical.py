"""The linear branch: its n-grams by hand, rows that depend on nothing else, its file."""

from itertools import pairwise

import numpy as np
import pytest

from tmr_jax.models.lexical import (
    Lexical,
    about_lexical,
    gram_ids,
    read_lexical,
    tfidf,
    write_lexical,
)
from tmr_jax.models.run import branch_sha256
from tmr_jax.models.runtime import LEXICAL
from tmr_jax.types import UserError


def packed(*texts):
    """Token ids of texts as a table has them."""
    offsets = np.cumsum([0, *map(len, texts)])
    return np.array([t for text in texts for t in text], np.int32), offsets.astype(np.int64)


def pair(first, second):
    return (first + 1) * 2**32 + second


def branch(width=3, share=0.25):
    draw = np.random.default_rng(0).normal
    grams = np.array([2, 3, 5, pair(2, 3), pair(3, 5)], np.int64)
    sizes = (5,), (5, width), (width,), (7, width), (width,)
    return Lexical(grams, *(draw(size=s).astype(np.float32) ** 2 for s in sizes), share)


def test_word_pieces_and_pairs_inside_of_a_text():
    ids, text = gram_ids(*packed([2, 3, 3], [], [5], [2, 5]))
    found = sorted(zip(text.tolist(), ids.tolist(), strict=True))
    first = [(0, 2), (0, 3), (0, 3), (0, pair(2, 3)), (0, pair(3, 3))]
    assert found == [*first, (2, 5), (3, 2), (3, 5), (3, pair(2, 5))]


def test_tfidf_by_hand():
    grams, idf = np.array([2, 3, pair(2, 3)], np.int64), np.array([1, 2, 4], np.float32)
    rows = tfidf(*packed([2, 3, 3, 9], [9]), grams, idf).toarray()
    row = np.array([1, 2 * (1 + np.log(2)), 4])
    np.testing.assert_allclose(rows, [row / np.linalg.norm(row), [0, 0, 0]], rtol=1e-6)


def test_a_row_depends_on_its_own_text_or_molecule_alone():
    random, lexical = np.random.default_rng(1), branch(width=64)
    texts = [random.integers(2, 6, random.integers(0, 9)) for _ in range(50)]
    tokens, offsets = packed(*texts)
    rows = lexical.text_rows(tokens, offsets)
    for i, (a, b) in enumerate(pairwise(offsets)):
        alone = lexical.text_rows(tokens[a:b], np.array([0, b - a]))
        assert np.array_equal(alone[0], rows[i])
    counts = random.integers(0, 3, (50, 7)).astype(np.uint8)
    rows = lexical.mol_rows(counts)
    assert all(np.array_equal(lexical.mol_rows(counts[i : i + 1])[0], rows[i]) for i in range(50))


def test_cosines_add_up_by_their_shares():
    lexical, random = branch(), np.random.default_rng(2)
    deep, own = (random.normal(size=(2, 1, n)).astype(np.float32) for n in (4, 3))
    deep, own = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (deep, own))
    one, other = (lexical.joined(d, o)[0] for d, o in zip(deep, own, strict=True))
    expected = 0.75 * (deep[0] @ deep[1].T) + 0.25 * (own[0] @ own[1].T)
    assert one @ other == pytest.approx(expected.item(), abs=1e-6)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-6)


def test_a_file_keeps_the_branch_in_8_bits(tmp_path):
    lexical = branch(width=20)
    assert read_lexical(tmp_path) is None and branch_sha256(tmp_path) == ""
    assert about_lexical(tmp_path) == {}
    write_lexical(tmp_path, lexical, {"checkpoint": "ab"})
    assert [path.name for path in tmp_path.iterdir()] == [LEXICAL]
    found = read_lexical(tmp_path)
    assert about_lexical(tmp_path) == {"checkpoint": "ab"} and len(branch_sha256(tmp_path)) == 64
    assert found.share == 0.25 and found.width == 20
    for name, value in lexical._asdict().items():
        near = {"words", "fragments"} & {name}
        step = np.abs(value).max(-1, keepdims=True) / 254 if near else 0
        assert (np.abs(getattr(found, name) - value) <= step * 1.001).all(), name


@pytest.mark.parametrize("spoil", [lambda b: b[:-4], lambda b: b"{}", lambda b: b""])
def test_a_damaged_file_is_named(tmp_path, spoil):
    write_lexical(tmp_path, branch(), {})
    path = tmp_path / LEXICAL
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match="expected the linear branch of a model in"):
        read_lexical(tmp_path)
