"""Pools: who asks, who is asked, and that every query's target is its own partner."""

from __future__ import annotations

import numpy as np
import pytest

from tmr_jax.data import DataConfig, TableConfig
from tmr_jax.data.datasets import chebi20, pcdes
from tmr_jax.data.pools import (
    POOLS,
    check_complete,
    final_protocol,
    load_pool,
    matched,
    own_text,
    validation_protocol,
)
from tmr_jax.types import Pair, Pool


def whole(pool: Pool) -> bool:
    """Targets lie inside; a pair that asks both ways points at each other."""
    asks = np.flatnonzero(pool.text_target >= 0)
    back = pool.mol_target[pool.text_target[asks]]
    return (
        len(pool.texts) == len(pool.text_target)
        and len(pool.smiles) == len(pool.mol_target)
        and pool.text_target.max() < len(pool.smiles)
        and pool.mol_target.max() < len(pool.texts)
        and bool(np.all((back == asks) | (back == -1)))
    )


def test_matched_pairs_ask_both_ways() -> None:
    pool = matched("x/test", [Pair("1", "a", "C", "test"), Pair("2", "b", "CC", "test")])
    assert pool.texts == ("a", "b") and pool.smiles == ("C", "CC")
    assert pool.text_target.tolist() == pool.mol_target.tolist() == [0, 1]
    assert whole(pool)


def test_the_full_pool_with_all_texts(toy_chebi20) -> None:
    pool = load_pool("chebi20-molt5/full-33008", DataConfig())
    assert pool.text_target.tolist() == pool.mol_target.tolist() == [-1, -1, -1, 3, 4]
    assert whole(pool)
    pool = load_pool("chebi20-text2mol/full-33010", DataConfig())
    assert len(pool.smiles) == len(pool.texts) == 7
    assert (pool.text_target >= 0).sum() == 3 and whole(pool)


def test_the_full_pool_without_training_texts_ranks_molecules_only(toy_chebi20) -> None:
    toy_chebi20.remove_training_texts()
    pool = load_pool("chebi20-molt5/full-33008", DataConfig())
    assert pool.smiles == ("C/C=C" + chr(92) + "C", "CC", "CO", "CN", "CS")
    assert pool.texts == ("The molecule is four.", "Five.")
    assert pool.text_target.tolist() == [3, 4]
    assert pool.mol_target.tolist() == [-1] * 5
    pool = load_pool("chebi20-text2mol/full-33010", DataConfig())
    targets = {t: pool.smiles[i] for t, i in zip(pool.texts, pool.text_target, strict=True)}
    assert targets == {"Compound 4 is it.": "CN", "Compound 5 is it.": "CS", "A wildcard.": "*"}
    assert len(pool.smiles) == 7


def test_splits_of_chebi20_and_the_validation_of_open(toy_chebi20) -> None:
    assert load_pool("chebi20-molt5/test-split", DataConfig()).smiles == ("CN", "CS")
    assert load_pool("chebi20-text2mol/validation", DataConfig()).texts == ("Compound 3 is it.",)
    pool = load_pool("open/validation", DataConfig(name="open"))
    assert (pool.protocol, pool.smiles) == ("open/validation", ("CO",))


