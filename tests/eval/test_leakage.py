"""Training pairs in a test: whose split it is, and what is counted, left out or refused."""

import dataclasses
import json

import numpy as np
import pytest

from tmr_jax.config import DataConfig, Experiment, TableConfig
from tmr_jax.data import load_pairs
from tmr_jax.eval.leakage import (
    TRAINED_ON,
    check,
    check_data,
    digest,
    first_block,
    keep_record,
    molecule_key,
    own_test,
    trained_on,
)
from tmr_jax.eval.protocols import find
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


def pool_of(*smiles, texts=()):
    target = np.arange(len(smiles))
    return Pool("x", texts or tuple(f"text {i}" for i in target), smiles, target, target)


def test_the_own_test_of_a_run():
    opened, own = DataConfig(name="open"), DataConfig(name="chebi")
    chebi = DataConfig(name="chebi20", version="molt5")
    assert own_test(chebi, own) == "chebi20-molt5/test-split"
    assert own_test(opened, opened) == ""
    assert own_test(own, own) == own_test(own, DataConfig(name="chebi", seed=1)) == "chebi/test"
    table, other = (DataConfig(name="table", seed=seed) for seed in (0, 1))
    assert own_test(table, table) == "table/test" and own_test(table, other) == ""


def test_connectivity_in_training_is_counted_in_an_own_split(trained):
    # The other alanine is another molecule of the same connectivity.
    pool = pool_of("c1ccccc1", "C[C@H](N)C(=O)O")
    found = check(*trained, find("table/test", "table/test"), pool)
    assert found.pool.text_target.tolist() == found.pool.mol_target.tolist() == [0, 1]
    assert found.record["own_split"]
    assert [found.record[k] for k in ("queried", "in_training", "left_out")] == [2, 1, 0]


def test_a_trained_molecule_or_text_of_an_own_split_asks_no_more(trained):
    pool = pool_of("c1ccccc1", "OCC", "CCN", "CCC", texts=("benzene", "a", "alanine", "b"))
    found = check(*trained, find("table/test", "table/test"), pool)
    assert found.pool.text_target.tolist() == found.pool.mol_target.tolist() == [0, -1, -1, 3]
    assert found.pool.smiles == pool.smiles and found.pool.texts == pool.texts
    assert [found.record[k] for k in ("queried", "in_training", "left_out")] == [2, 0, 2]


def test_without_the_filter_an_own_split_is_refused_with_the_number(trained):
    strict = dataclasses.replace(find("table/test", "table/test"), filter="none")
    pool = pool_of("OCC", "CCN", "CCC", texts=("a", "alanine", "b"))
    with pytest.raises(ValueError, match=r"\(InChIKey\) or text was trained on; got 2 of 3"):
        check(*trained, strict, pool)


def test_a_run_on_what_it_was_trained_on_is_refused(trained):
    pool = pool_of("OCC", "N[C@H](C)C(=O)O")
    with pytest.raises(ValueError, match="got none: all 2 are in training"):
        check(*trained, find("table/test", "table/test"), pool)


def test_a_foreign_set_is_refused_for_one_shared_molecule(trained):
    pool = pool_of("c1ccccc1", "OCC")
    with pytest.raises(ValueError, match=r"1 of 2 by InChIKey block 1.* the data set's own pool"):
        check(*trained, find("pcdes/file-order", "table/test"), pool)
    with pytest.raises(ValueError, match=r"1 of 2 by .*rank ood/table→pcdes/filtered"):
        check(*trained, find("ood/table→pcdes", "table/test"), pool)


def test_out_of_domain_leaves_out_queries_but_no_candidates(trained):
    # A shared text is no breach here, a shared connectivity is.
    pool = pool_of("c1ccccc1", "C[C@H](N)C(=O)O", texts=("ethanol", "b"))
    found = check(*trained, find("ood/table→pcdes/filtered", ""), pool)
    assert found.pool.text_target.tolist() == found.pool.mol_target.tolist() == [0, -1]
    assert found.pool.smiles == pool.smiles
    assert [found.record[k] for k in ("queried", "in_training", "left_out")] == [1, 0, 1]


def test_out_of_domain_asks_what_the_run_was_trained_on(trained):
    check_data(*trained, find("ood/table->pcdes", ""))
    check_data(*trained, find("pcdes/file-order", ""))
    with pytest.raises(ValueError, match=r"trained on open for ood/open→pcdes; got .* on table"):
        check_data(*trained, find("ood/open->pcdes", ""))


def test_only_queried_molecules_count(trained):
    targets = np.array([0]), np.array([0, -1])
    pool = Pool("x", ("benzene",), ("c1ccccc1", "CCO"), *targets)
    found = check(*trained, find("pcdes/file-order", ""), pool)
    assert (found.record["queried"], found.record["in_training"]) == (1, 0)


