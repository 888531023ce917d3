"""Diagnostics of small pools whose numbers follow by hand."""

import json

import numpy as np
import pytest

import tmr_jax.data.datasets.pcdes  # noqa: F401 - it would keep a `find` that a test replaces
from tmr_jax.config import DataConfig, TableConfig
from tmr_jax.eval.analysis import slot_record
from tmr_jax.eval.diagnostics import (
    UNRELATED,
    calibration_record,
    companions,
    diagnose,
    fit,
    geometry_record,
    ood_record,
    unrelated_sentences,
)
from tmr_jax.eval.pools import EncodedPool, trained_temperature
from tmr_jax.eval.terminal import diagnostic_lines, slot_lines
from tmr_jax.models.encode import Encoded, l2_normalize
from tmr_jax.types import EncodedCorpus, Pool

COUNT, DIM = 40, 12


def rows(seed, count=COUNT, dim=DIM):
    return l2_normalize(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


def sides(protocol, text, mol, side=None):
    index = np.arange(len(text))
    names = tuple(f"text {i}" for i in index), tuple(f"molecule {i}" for i in index)
    pool = Pool(protocol, *names, index, index)
    return EncodedPool(pool, Encoded(text, index, side), Encoded(mol, index, side))


def near(mol, seed, noise=0.3):
    """Texts near their molecules."""
    moved = mol + noise * np.random.default_rng(seed).normal(size=mol.shape).astype(np.float32)
    return l2_normalize(moved)


def domain(protocol, seed):
    """Pairs in the half-space where the first coordinate is large."""
    mol = rows(seed)
    mol[:, 0] = 1.5
    mol = l2_normalize(mol)
    return sides(protocol, near(mol, seed + 1), mol)


def away(seed, count=20):
    found = rows(seed, count)
    found[:, 0] = -1.5
    return l2_normalize(found)


def fitted(validation, unrelated=None):
    found = fit(validation, away(9) if unrelated is None else unrelated)
    assert found is not None
    return found


def full_record(trained=0.07):
    other = sides("pcdes/file-order", away(7, COUNT), away(8, COUNT))
    same = domain("chebi20-molt5/full-33008", 30)
    tested, watched = (domain(f"chebi20-molt5/{name}", i) for name, i in (("test", 1), ("v", 4)))
    return diagnose(tested, fitted(watched), [other, same], away(9), trained)


def test_a_record_tells_strangers_from_the_domain():
    record = full_record()
    assert record["ood"]["auroc"] == {UNRELATED: 1.0, "pcdes/file-order": 1.0}
    assert record["ood"]["flagged"][UNRELATED] == 1.0
    assert record["ood"]["queries"][UNRELATED] == 10  # every second one
    counts = record["ood"]["histogram"]["counts"]
    assert {name: sum(c) for name, c in counts.items()} == record["ood"]["queries"]
    assert [c["direction"] for c in record["calibration"]] == ["t2m", "m2t"]
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_pools_of_the_own_data_set_are_no_other_domain():
    record = full_record()
    assert "chebi20-molt5/full-33008" not in record["ood"]["queries"]
    names = record["similarity"]["counts"]
    assert set(names) == {
        "positive, chebi20-molt5/test",
        "negative, chebi20-molt5/test",
        "positive, pcdes/file-order",
        "negative, pcdes/file-order",
    }
    assert sum(names["positive, pcdes/file-order"]) == COUNT
    assert sum(names["negative, pcdes/file-order"]) == COUNT * (COUNT - 1)


@pytest.mark.parametrize("name", ["pcdes/scaffold", "ood/open→pcdes/filtered"])
def test_a_pool_is_no_other_domain_for_its_own_data_set(name):
    other = sides("pcdes/file-order", away(7, COUNT), away(8, COUNT))
    record = diagnose(domain(name, 1), fitted(domain("open/v", 4)), [other], away(9), None)
    assert record is not None and set(record["ood"]["queries"]) == {name, UNRELATED}


def test_the_signal_and_the_tested_pool_are_strangers():
    """What `fit` gives is all that comes from validation, and a strange pool looks strange."""
    known = fitted(domain("a/validation", 4))
    found = ood_record(sides("a/test", away(20), away(21)), known, [], away(9))
    assert found["auroc"][UNRELATED] < 0.9 and found["flagged"]["a/test"] == 1.0
    assert found["threshold"] == known.threshold


def test_the_sentences_that_choose_do_not_measure():
    tested, watched = domain("a/test", 1), domain("a/validation", 4)
    strange = away(9)
    moved = strange.copy()
    moved[1::2] = tested.text.rows[:10]  # those that measure
    plain, other = (fitted(watched, r) for r in (strange, moved))
    assert plain.tried == other.tried and plain.threshold == other.threshold
    measured = [ood_record(tested, plain, [], r)["auroc"][UNRELATED] for r in (strange, moved)]
    assert measured[1] < measured[0]


def test_a_text_is_no_neighbour_of_itself():
    """Validation texts that are known are not asked: else each would be at distance 0."""
    basis = np.eye(8, dtype=np.float32)
    found = fitted(sides("a/validation", basis, basis), -basis)
    assert found.known.tolist() == basis[[0, 2, 4, 6]].tolist()
    assert found.threshold == pytest.approx(1.0)  # the others are at right angles to all known


def test_the_signal_that_tells_best_is_chosen():
    """All texts are at right angles to one another, and only the molecules know the familiar."""
    basis = np.eye(8, dtype=np.float32)
    watched, strange = sides("a/validation", basis, basis), -basis[[1, 3, 5, 7]]
    found = fitted(watched, strange)
    assert found.signal == ("candidates", 1)
    assert list(found.tried.values()) == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0]
    assert found.threshold == pytest.approx(0.0, abs=1e-6)
    # The candidates are those of the tested pool.
    turned = sides("a/test", basis, -basis)
    measured = ood_record(turned, found, [], strange)
    assert measured["auroc"][UNRELATED] == pytest.approx(0.0)


