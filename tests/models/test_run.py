"""A run directory alone gives the same model back; contradictions are said before training."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tmr_jax.config import load_experiment, to_json
from tmr_jax.data import load_pairs
from tmr_jax.models.run import (
    Encoder,
    assemble_for_training,
    assemble_from_run,
    molecule_groups,
    save_assembly,
)
from tmr_jax.types import Pair

TINY = load_experiment(str(Path(__file__).parents[1] / "experiments" / "tiny.py"))
TINY = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, batch_size=4))
SMILES = ("CCO", "OCC", "c1ccccc1", "C1CC", "C[C@H](O)F", "C[C@@H](O)F", "CO", "CCO")
PAIRS = [Pair(f"p{i}", f"molecule number {i % 7}", s, "train") for i, s in enumerate(SMILES)]


def with_section(name, **changes):
    return dataclasses.replace(TINY, **{name: dataclasses.replace(getattr(TINY, name), **changes)})


def morgan():
    graph = dataclasses.replace(TINY.model.graph, kind="gcn")
    config = with_section("model", graph=graph)
    features = dataclasses.replace(config.features, molecule="morgan1")
    return dataclasses.replace(config, features=features)


@pytest.mark.parametrize("config", [TINY, morgan()], ids=["ogb", "morgan1"])
def test_a_run_directory_gives_the_same_assembly_back(tmp_path, config):
    assembly, data, weights = assemble_for_training(config, PAIRS)
    assert weights is None
    (tmp_path / "config.json").write_text(to_json(config))
    save_assembly(tmp_path, assembly, data.shapes)
    again = assemble_from_run(tmp_path)
    assert again.model == assembly.model
    assert again.bert == assembly.bert
    assert again.tokenizer.sha256 == assembly.tokenizer.sha256
    if config.features.molecule == "morgan1":
        assert again.vocabulary is not None and assembly.vocabulary is not None
        np.testing.assert_array_equal(again.vocabulary.identifiers, assembly.vocabulary.identifiers)


def test_refused_molecules_leave_and_equal_ones_share_a_group():
    _, data, _ = assemble_for_training(TINY, PAIRS)
    assert data.ids == ("p0", "p1", "p2", "p4", "p5", "p6", "p7")
    assert [(r.index, r.reason) for r in data.refused] == [(3, "unparsable")]
    group = data.mol_group
    assert group[0] == group[1] == group[6]
    assert len(set(group.tolist())) == 5  # the stereo-isomers are two molecules
    assert data.text_group[0] == data.text_group[6]
    assert len(set(data.text_group.tolist())) == 6


def test_groups_are_kept_in_the_cache_and_a_damaged_file_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr("tmr_jax.models.run.CACHE_FROM", 1)
    first = molecule_groups(["CCO", "OCC", "CN"])
    assert first.tolist() == [0, 0, 1]
    (path,) = tmp_path.glob("groups-*.npz")
    path.write_bytes(b"x")
    np.testing.assert_array_equal(molecule_groups(["CCO", "OCC", "CN"]), first)
    assert path.stat().st_size > 100


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (with_section("features", max_tokens=500), "at most 128"),
        (with_section("train", text_buckets=(32, 64)), "add 96 to --train.text-buckets"),
        (with_section("features", molecule="morgan1"), "the residual graph encoder reads bond"),
    ],
)
def test_sections_that_contradict_each_other_are_errors(config, told):
    with pytest.raises(ValueError, match=told):
        assemble_for_training(config, PAIRS)


def test_no_training_pairs_is_an_error():
    with pytest.raises(ValueError, match="expected training pairs"):
        assemble_for_training(TINY, [p._replace(split="test") for p in PAIRS])


def test_a_run_of_other_features_or_another_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a run directory with config\.json"):
        assemble_from_run(tmp_path)
    assembly, data, _ = assemble_for_training(TINY, PAIRS)
    (tmp_path / "config.json").write_text(to_json(TINY))
    save_assembly(tmp_path, assembly, data.shapes)
    path = tmp_path / "features.json"
    features = json.loads(path.read_text())
    path.write_text(json.dumps({**features, "tokenizer_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="copy the run again"):
        assemble_from_run(tmp_path)
    path.write_text(json.dumps({**features, "featuriser": 99}))
    with pytest.raises(ValueError, match="got version 99"):
        assemble_from_run(tmp_path)


def test_texts_of_a_library_leave_no_file(tiny_run, tmp_path, monkeypatch):
    """Not even of a frozen text encoder, whose states of a data set are kept."""
    from tmr_jax import load

    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    retriever = load(tiny_run)
    monkeypatch.setattr("tmr_jax.models.run.CACHE_FROM", 2)
    config = retriever.config
    frozen = dataclasses.replace(config, train=dataclasses.replace(config.train, freeze="text"))
    encoder = Encoder(retriever._assembly._replace(config=frozen), retriever._params)
    texts = ["an acid", "ring " * 500, "an acid"]
    encoded, cut = encoder.corpus(texts)
    assert cut.tolist() == [False, True, False]
    assert not list((tmp_path / "cache").glob("states-*"))
    np.testing.assert_allclose(encoded.rows, encoder.texts(texts).rows, atol=1e-6)
    assert len(list((tmp_path / "cache").glob("states-*"))) == 1


def test_several_devices_encode_what_one_does(tiny_run, monkeypatch):
    from tmr_jax import load
    from tmr_jax.models import run as assembly

    smiles = ["C" * (i % 30 + 1) + "O" * (i // 30) for i in range(90)]
    texts = [f"an alcohol of {i} carbon atoms" for i in range(40)]
    alone = load(tiny_run)
    wanted = alone.encode_molecules(smiles), alone.encode_text(texts)
    monkeypatch.setattr(assembly, "devices_at_hand", lambda: jax.devices()[:3])
    shared = load(tiny_run)
    for found, right in zip(
        (shared.encode_molecules(smiles), shared.encode_text(texts)), wanted, strict=True
    ):
        np.testing.assert_allclose(found, right, atol=1e-6)


def test_a_corpus_is_padded_to_finer_lengths_and_encoded_the_same(tiny_run, monkeypatch):
    from tmr_jax import load
    from tmr_jax.models import run as assembly

    retriever = load(tiny_run)
    texts = [f"{i} " + "acid " * (i % 5) for i in range(20)]
    coarse, lengths = retriever.encode_text(texts), []
    batches = assembly.encode_batches_text

    def seen(*words):
        for rows, batch in batches(*words):
            lengths.append(batch.tokens.shape[1])
            yield rows, batch

    monkeypatch.setattr(assembly, "encode_batches_text", seen)
    monkeypatch.setattr(assembly, "CORPUS", len(texts))
    np.testing.assert_allclose(retriever.encode_text(texts), coarse, atol=1e-5)
    assert set(lengths) == {16}  # the only bucket of this run is one of 96
    few = len(lengths)
    retriever.encode_text(texts[:-1])
    assert set(lengths[few:]) == {96}


def test_a_run_of_another_machines_attention_is_read(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["train"]["attention"] = "cudnn"  # of an NVIDIA GPU; training with it is refused here
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assembly = assemble_from_run(run)
    assert assembly.config.train.attention == "cudnn" and assembly.model.attention == "low_memory"
    with pytest.raises(ValueError, match="NVIDIA"):
        assemble_for_training(assembly.config, load_pairs(assembly.config.data))