def test_earlier_stages_count_too(trained):
    run, config = trained
    own = run.parent / "own.csv"
    own.write_text("text,smiles,split\nbenzene,c1ccccc1,train\n", encoding="utf-8")
    table = dataclasses.replace(config.data.table, path=str(own))
    second = Experiment(data=DataConfig(name="table", table=table))
    (run / "stages.json").write_text(
        json.dumps([dataclasses.asdict(config.data)]), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="1 of 1"):
        check(run, second, find("table/test", ""), pool_of("CCO"))
    stages = json.loads((run / TRAINED_ON).read_text())
    assert [len(stage["molecules"]) for stage in stages] == [1, 2]
    assert stages[0]["texts"] == [digest("benzene")]


def test_the_record_of_the_run_outlives_the_data(trained):
    run, config = trained
    check(run, config, find("table/test", "table/test"), pool_of("CC"))
    kept = (run / TRAINED_ON).read_bytes()
    (run.parent / "pairs.csv").unlink()
    with pytest.raises(ValueError, match="got 1 of 1"):
        check(run, config, find("pcdes/file-order", ""), pool_of("CCO"))
    assert (run / TRAINED_ON).read_bytes() == kept
    (run / TRAINED_ON).unlink()
    with pytest.raises(ValueError, match="expected the training pairs of"):
        check(run, config, find("pcdes/file-order", ""), pool_of("CCO"))
    found = check(run, config, find("table/test", "table/test"), pool_of("CCO"))
    assert found.record["in_training"] is None and found.blocks is None


def test_a_record_made_before_open_had_versions_is_of_the_first(tmp_path):
    stored = {"data": {"name": "open", "version": ""}, "molecules": ["A-B-C"], "texts": []}
    (tmp_path / TRAINED_ON).write_text(json.dumps([stored]))
    opened = DataConfig(name="open", version="1")
    assert trained_on(tmp_path, opened).molecules == {"A-B-C"}


def pairs_of(config):
    return load_pairs(config.data)


def test_a_run_keeps_what_it_was_trained_on_before_the_file_changes(trained):
    run, config = trained
    keep_record(run, config.data, pairs_of(config), None)
    path = run.parent / "pairs.csv"
    path.write_text(TABLE.replace("ethanol,CCO", "propane,CCC"), encoding="utf-8")
    found = check(run, config, find("table/test", "table/test"), pool_of("c1ccccc1", "OCC"))
    assert found.record["left_out"] == 1  # ethanol, which the file knows no more
    keep_record(run, config.data, pairs_of(config), None)  # it goes on with the new file
    later = check(run, config, find("table/test", "table/test"), pool_of("OCC", "CCC", "CN"))
    assert (later.record["queried"], later.record["left_out"]) == (1, 2)


def test_a_second_stage_takes_over_the_record_of_the_first(trained):
    run, config = trained
    keep_record(run, config.data, pairs_of(config), None)
    second = run.parent / "second"
    second.mkdir()
    keep_record(second, DataConfig(name="chebi"), [], run)
    stages = json.loads((second / TRAINED_ON).read_text())
    assert [len(stage["molecules"]) for stage in stages] == [2, 0]


def test_a_record_with_fields_of_an_older_version_is_of_the_same_data(trained):
    run, config = trained
    keep_record(run, config.data, pairs_of(config), None)
    (stage,) = json.loads((run / TRAINED_ON).read_text())
    stage["data"]["demo"] = {"train": 6000, "validation": 500, "test": 1000}
    (run / TRAINED_ON).write_text(json.dumps([stage]))
    (run.parent / "pairs.csv").unlink()  # so that nothing can be computed again
    found = check(run, config, find("table/test", "table/test"), pool_of("c1ccccc1", "OCC"))
    assert found.record["left_out"] == 1


def test_two_stages_of_one_file_at_two_times_both_count(trained):
    run, config = trained
    keep_record(run, config.data, pairs_of(config), None)
    path = run.parent / "pairs.csv"
    path.write_text(TABLE.replace("ethanol,CCO", "propane,CCC"), encoding="utf-8")
    second = run.parent / "second"
    second.mkdir()
    stages = [dataclasses.asdict(config.data)]
    (second / "stages.json").write_text(json.dumps(stages), encoding="utf-8")
    keep_record(second, config.data, pairs_of(config), run)
    found = check(second, config, find("table/test", "table/test"), pool_of("OCC", "CCC", "CN"))
    assert (found.record["queried"], found.record["left_out"]) == (1, 2)


def test_molecules_that_are_none_are_compared_as_written(trained):
    found = check(*trained, find("table/test", "table/test"), pool_of("not a molecule", "CC"))
    assert (found.record["queried"], found.record["in_training"]) == (2, 0)


def test_the_first_block_of_a_key():
    assert first_block("QNAYBMKLOCPYGJ-REOHCLBHSA-N") == "QNAYBMKLOCPYGJ"
    # No InChI: a dummy atom. The charge has a hyphen, the stereo centre is no connectivity.
    left, right = (molecule_key(s) for s in ("*C[C@H](F)[O-]", "*C[C@@H](F)[O-]"))
    assert left != right and left.startswith("SMI:")
    assert first_block(left) == first_block(right) != first_block(molecule_key("*CC[O-]"))
    assert first_block("SMI:not a molecule") == "SMI:not a molecule"