def test_a_users_table_has_pools_of_its_own(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("SMILES,description,s\nC,a,train\nCC,b,test\nCCC,c,test\n")
    table = TableConfig(path=str(path), split="column", split_column="s")
    config = DataConfig(name="table", table=table)
    pool = load_pool("table/test", config)
    assert pool.texts == ("b", "c") and whole(pool)
    with pytest.raises(ValueError, match="at least one pair in table/validation"):
        load_pool("table/validation", config)
    with pytest.raises(ValueError, match=r"--data\.name table"):
        load_pool("table/test", DataConfig(name="chebi"))


def test_an_unknown_protocol_gets_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean chebi20-molt5/test-split"):
        load_pool("chebi20-molt5/tests-split", DataConfig())


def test_every_data_set_has_a_validation_pool() -> None:
    for name in ("chebi", "chebi20", "pcdes", "open", "table"):
        assert validation_protocol(DataConfig(name=name)) in POOLS
    assert validation_protocol(DataConfig(name="chebi20", version="molt5")).startswith("chebi20-m")
    assert validation_protocol(DataConfig(validation="pcdes/scaffold")) == "pcdes/scaffold"


def test_the_final_pool_of_every_data_set() -> None:
    sets = ("chebi", "chebi20", "pcdes", "open", "gone")
    names = {n: final_protocol(DataConfig(name=n)) for n in sets}
    assert names == {
        "chebi20": "chebi20-text2mol/test-split",
        "pcdes": "pcdes/file-order",
        "open": "",
        "chebi": "chebi/test",
        "gone": "",
    }
    assert final_protocol(DataConfig(name="pcdes", version="scaffold")) == "pcdes/scaffold"


def test_pairs_that_do_not_ask_have_their_text_too(toy_chebi20) -> None:
    pool = load_pool("chebi20-molt5/full-33008", DataConfig())
    assert own_text(pool).tolist() == [0, 1, 2, 3, 4]
    toy_chebi20.remove_training_texts()
    pool = load_pool("chebi20-molt5/full-33008", DataConfig())
    assert own_text(pool).tolist() == [-1, -1, -1, 0, 1]


def test_a_pool_with_missing_rows_is_refused_by_name(toy_chebi20) -> None:
    named = toy_chebi20.folder / "text2mol_test.txt"
    lines = [line for line in named.read_text().splitlines() if not line.startswith("5\t")]
    toy_chebi20.put(chebi20.TEXT2MOL_PARTS, "test", "\n".join(lines) + "\n")
    source = "chebi20-text2mol/test-split"
    pool = load_pool(source, DataConfig())
    check_complete(pool, source, 0)
    check_complete(pool, source, 2)
    with pytest.raises(ValueError, match=r"got 2 and 0 refused, 1 missing \(5\); .*data SET"):
        check_complete(pool, source, 3)
    with pytest.raises(ValueError, match="1 too many"):
        check_complete(pool, source, 1)


@pytest.fixture
def lines_of_pcdes(monkeypatch):
    """The test of PCdes with one line that is no molecule, less the lines in what is returned."""
    lost: set[int] = set()

    def rows():
        for line in range(pcdes.TEST, pcdes.LINES):
            if line not in lost:
                yield Pair(str(line), f"text {line}", "?" if line == 12_007 else "C", "test")

    monkeypatch.setattr(pcdes, "_staged_rows", rows)
    return lost


def test_a_refused_line_of_pcdes_is_no_missing_one(lines_of_pcdes) -> None:
    pool = load_pool("pcdes/file-order", DataConfig())
    assert len(pool.smiles) == 2999
    check_complete(pool, "pcdes/file-order", 3000)
    lines_of_pcdes |= set(range(12_010, 12_022))
    pool = load_pool("pcdes/file-order", DataConfig())
    with pytest.raises(ValueError) as error:
        check_complete(pool, "pcdes/file-order", 3000)
    named = ", ".join(str(line) for line in range(12_010, 12_020))
    assert f"got 2,987 and 1 refused, 12 missing ({named}, ...); fetch" in str(error.value)


@pytest.mark.real_data
@pytest.mark.parametrize(
    "protocol, texts, smiles, molecules_ask",
    [
        ("chebi20-text2mol/full-33010", 3301, 33010, 0),
        ("chebi20-text2mol/test-split", 3301, 3301, 3301),
        ("chebi20-molt5/full-33008", 3300, 33008, 0),
        ("chebi20-molt5/test-split", 3300, 3300, 3300),
        ("chebi20-molt5/validation", 3301, 3301, 3301),
        ("pcdes/file-order", 2999, 2999, 2999),
        ("pcdes/file-order-validation", 1500, 1500, 1500),
        ("pcdes/scaffold", 2993, 2993, 2993),
    ],
)
def test_the_real_pools(protocol, texts, smiles, molecules_ask) -> None:
    pool = load_pool(protocol, DataConfig())
    assert len(pool.texts) == (pool.text_target >= 0).sum() == texts
    assert len(pool.smiles) == smiles
    assert (pool.mol_target >= 0).sum() == molecules_ask
    check_complete(pool, protocol, POOLS[protocol])
    assert whole(pool)
