"""Pools cut into batches, without skipped molecules, encoded once."""

import numpy as np
import pytest

from tmr_jax.eval.pools import EncodedPool, Restored, encode_pools, in_whole_batches, without
from tmr_jax.eval.scores import (
    query_sets,
    score_sides,
)
from tmr_jax.models.encode import Encoded
from tmr_jax.types import Pool


def test_batches_are_whole_and_a_small_pool_has_none():
    pool = Pool("x", tuple("abcde"), tuple("CNOSF"), *2 * [np.array([0, 1, -1, 3, 4])])
    rows = Encoded(np.eye(5, dtype=np.float32), np.arange(5))
    found, text, mol = in_whole_batches(EncodedPool(pool, rows, rows), 2)
    assert found.texts == tuple("abcd") and len(text.rows) == len(mol.rows) == 4
    t2m = score_sides(found.protocol, query_sets(found, text, mol, 2))[0]
    assert (len(t2m.ranking.greater), t2m.ranking.pool_size) == (3, 2)
    with pytest.raises(ValueError, match="at least 6 pairs for x; got 5"):
        in_whole_batches(EncodedPool(pool, rows, rows), 6)


def test_refused_molecules_leave_with_their_texts():
    pool = Pool(
        "x/y",
        ("a", "b", "c"),
        ("C", "?", "CC", "CCC"),
        np.array([0, 1, 3]),
        np.array([0, 1, -1, 2]),
    )
    found = without(pool, np.array([True, False, True, True]))
    assert found.texts == ("a", "c") and found.smiles == ("C", "CC", "CCC")
    assert found.text_target.tolist() == [0, 2]
    assert found.mol_target.tolist() == [0, -1, 1]
    assert without(pool, np.ones(4, bool)) is pool
    asks_nothing = Pool(
        "x", tuple("abcd"), ("A", "bad", "C"), np.array([0, 1, 2, -1]), np.array([0, 1, 2])
    )
    found = without(asks_nothing, np.array([True, False, True]))
    assert found.texts == ("a", "c", "d") and found.text_target.tolist() == [0, 1, -1]
    assert found.mol_target.tolist() == [0, 1]
    only_candidate = pool._replace(text_target=np.array([0, -1, 3]))
    assert without(only_candidate, np.array([True, False, True, True])).texts == ("a", "c")


def test_each_distinct_string_of_all_pools_is_encoded_once():
    seen = []

    def texts(items):
        seen.append(list(items))
        return Encoded(np.eye(len(items), dtype=np.float32), np.arange(len(items)))

    def molecules(items):
        side = texts(items)
        kept = np.array([i for i, s in enumerate(items) if s != "?"])
        return Encoded(side.rows[kept], side.group[kept]), kept

    one = Pool("one", ("a", "b"), ("C", "CC"), np.arange(2), np.arange(2))
    two = Pool("two", ("b", "d"), ("CC", "?"), np.arange(2), np.arange(2))
    sides, refused = encode_pools(Restored({}, texts, molecules), [one, two])
    assert seen == [["C", "CC", "?"], ["a", "b"]]
    assert refused == {"one": 0, "two": 1}
    assert sides[1].pool.texts == ("b",) and sides[1].text.rows.tolist() == [[0.0, 1.0]]
