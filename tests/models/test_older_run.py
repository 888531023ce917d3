"""Runs and libraries made before BERT's layers were one: they give the answers that they gave.

`golden/run_a2772e9.tar.gz` was written by commit a2772e9: two runs, a library of each, and what its
evaluation and its search said (`expected.json`). The paths of the runs are relative to the
repository.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import tmr_jax
from tmr_jax.eval.__main__ import main as evaluate
from tmr_jax.models.checkpoint import DRAWS, restore_params
from tmr_jax.search.__main__ import main as search
from tmr_jax.train.__main__ import main as train

pytestmark = [pytest.mark.costly, pytest.mark.usefixtures("optimized")]

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = Path(__file__).parents[1] / "golden" / "run_a2772e9.tar.gz"
RUNS = ("difftmr", "mbank")
SAME = ["--exp", "tests/experiments/tiny.py"]
SAME += ["--data.table.path", "tests/experiments/tiny.csv"]
SAME += ["--model.text.source", "tests/experiments/tiny_bert", "--train.epochs", "4"]
TRAINED = {
    "difftmr": "--model.name difftmr --model.hdan.steps 4 --train.texts packed "
    "--eval.refine.shortlist 8 --eval.refine.samples 2 --eval.refine.candidates 4",
    "mbank": "--model.name mbank --model.bank.slots 4 --model.second-order.u2u 1.0 "
    "--model.second-order.u2c 1.0 --model.bank.adversarial 0 --model.graph.kind gcn_mlp "
    "--features.molecule morgan1",
}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def older(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def expected(older):
    return json.loads((older / "expected.json").read_text(encoding="utf-8"))


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow("mbank")
@pytest.mark.parametrize("name", RUNS)
def test_evaluation_gives_every_query_the_rank_it_had(name, older, expected, capsys):
    assert evaluate(["--run", str(older / name)]) == 0
    ranks = json.loads((older / name / "ranks.json").read_text(encoding="utf-8"))
    assert ranks == expected[name]["ranks"] and len(ranks) >= 2
    assert "damaged" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", RUNS)
def test_search_finds_the_molecules_it_found_in_their_order(name, older, expected, capsys):
    """Through its library, whose rows the older program made, and which fits this checkpoint."""
    before = contents(older / f"{name}-library")
    words = ["--run", str(older / name), "--library", str(older / f"{name}-library"), "--json"]
    words += ["--pure"]
    for asked, more in (("search", []), ("molecule", ["--molecule"])):
        wanted = expected[name][asked]
        assert search([*words, *more, "-k", "10", *wanted]) == 0
        out, err = capsys.readouterr()
        results = json.loads(out)["results"]
        assert [r["query"] for r in results] == list(wanted)
        for result, hits in zip(results, wanted.values(), strict=True):
            assert [h["smiles"] for h in result["hits"]] == [smiles for smiles, _ in hits]
            scores = [h["score"] for h in result["hits"]]
            np.testing.assert_allclose(scores, [score for _, score in hits], rtol=0, atol=1e-5)
        assert "another" not in err
    assert contents(older / f"{name}-library") == before


def test_a_class_cannot_be_asked_of_an_older_library(older, capsys):
    words = ["--run", str(older / "mbank"), "--library", str(older / "mbank-library"), "--json"]
    assert search([*words, "a steroid with a ketone"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["raised"] == ["ketone"]
    assert search([*words, "a ketone", "--where", "!steroid"]) == 2
    assert "expected an index whose molecules are classified" in capsys.readouterr().err


@pytest.mark.parametrize("name", RUNS)
def test_its_parameters_are_those_on_disk_and_have_the_checkpoint_s_name(name, older):
    """The hash that libraries know their run by goes layer by layer, as it did."""
    about = json.loads((older / f"{name}-library" / "library.json").read_text())["about"]
    found = tmr_jax.load(older / name)
    assert found.checkpoint.sha256 == about["model"]["checkpoint"]
    params, _ = restore_params(older / name)
    assert "layers" in params["text_encoder"] and "layer_0" not in params["text_encoder"]


@pytest.mark.slow("mbank")
@pytest.mark.parametrize("name", RUNS)
def test_it_is_not_trained_on_and_is_told_why(name, older, capfd):
    """To the bit it cannot go on, as its masks were drawn otherwise; and nothing is touched."""
    run = older / name
    manifest = json.loads(next((run / "checkpoints").glob("*.manifest.json")).read_text())
    assert manifest.get("draws", 1) < DRAWS
    before = contents(run)
    assert train([*SAME, *TRAINED[name].split(), "--run", str(run)]) == 2
    told = capfd.readouterr().err
    assert "other random numbers" in told and "--fresh" in told and "git.txt" in told
    after = contents(run)
    assert after.pop(Path("lock")) == b""  # every trainer's, held while it looked
    assert after == before
