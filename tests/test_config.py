"""An experiment's configuration: one default each, JSON in and out, and hints for wrong names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tmr_jax.config import DataConfig, Experiment, TableConfig, from_json, load_experiment, to_json
from tmr_jax.data.datasets import chebi20, open_pairs, pcdes
from tmr_jax.train.__main__ import parse


def test_json_holds_every_field_and_comes_back_equal() -> None:
    config = dataclasses.replace(
        Experiment(name="x"),
        data=dataclasses.replace(
            Experiment().data, name="table", table=TableConfig(path="a.csv", drop_values=("b", "c"))
        ),
    )
    assert from_json(to_json(config)) == config
    assert set(json.loads(to_json(config))) == {f.name for f in dataclasses.fields(Experiment)}


@pytest.mark.parametrize(
    "change, hint",
    [
        ({"optm": {}}, "did you mean optim"),
        ({"train": {"batchsize": 3}}, "expected a field of config.train; got 'batchsize'"),
        ({"train": {"batchsize": 3}}, "did you mean batch_size"),
        ({"model": {"text": {"sauce": "x"}}}, "expected a field of config.model.text; got 'sauce'"),
    ],
)
def test_unknown_fields_are_named_with_the_nearest(change: dict, hint: str) -> None:
    with pytest.raises(ValueError) as error:
        from_json(json.dumps(change))
    assert hint in str(error.value)


def test_fields_that_an_old_run_lacks_have_their_default() -> None:
    assert from_json('{"train": {"epochs": 3}}').train == dataclasses.replace(
        Experiment().train, epochs=3
    )


def test_values_that_an_old_run_names_otherwise_are_read_as_what_they_are_now() -> None:
    assert from_json('{"train": {"backward": "cpu_fast"}}').train.backward == "low_memory"
    assert from_json('{"train": {"backward": "autodiff"}}').train.backward == "autodiff"
    assert from_json('{"name": "cpu_fast"}').name == "cpu_fast"  # of that field alone


def test_a_run_without_a_version_of_open_was_trained_on_the_first() -> None:
    assert DataConfig(name="open").version == "2"  # and so says its config.json
    for old in ({"name": "open"}, {"name": "open", "version": ""}):
        assert from_json(json.dumps({"data": old})).data.version == "1"
    unseen = {"name": "open", "version": "unseen"}
    assert from_json(json.dumps({"data": unseen})).data.version == "unseen"
    assert from_json(json.dumps({"data": {"name": "chebi20"}})).data.version == ""
    assert parse(["--exp", "quickstart", "--data.name", "open"]).config.data.version == "2"


@pytest.mark.parametrize("version", (*open_pairs.VERSIONS, *chebi20.VERSIONS, *pcdes.PROTOCOLS))
def test_every_version_of_a_data_set_is_an_option(version: str) -> None:
    words = ["--exp", "tests/experiments/tiny.py", "--data.version", version]
    assert parse(words).config.data.version == version


def test_experiments_load_by_name_and_by_path(tmp_path: Path) -> None:
    assert load_experiment("quickstart").name == "quickstart"
    path = tmp_path / "mine.py"
    path.write_text("from tmr_jax.config import Experiment\nCONFIG = Experiment()\n")
    assert load_experiment(str(path)) == Experiment(name="mine")
    with pytest.raises(ValueError, match="did you mean quickstart"):
        load_experiment("quikstart")


def test_configurations_are_frozen_and_hashable() -> None:
    config = Experiment()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "y"  # type: ignore[misc]
    assert hash(config) == hash(Experiment())


OLD = {"state": "outside", "clean": "simplex", "scaled": False}


def test_sizes_of_generated_text_are_read_whatever_they_are() -> None:
    old = {"name": "table", "demo": {"train": 64, "validation": 16, "test": 32}}
    assert from_json(json.dumps({"data": old})).data == DataConfig(name="table")
    assert from_json('{"data": {"name": "demo", "demo": {}}}').data.name == "demo"  # it searches
    with pytest.raises(ValueError, match=r"expected a field of config\.data; got 'dmo'"):
        from_json(json.dumps({"data": {"dmo": {}}}))


def test_former_fields_are_read_with_their_constant_and_refused_otherwise() -> None:
    old = {
        "model": {"hdan": OLD, "text": {"revision": ""}, "graph": {"atom_dropout": 0.0}},
        "eval": {"refine": {"noises": 1}},
    }
    assert from_json(json.dumps(old)) == Experiment()
    with pytest.raises(ValueError, match=r"model\.hdan\.clean = 'simplex'.*collapses"):
        from_json(json.dumps({"model": {"hdan": {"clean": "clamp"}}}))
