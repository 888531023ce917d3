"""The card of open is computed from the structures, and finds no molecule of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmr_jax.data import __main__ as command
from tmr_jax.data.datasets import open_card, open_pairs
from tmr_jax.data.pools import matched
from tmr_jax.types import Pair

DOCS = Path(__file__).resolve().parents[3] / "docs"
TRAINED = [
    Pair("1", "an  amino acid", "C[C@@H](N)C(=O)O", "train"),
    Pair("CHEBI:7", "ethanol", "OCC", "train"),
    Pair("chebi20-9", "a diol of two carbon atoms", "OCCO", "train"),
]


@pytest.fixture
def pools(monkeypatch) -> None:
    """One pool holds alanine's mirror image and two texts of training, the others propane."""
    twin = [
        Pair("a", "an amino acid", "C[C@H](N)C(=O)O", "test"),
        Pair("b", "ethanol", "C", "test"),
    ]
    rows = {name: [Pair("c", "propane", "CCC", "test")] for name in open_card.POOLS}
    rows["pcdes/file-order"] = twin
    monkeypatch.setattr(open_card, "load_pool", lambda name, config: matched(name, rows[name]))


def test_a_stereoisomer_and_a_text_of_an_evaluation_are_found(pools) -> None:
    assert [leak[1:] for leak in open_card.leakage(TRAINED)] == [(1, 0, 0)] * 3 + [(2, 1, 2)]


def test_a_row_of_the_card_counts_words_and_molecules(pools, tmp_path, monkeypatch) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("source\tx\ngitmol_toy\t0\n")
    monkeypatch.setattr(open_pairs, "table_of", lambda version: path)
    again = Pair("CHEBI:8", "an alcohol of two", "CCO", "train")
    monkeypatch.setattr(open_card, "load", lambda version: ([*TRAINED, again], None))
    lines = open_card.card("2").splitlines()
    # words 1 and 4 of one molecule: half way, and nine tenths of it, as numpy has it
    assert "| chebi | 2 | 1 | 2 | 4 | 4 | CC BY 4.0 (ChEBI) |" in lines
    assert "| all | 4 | 3 | 4 | 5 | 6 |  |" in lines
    assert [line.split(" | ")[0] for line in lines[4:7]] == [
        "| gitmol_toy",
        "| chebi",
        "| chebi20 training captions",
    ]


def test_only_open_has_a_card(capsys) -> None:
    assert command.main(["pcdes", "--card"]) == 2
    assert "expected --card of open" in capsys.readouterr().err


@pytest.mark.costly
@pytest.mark.real_data
def test_no_molecule_of_an_evaluation_is_trained_on_and_the_card_is_in_the_documentation() -> None:
    """By the connectivity of the structures, for each pair and all four pools."""
    card = open_card.card("2")
    pools = [line.strip("| ").split(" | ") for line in card.splitlines()[-4:]]
    assert [name for name, *_ in pools] == list(open_card.POOLS)
    assert [(int(shared), int(texts)) for _, _, shared, texts in pools] == [(0, 0)] * 4
    assert card in (DOCS / "data.md").read_text(encoding="utf-8")
