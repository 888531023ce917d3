"""The columns of molecules in an index, and which molecules count as equal."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tmr_jax.data.tables import pack_chunk
from tmr_jax.data.workers import Died, Worker
from tmr_jax.index import entries
from tmr_jax.index.build import DESCRIBE
from tmr_jax.index.entries import NAMES, describe_chunk
from tmr_jax.index.schema import COLUMNS, FLOATS, INTEGERS


def test_features_are_those_of_training():
    smiles = ["CCO", "nonsense", "c1ccccc1N", "[Na+].[Cl-]"]
    found, alone = describe_chunk(smiles, "ogb", "none"), pack_chunk(smiles, "ogb", "none")
    for name, array in alone.items():
        np.testing.assert_array_equal(found[name], array)
    assert json.loads(found["reasons"].tobytes()) == ["", "unparsable", "", ""]
    assert {len(found[name]) for name in NAMES} == {3}
    assert found["salt"].tolist() == [False, False, True]


def same(one: str, other: str) -> tuple[bool, bool]:
    found = describe_chunk([one, other], "morgan1", "none")
    identity, parent = found["identity"], found["parent"]
    return bool(identity[0] == identity[1]), bool(parent[0] == parent[1])


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("CCO", "OCC", (True, True)),
        ("CCO", "CCN", (False, False)),
        ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", (False, False)),
        ("CC(=O)O", "CC(=O)[O-].[Na+]", (False, True)),
        ("CC(=O)O", "CC(=O)[O-]", (False, True)),
        ("CCN", "CC[NH3+].[Cl-]", (False, True)),
        ("C[N+](C)(C)C", "CN(C)C", (False, False)),  # its charge cannot be taken away
        ("c1ccccc1", "c1ccccc1.O", (False, True)),
    ],
)
def test_molecules_that_are_one(one, other, wanted):
    assert same(one, other) == wanted


def test_a_molecule_that_takes_too_long_is_refused_alone(monkeypatch):
    """By the time of the processor: what others take from a busy machine does not count."""
    spent, row = [0.0], entries._row

    def slow(mol):
        spent[0] += 2.5 if mol.GetNumAtoms() == 4 else 1.5
        return row(mol)

    monkeypatch.setattr(entries.time, "process_time", lambda: spent[0])
    found = describe_chunk(["CCO", "CCCO", "x", "CCN"], "ogb", "none")
    assert json.loads(found["reasons"].tobytes()) == ["", "", "unparsable", ""]
    monkeypatch.setattr(entries, "_row", slow)
    found = describe_chunk(["CCO", "CCCO", "x", "CCN"], "ogb", "none")
    assert json.loads(found["reasons"].tobytes()) == ["", "too-slow", "unparsable", ""]
    assert found["heavy_atoms"].tolist() == [3, 3] == found["node_sizes"].tolist()


def test_nothing_at_all():
    found = describe_chunk(["x", ""], "ogb", "none")
    assert json.loads(found["reasons"].tobytes()) == ["unparsable", "empty"]
    assert len(found["mw"]) == len(found["node_sizes"]) == 0


def test_a_job_that_takes_too_long_ends_with_its_process():
    worker = Worker()
    with pytest.raises(Died):
        worker.ask(DESCRIBE, [["CCO"] * 20_000, "ogb", "none"], limit=0.5)
    found = worker.ask(DESCRIBE, [["CCO"], "ogb", "none"])  # by a new one
    assert found["heavy_atoms"].tolist() == [3]
    worker.close()


def test_an_index_has_the_columns_that_a_molecule_fills():
    assert FLOATS == ("mw", "logp", "tpsa")
    assert INTEGERS == ("hbd", "hba", "rings", "charge", "heavy_atoms")
    filled = set(describe_chunk(["C"], "ogb", "none"))
    assert set(COLUMNS) - filled == {"duplicate", "variant", "norm"}  # the builder knows