def test_calibration_by_hand():
    """Three of four are right at a margin of 1: T is 1 / log 3, as sure as it is right."""
    axes = np.eye(2, dtype=np.float32)
    text, target = axes[[0, 0, 0, 0]], np.array([0, 0, 0, 1])
    pool = Pool("a/test", ("t",) * 4, ("m",) * 2, target, np.array([-1, -1]))
    four = EncodedPool(pool, Encoded(text, np.zeros(4, int)), Encoded(axes, np.arange(2)))
    known = fitted(four, axes)
    assert list(known.temperature) == ["t2m"]  # no molecule asks
    assert known.temperature["t2m"] == pytest.approx(1 / np.log(3), rel=2e-3)
    found = calibration_record(four, "t2m", known.temperature["t2m"], None)
    assert found["ece"] == pytest.approx(0.0, abs=1e-3)
    sure = 1 / (1 + np.exp(-1))
    assert found["temperature_before"] == 1.0
    assert found["ece_before"] == pytest.approx(0.75 - sure, abs=1e-6)
    assert found["hits@1"] == 0.75 and sum(found["bins"]["count"]) == 4


def test_twins_are_right_half_the_time():
    axes = np.eye(2, dtype=np.float32)
    pool = Pool("a/test", ("t",), ("m",) * 3, np.array([0]), np.full(3, -1))
    mol = Encoded(axes[[0, 0, 1]], np.array([0, 0, 1]))
    found = calibration_record(
        EncodedPool(pool, Encoded(axes[:1], np.zeros(1, int)), mol), "t2m", 0.5, 0.01
    )
    assert found["hits@1"] == 0.5 and found["ece_before"] == pytest.approx(0.0, abs=1e-6)
    assert found["ece"] == pytest.approx(0.5 - 1 / (2 + np.exp(-2)))


def test_texts_that_are_only_queries_have_one_direction():
    tested = domain("a/test", 1)
    queries = tested.pool._replace(mol_target=np.full(COUNT, -1))
    known = fitted(domain("a/v", 4))
    record = diagnose(tested._replace(pool=queries), known, [], away(9), None)
    assert record is not None and [c["direction"] for c in record["calibration"]] == ["t2m"]


def test_a_pool_of_one_text_has_no_record():
    one = sides("a/test", rows(0, 1), rows(1, 1))
    assert diagnose(one, fitted(domain("a/v", 4)), [], away(9), None) is None
    assert fit(one, away(9)) is None


