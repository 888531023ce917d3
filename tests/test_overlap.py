"""Training molecules in a test set: whose split it is, and what is counted or refused."""

import dataclasses
import json

import numpy as np
import pytest

from tmr_jax.config import DataConfig, Experiment, TableConfig
from tmr_jax.overlap import overlap, own_split
from tmr_jax.types import Pool

TABLE = """id,text,smiles,split
1,ethanol,CCO,train
2,alanine,C[C@@H](N)C(=O)O,train
3,benzene,c1ccccc1,test
"""


@pytest.fixture
def trained(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(TABLE, encoding="utf-8")
    table = TableConfig(
        path=str(path), text="text", smiles="smiles", split="column", split_column="split"
    )
    run = tmp_path / "run"
    run.mkdir()
    return run, Experiment(data=DataConfig(name="table", table=table))


def pool_of(protocol, *smiles):
    target = np.arange(len(smiles))
    return Pool(protocol, tuple(f"text {i}" for i in target), smiles, target, target)


def test_own_split():
    chebi, pcdes = DataConfig(name="chebi20", version="molt5"), DataConfig(name="pcdes")
    opened, demo = DataConfig(name="open"), DataConfig(name="demo")
    assert own_split(chebi, chebi, "chebi20-text2mol/full-33010")
    assert own_split(pcdes, pcdes, "pcdes/file-order-validation")
    assert not own_split(pcdes, pcdes, "pcdes/scaffold")
    assert not own_split(opened, opened, "chebi20-molt5/test-split")
    assert not own_split(opened, opened, "open/validation")
    assert own_split(demo, demo, "demo/test")
    assert not own_split(demo, DataConfig(name="demo", seed=1), "demo/test")


def test_an_own_split_counts_what_it_shares(trained):
    run, config = trained
    # The other alanine: connectivity is what counts, not the stereo centre.
    pool = pool_of("table/test", "c1ccccc1", "C[C@H](N)C(=O)O")
    found = overlap(run, config, config.data, pool)
    assert (found["queried"], found["in_training"], found["own_split"]) == (2, 1, True)


def test_a_foreign_set_is_refused_for_one_shared_molecule(trained):
    run, config = trained
    pool = pool_of("pcdes/file-order", "c1ccccc1", "OCC")
    with pytest.raises(ValueError, match="1 of 2 by InChIKey block 1"):
        overlap(run, config, DataConfig(name="pcdes"), pool)


def test_only_queried_molecules_count(trained):
    run, config = trained
    targets = np.array([0]), np.array([0, -1])
    pool = Pool("pcdes/file-order", ("benzene",), ("c1ccccc1", "CCO"), *targets)
    found = overlap(run, config, DataConfig(name="pcdes"), pool)
    assert (found["queried"], found["in_training"]) == (1, 0)


def test_earlier_stages_count_too(trained):
    run, config = trained
    own = run.parent / "own.csv"
    own.write_text("text,smiles,split\nbenzene,c1ccccc1,train\n", encoding="utf-8")
    table = dataclasses.replace(config.data.table, path=str(own))
    second = Experiment(data=DataConfig(name="table", table=table))
    (run / "stages.json").write_text(
        json.dumps([dataclasses.asdict(config.data)]), encoding="utf-8"
    )
    pool = pool_of("table/test", "CCO")
    with pytest.raises(ValueError, match="1 of 1"):
        overlap(run, second, config.data, pool)


def test_molecules_that_are_none_are_compared_as_written(trained):
    run, config = trained
    found = overlap(run, config, config.data, pool_of("table/test", "not a molecule"))
    assert (found["queried"], found["in_training"]) == (1, 0)
