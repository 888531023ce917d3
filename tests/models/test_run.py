"""A run directory alone gives the same model back; contradictions are said before training."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests.tiny_pairs import PAIRS, TINY, with_section
from tmr_jax.config import to_json
from tmr_jax.data import load_pairs
from tmr_jax.models.run import load_model, save_model
from tmr_jax.train.dataset import model_and_dataset


def morgan():
    graph = dataclasses.replace(TINY.model.graph, kind="gcn")
    config = with_section("model", graph=graph)
    features = dataclasses.replace(config.features, molecule="morgan1")
    return dataclasses.replace(config, features=features)


@pytest.mark.parametrize("config", [TINY, morgan()], ids=["ogb", "morgan1"])
def test_a_run_directory_gives_the_same_assembly_back(tmp_path, config):
    assembly, data, weights = model_and_dataset(config, PAIRS)
    assert weights is None
    (tmp_path / "config.json").write_text(to_json(config))
    save_model(tmp_path, assembly, data.shapes)
    again = load_model(tmp_path)
    assert again.model == assembly.model
    assert again.bert == assembly.bert
    assert again.tokenizer.sha256 == assembly.tokenizer.sha256
    if config.features.molecule == "morgan1":
        assert again.vocabulary is not None and assembly.vocabulary is not None
        np.testing.assert_array_equal(again.vocabulary.identifiers, assembly.vocabulary.identifiers)


def test_a_run_of_other_features_or_another_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a run directory with config\.json"):
        load_model(tmp_path)
    assembly, data, _ = model_and_dataset(TINY, PAIRS)
    (tmp_path / "config.json").write_text(to_json(TINY))
    save_model(tmp_path, assembly, data.shapes)
    path = tmp_path / "features.json"
    features = json.loads(path.read_text())
    path.write_text(json.dumps({**features, "tokenizer_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="copy the run again"):
        load_model(tmp_path)
    path.write_text(json.dumps({**features, "featuriser": 99}))
    with pytest.raises(ValueError, match="got version 99"):
        load_model(tmp_path)


def test_a_run_of_another_machines_attention_is_read(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["train"]["attention"] = "cudnn"  # of an NVIDIA GPU; training with it is refused here
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assembly = load_model(run)
    assert assembly.config.train.attention == "cudnn" and assembly.model.attention == "low_memory"
    with pytest.raises(ValueError, match="NVIDIA"):
        model_and_dataset(assembly.config, load_pairs(assembly.config.data))
