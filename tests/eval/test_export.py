"""Export of a run: golden numbers, the card, and commands that use the weights that are shipped."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import tmr_jax
from tmr_jax.data.features.text import load_tokenizer
from tmr_jax.eval.__main__ import main as evaluate
from tmr_jax.eval.export import GOLDEN, MOLECULES, TEXTS, main
from tmr_jax.index.__main__ import main as index
from tmr_jax.models import runtime
from tmr_jax.models.layers.bert import Bert, stacked
from tmr_jax.models.pretrained import load_bert
from tmr_jax.models.run import load_run
from tmr_jax.models.runtime import EXPORTED, SHIPPED, SUMS
from tmr_jax.search.__main__ import main as search
from tmr_jax.serve.__main__ import Arguments, opener
from tmr_jax.types import UserError

pytestmark = pytest.mark.costly

REPORT = {
    "source": "the tiny table",
    "rows": 60,
    "left_out": 7,
    "refused": {"unparsable": 2},
    "notes": ["a note of the report"],
    "training": {"pairs": 41, "molecules_refused": {"no atoms": 1}},
    "sources": [
        {"source": "ChEBI definitions", "licence": "CC BY 4.0", "rows": 30},
        {"source": "notes of ours", "licence": "CC0", "rows": 11},
    ],
}


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run with the report of its data."""
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("runs") / "tiny")
    assert evaluate(["--run", str(run)]) == 0
    (run / "validation.json").write_text(json.dumps(REPORT), encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    assert main([str(run), str(out)]) == 0
    return out


@pytest.fixture
def shipped(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The exported weights as if they came with the package; tests run in an empty folder."""
    folder = shutil.copytree(exported, tmp_path / "package")
    monkeypatch.setattr(runtime, "SHIPPED", folder)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("my.smi").write_text("CCO ethanol\nNc1ccccc1 aniline\n")
    return folder


def check_golden(folder: Path) -> None:
    """The golden numbers of a folder come out again, within the tolerance that it states."""
    golden, model = json.loads((folder / GOLDEN).read_text("utf-8")), tmr_jax.load(folder)
    assert golden["tolerance"] <= 5e-3 and golden["cosine"] > 0.999
    inputs, numbers = list(golden["embeddings"]), np.array(list(golden["embeddings"].values()))
    assert numbers.shape == (8, 8)
    found = np.concatenate([model.encode_text(inputs[:4]), model.encode_molecules(inputs[4:])])
    np.testing.assert_allclose(found[:, :8], numbers, rtol=0, atol=golden["tolerance"])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_golden_numbers_are_those_of_the_rounded_weights(exported: Path) -> None:
    check_golden(exported)


def test_other_weights_do_not_give_the_golden_numbers(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "out")
    golden = json.loads((folder / GOLDEN).read_text("utf-8"))
    golden["embeddings"]["a dipeptide"][3] += 0.006
    (folder / GOLDEN).write_text(json.dumps(golden), encoding="utf-8")
    with pytest.raises(AssertionError, match="Mismatched elements: 1"):
        check_golden(folder)


@pytest.mark.skipif(not (SHIPPED / EXPORTED).is_file(), reason="no weights are shipped yet")
def test_the_shipped_weights_are_whole_and_small() -> None:
    check_golden(SHIPPED)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 40e6
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=SHIPPED, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_sums_name_every_file(exported: Path) -> None:
    lines = (exported / SUMS).read_text("utf-8").splitlines()
    assert {line.split("  ")[1] for line in lines} == {*contents(exported)} - {SUMS}
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=exported, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert (exported / EXPORTED).stat().st_mode & 0o777 == (exported / SUMS).stat().st_mode & 0o777


def test_the_card_has_rows_scores_and_credits(run: Path, exported: Path) -> None:
    card = (exported / "README.md").read_text("utf-8")
    assert "| ChEBI definitions | CC BY 4.0 | 30 |\n| notes of ours | CC0 | 11 |\n" in card
    assert "41 training pairs. 60 rows were read, 7 left out" in card
    assert "2 unparsable, 1 no atoms" in card and "a note of the report" in card
    scores = json.loads((run / "results.json").read_text("utf-8"))["scores"]
    by_model = [score for score in scores if score["scorer"] == "model"]
    for score in by_model:
        numbers = [f"{100 * score['metrics'][f'hits@{k}']:.1f}" for k in (1, 5, 10, 20)]
        line = next(x for x in card.splitlines() if f"table/test {score['direction']}" in x)
        assert line.split()[4:8] == numbers
    assert (
        card.count("table/test ") == len(scores)
        and len(by_model) == 2
        and "after rounding" not in card
    )
    assert "creativecommons.org/licenses/by/4.0" in card and "MiniLM" not in card


def test_scores_of_the_rounded_weights_join_the_card(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(exported, tmp_path / "out")
    before = contents(folder)
    assert evaluate(["--run", str(folder)]) == 0
    assert main([str(run), str(folder), "--beside", str(run)]) == 0
    after = contents(folder)
    card = after["README.md"].decode()
    assert [h for h in card.splitlines() if h.startswith("### ")] == [
        "### Scores before rounding",
        "### Scores after rounding",
        "### Scores of another run, tiny",
    ]
    assert {n for n, c in after.items() if before.get(n) != c} == {
        *("README.md", SUMS, "known.npz", "ranks.json", "report.html", "results.json")
    }
    text = capsys.readouterr().out
    assert "MB; cosine of embeddings before and after: 0.99" in text or "1.00000" in text
    assert "InChIKeys" in text


def test_what_cannot_be_exported_is_said_and_leaves_nothing(
    tiny_run: Path, run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_run), str(tmp_path / "out")]) == 2
    assert "got no results.json; evaluate it: tmr eval" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([str(run), str(run)]) == 2
    assert "which exists; choose another" in capsys.readouterr().err
    other = shutil.copytree(run, tmp_path / "other")
    results = json.loads((other / "results.json").read_text("utf-8"))
    results["checkpoint"]["sha256"] = "0" * 64
    (other / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert main([str(other), str(tmp_path / "out")]) == 2
    assert "got those of another checkpoint; evaluate" in capsys.readouterr().err
    assert main([str(exported), str(exported)]) == 2  # its parameters are those after rounding
    assert "which exists; choose another" in capsys.readouterr().err


# For other programs


@pytest.fixture(scope="module")
def full(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("full") / "out"
    assert main([str(run), str(out), "--full"]) == 0
    return out


def test_a_full_export_gives_the_embeddings_of_the_run_bit_for_bit(run: Path, full: Path) -> None:
    there, here = tmr_jax.load(run), tmr_jax.load(full)
    for method, inputs in (("encode_text", TEXTS), ("encode_molecules", MOLECULES)):
        rows = getattr(there, method)(inputs)
        assert (np.asarray(getattr(here, method)(inputs)) == rows).all() and len(rows) == 4
    assert load_run(full)[2] == load_run(run)[2]  # so an index of the run fits
    check_golden(full)


def test_the_text_encoder_and_its_projection_make_the_embedding(full: Path) -> None:
    folder = full / "text_encoder"
    config, params, _ = load_bert(str(folder))  # tests/models/test_pretrained.py: as published
    model, rows = load_run(full)[0], tmr_jax.load(full).encode_text(TEXTS)
    head = load_file(folder / "projection.safetensors")
    for text, row in zip(TEXTS, rows, strict=True):
        tokens = load_tokenizer(folder).encode([text], 96)[0][0][None]
        states = Bert(config).apply({"params": stacked(params)}, tokens, tokens > -1)
        words = np.asarray(states)[0] @ head["projection.weight"].T + head["projection.bias"]
        words = (words - words.mean(1, keepdims=True)) / np.sqrt(words.var(1)[:, None] + 1e-6)
        pooled = (words * head["norm.weight"] + head["norm.bias"]).mean(0)
        np.testing.assert_allclose(pooled / np.linalg.norm(pooled), row, rtol=0, atol=1e-5)
    assert model.config.model.text.pooling == "mean" and config == model.bert


def test_the_card_and_the_sums_of_a_full_export_have_its_folder(full: Path) -> None:
    card = (full / "README.md").read_text("utf-8")
    assert "pooling: mean" in card and "rounding" not in card and "onnx" not in card
    assert "### Scores of these weights" in card and "in float32\n" in card and "int8" not in card
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=full, capture_output=True, text=True)
    assert done.returncode == 0 and "text_encoder/model.safetensors: OK" in done.stdout


def test_a_full_export_needs_a_new_folder(
    run: Path, exported: Path, full: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([str(exported), "--full"], [str(full), "--full"], [str(full)]):
        before = (Path(arguments[0]) / "README.md").stat().st_mtime_ns
        assert main([str(run), *arguments]) == 2
        assert "which exists; choose another" in capsys.readouterr().err
        assert (Path(arguments[0]) / "README.md").stat().st_mtime_ns == before


# Without --run


def test_search_index_and_python_use_the_shipped_weights(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmr_jax.load()
    assert model.run == str(shipped)
    assert search(["an amine", "--library", "my.smi", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["results"][0]["hits"]
    assert {hit["name"] for hit in hits} == {"ethanol", "aniline"}
    assert index(["--library", "my.smi", "--out", "built"]) == 0
    assert len(model.with_library("built").search("an amine")) == 2  # built with this model
    assert opener(Arguments(Path("built")))().run == str(shipped)


def test_evaluation_works_on_a_copy_of_the_shipped_weights(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(shipped)
    assert evaluate(["--protocol", "table/test"]) == 0
    assert "table/test" in capsys.readouterr().out and (Path("runs/shipped/results.json")).is_file()
    assert contents(shipped) == before
    assert evaluate([]) == 0
    assert "other weights" not in capsys.readouterr().err
    (shipped / SUMS).write_bytes(before[SUMS] + b"\n")
    assert evaluate([]) == 0
    assert "they are now in runs/shipped.old-1" in capsys.readouterr().err
    assert {path.name for path in Path("runs").iterdir()} == {"shipped", "shipped.old-1"}


def test_without_weights_every_command_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime, "SHIPPED", tmp_path)
    commands = (
        (search, ["an amine", "--library", "my.smi"]),
        (index, ["--library", "my.smi", "--out", str(tmp_path / "built")]),
        (evaluate, []),
    )
    for command, args in commands:
        assert command(args) == 2
        error = capsys.readouterr().err
        assert "expected a trained model; got no run" in error and "--run runs/quickstart" in error
    with pytest.raises(UserError, match="tmr train --exp quickstart"):
        tmr_jax.load()