def test_gap_of_parts_is_that_of_the_means_of_words():
    axes = np.eye(4, dtype=np.float32)
    parts = np.stack([3 * axes[0], axes[0], 5 * axes[1]])  # two words, one word
    words = EncodedCorpus(axes[:2], parts, np.array([0, 2, 3]), np.zeros(2, int))
    atoms = EncodedCorpus(axes[:2], axes[2:], np.array([0, 1, 2]), np.zeros(2, int))
    found = sides("a/test", axes[:2], axes[:2])
    assert geometry_record(found)["gap_of_parts"] is None
    found = found._replace(text=found.text._replace(side=words), mol=found.mol._replace(side=atoms))
    shape = geometry_record(found)
    assert shape["gap_of_parts"] == pytest.approx(1.0)  # (1, 1, 0, 0) / 2 from (0, 0, 1, 1) / 2
    assert shape["modality_gap"] == 0.0 and shape["alignment"] == 0.0
    assert shape["uniformity_text"] == pytest.approx(-4.0)


def test_slots_that_stay_and_look_at_everything_are_dead():
    start = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    moved = np.array([[0.0, 1.0], [0.0, 1.0], [0.001, 0.0], [0.001, 0.0], [1.0, 0.0]])
    sharpness = np.array([0.3, 0.2, 0.0, 0.3, 0.001])
    found = slot_record(start, start + moved, sharpness)
    assert found["dead"] == [2]  # slot 3 stays but reads sharply, slot 4 reads evenly but moved
    assert found["moved"] == pytest.approx([1, 1, 0.001, 0.001, 1])
    assert found["norm_start"] == [0, 1, 1, 2, 1]
    assert found["cosine"][0] is None and found["cosine"][1] == pytest.approx(np.sqrt(0.5))
    assert "dead slots: 2" in slot_lines(found)[0]
    assert "no dead slot" in slot_lines(found | {"dead": []})[0]
    json.dumps(found, allow_nan=False)


def test_a_bank_that_never_moved_is_dead_where_it_reads_evenly():
    bank = rows(0, 3)
    assert slot_record(bank, bank, np.array([0.0, 0.5, 0.0]))["dead"] == [0, 2]


def test_lines_say_every_number():
    lines = "\n".join(diagnostic_lines(full_record()))
    assert "AUROC 1.000 against unrelated sentences (10, 100.0 % above" in lines
    assert "AUROC 1.000 against pcdes/file-order (40," in lines
    assert lines.count("ECE") == 2 and "at T 0.0700" in lines
    assert "alignment" in lines and "modality gap" in lines


def test_the_temperature_of_training():
    assert trained_temperature({"log_scale": np.log(20.0)}) == pytest.approx(0.05)
    assert trained_temperature({"log_scale": np.float32(9.0)}) == pytest.approx(0.01)  # its limit


def test_the_data_set_in_the_package_has_no_companion_where_no_file_is_on_disk():
    assert [pool.protocol for pool in companions(DataConfig(name="chebi"))] == ["chebi/validation"]


def test_a_run_without_validation_pairs_has_no_companions_and_says_so(tmp_path, capsys):
    path = tmp_path / "pairs.csv"
    path.write_text("description,SMILES,split\nethanol,CCO,train\nwater,O,test\n")
    table = TableConfig(path=str(path), split="column", split_column="split")
    assert companions(DataConfig(name="table", table=table)) == []
    assert "OOD scores and calibration are skipped" in capsys.readouterr().err


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("open", ["open/validation", "pcdes/file-order"]),
        ("pcdes", ["pcdes/file-order-validation", "chebi20-molt5/test-split"]),
    ],
)
def test_companions_of_real_data(name, found):
    assert [pool.protocol for pool in companions(DataConfig(name=name))] == found


def test_sentences_are_many_distinct_and_of_many_lengths():
    sentences = unrelated_sentences()
    assert len(sentences) >= 200 and len(set(sentences)) == len(sentences)
    lengths = [len(s.split()) for s in sentences]
    assert min(lengths) <= 2 and max(lengths) >= 40
    text = " ".join(sentences).lower()
    assert not any(word in text for word in ("molecul", "acid", "chemi", "compound"))
