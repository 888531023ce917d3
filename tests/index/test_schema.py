"""Words to filters, and filters to rows."""

from __future__ import annotations

import numpy as np
import pytest

from tmr_jax.data.features.properties import mask_of
from tmr_jax.index.schema import (
    COLUMNS,
    Condition,
    Filter,
    OwnCondition,
    meets,
    parse_filter,
)


def test_words():
    words = ["MW<500", "logp >= -1.5", "nitrile", "!nitro", "unsalted"]
    assert parse_filter(words) == Filter(
        (Condition("mw", "<", 500.0), Condition("logp", ">=", -1.5)),
        mask_of(["nitrile"]),
        mask_of(["nitro"]),
        unsalted=True,
    )
    assert not any(parse_filter([]))


COLUMNS_OF_FILE = {"pIC50": "number", "IC 50": "number", "ic-50": "text", "x>y": "date"}


@pytest.mark.parametrize(
    "word, condition",
    [
        ("pIC50>7.25", ("pIC50", ">", 7.25)),
        ("PIC_50 <= -1e2", ("pIC50", "<=", -100.0)),
        ("IC 50=5", ("IC 50", "=", 5.0)),
        ("ic-50=>5<", ("ic-50", "=", ">5<")),
        ("x>y>=2024-01-31", ("x>y", ">=", "2024-01-31")),
    ],
)
def test_a_column_of_the_file_is_compared(word, condition):
    found = parse_filter([word, "MW<500"], COLUMNS_OF_FILE)
    assert found == Filter((Condition("mw", "<", 500.0),), own=(OwnCondition(*condition),))


@pytest.mark.parametrize(
    "word, said",
    [
        ("mw<heavy", "got 'mw<heavy'"),
        ("weight<500", "a column of the file to compare, got 'weight'"),
        ("nitril", "did you mean nitrile"),
        ("!nitril", "did you mean nitrile"),
        ("!unsalted", "did you mean unsalted"),
        ("", "got ''"),
        ("ic50>5", "which may be 'IC 50' or 'ic-50'; write it as the file does"),
        ("ic-50>5", "holds text, with ="),
        ("pIC50>", "got 'pIC50>'"),
        ("pIC50=007", "which holds numbers"),
        ("x>y=2024-02-30", "which holds dates"),
        ("pIC51>5", "a property or a column of the file to compare, got 'pIC51'; did you mean pIC"),
        ("log>5", "did you mean logp"),
        ("pIC50", "or pIC50=... of the file"),
    ],
)
def test_what_is_not_a_filter(word, said):
    with pytest.raises(ValueError, match="expected ") as caught:
        parse_filter([word], COLUMNS_OF_FILE)
    assert said in str(caught.value)


def test_without_columns_only_properties_are_compared():
    with pytest.raises(ValueError, match="a property to compare, got 'weight'"):
        parse_filter(["weight<500"])


def test_flags_cannot_tell_the_first_of_equal_molecules_with_other_cells():
    columns = {"x": "number"}
    words = {"distinct": "", "distinct x>1": "identity", "parents": "", "parents x>1": "parent"}
    words |= {"distinct mw<9": "", "parents mw<9": "parent", "x>1": ""}
    assert {w: parse_filter(w.split(), columns).repeats for w in words} == words


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
