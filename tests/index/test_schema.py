"""Words to filters, and filters to rows."""

from __future__ import annotations

import numpy as np
import pytest

from tmr_jax.data.features.properties import mask_of
from tmr_jax.index.schema import COLUMNS, Condition, Filter, meets, parse_filter


def test_words():
    words = ["MW<500", "logp >= -1.5", "nitrile", "!nitro", "unsalted"]
    assert parse_filter(words) == Filter(
        (Condition("mw", "<", 500.0), Condition("logp", ">=", -1.5)),
        mask_of(["nitrile"]),
        mask_of(["nitro"]),
        unsalted=True,
    )
    assert not any(parse_filter([]))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("mw<heavy", "got 'mw<heavy'"),
        ("weight<500", "a property to compare, got 'weight'"),
        ("nitril", "did you mean nitrile"),
        ("!nitril", "did you mean nitrile"),
        ("!unsalted", "did you mean unsalted"),
        ("", "got ''"),
    ],
)
def test_what_is_no_filter(word, said):
    with pytest.raises(ValueError, match="expected a ") as caught:
        parse_filter([word])
    assert said in str(caught.value)


def test_rows_by_hand():
    columns = {name: np.zeros(4, kind) for name, kind in COLUMNS.items()}
    columns["mw"][:] = [100, 500, 500.5, 1000]
    columns["charge"][:] = [-1, 0, 1, 2]
    columns["groups"][:] = [0b00, 0b01, 0b11, 0b10]
    columns["salt"][0] = columns["duplicate"][1] = columns["variant"][2] = True

    def rows(*words: str, **more) -> list[int]:
        return np.flatnonzero(meets(columns, parse_filter(words)._replace(**more))).tolist()

    assert rows() == [0, 1, 2, 3]
    assert rows("mw<500") == [0] and rows("mw<=500") == [0, 1] and rows("mw>500") == [2, 3]
    assert rows("mw>=500.5") == [2, 3] and rows("mw=500") == [1]
    assert rows("charge>0.5") == [2, 3] and rows("charge=0", "mw<600") == [1]
    assert rows(groups=0b11) == [2] and rows(groups=0b01) == [1, 2] and rows(without=0b01) == [0, 3]
    columns["classes"][:] = [0b0, 0b1, 0b1, 0b0]
    assert rows("steroid") == [1, 2] and rows("!steroid", "phenol") == [3]
    assert rows("steroid", "phenol") == [2]
    assert rows("unsalted") == [1, 2, 3] and rows("distinct") == [0, 2, 3]
    assert rows("parents") == [0, 1, 3]
