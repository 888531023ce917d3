"""Fitting a linear branch: against dense float64, on validation, in a run and without one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tmr_jax.data.tables import TextTable
from tmr_jax.eval.__main__ import main as evaluate
from tmr_jax.eval.evaluate import check_fitted, read_config
from tmr_jax.models.encode import Encoder, l2_normalize
from tmr_jax.models.lexical import about_lexical, read_lexical, tfidf
from tmr_jax.models.run import load_run
from tmr_jax.models.runtime import FITTED, LEXICAL
from tmr_jax.search.retriever import load
from tmr_jax.table.runner import best_digest
from tmr_jax.train import lexical as fitting
from tmr_jax.train.__main__ import main as train
from tmr_jax.train.lexical import POWER, STRENGTH, fit, fit_lexical, main
from tmr_jax.train.two_stage import finished
from tmr_jax.types import UserError

TINY = str(Path(__file__).parents[1] / "experiments" / "tiny.py")


def toy(count=60, kinds=12):
    """Texts of four tokens and molecules of three fragments that the first tokens name."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, kinds, (count, 4)).astype(np.int32)
    counts = np.zeros((count, kinds + 2), np.uint8)
    for row, text in zip(counts, tokens, strict=True):
        row[text[:3]] = random.integers(1, 4, 3)
    offsets = np.arange(0, 4 * count + 1, 4, dtype=np.int64)
    return TextTable(tokens.ravel(), offsets, np.zeros(count, bool)), counts


def test_equals_a_dense_fit_in_float64():
    text, counts = toy()
    found = fit_lexical(text, counts, width=5)
    words = tfidf(text.tokens, text.offsets, found.grams, found.idf).toarray().astype(float)
    there = (counts > 0).astype(float)
    x, y = words - words.mean(0), there - there.mean(0)
    weights = np.linalg.inv(x.T @ x + STRENGTH * np.eye(x.shape[1])) @ x.T @ y
    _, values, right = np.linalg.svd(x @ weights, full_matrices=False)
    variance = values[:5] ** 2 / len(x)
    axes = right[:5].T * variance ** (-POWER / 2)
    both = (text.tokens, text.offsets, x @ weights @ axes), (counts, None, y @ axes)
    ours = found.text_rows(*both[0][:2]), found.mol_rows(counts)
    ours = [l2_normalize(rows) for rows in ours]
    theirs = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for *_, rows in both]
    # An axis has no sign of its own, so cosines are compared.
    np.testing.assert_allclose(ours[0] @ ours[1].T, theirs[0] @ theirs[1].T, atol=1e-3)
    assert found.width == 5 and (np.diff(found.grams) > 0).all()


def test_finds_the_molecule_of_a_text():
    text, counts = toy()
    found = fit_lexical(text, counts, width=12)
    rows = found.text_rows(text.tokens, text.offsets), found.mol_rows(counts)
    cosine = l2_normalize(rows[0]) @ l2_normalize(rows[1]).T
    assert (cosine.argmax(1) == np.arange(len(cosine))).mean() > 0.8


def test_the_grams_of_most_texts_are_kept(monkeypatch):
    monkeypatch.setattr(fitting, "VOCABULARY", 3)
    tokens, offsets = np.array([7, 8, 7, 8, 7, 9], np.int32), np.array([0, 2, 5, 6], np.int64)
    text = TextTable(tokens, offsets, np.zeros(3, bool))
    found = fit_lexical(text, np.eye(3, dtype=np.uint8), width=2)
    assert found.grams.tolist() == [7, 8, 8 * 2**32 + 8]  # 7 and 8 of two texts each, "7 8" too
    np.testing.assert_allclose(found.idf, np.log(4 / 3) + 1, rtol=1e-6)


# In a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose training ended with a branch of 6 numbers."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    options = ["--features.molecule", "ogb_counts", "--train.lexical", "6", "--train.epochs", "1"]
    patch = pytest.MonkeyPatch()
    patch.setattr(fitting, "SHARES", (0.5,))
    assert train(["--exp", TINY, "--run", str(run), *options]) == 0
    patch.undo()
    return run


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_training_ends_with_the_branch(run):
    model, params, checkpoint = load_run(run)
    assert model.lexical.share == 0.5 and model.lexical.width == 6
    assert model.width == model.config.model.dim + 6
    encoder, plain = Encoder(model, params), Encoder(model._replace(lexical=None), params)
    texts = ["an alcohol", "molecule number 3", "an alcohol"]
    rows, deep = encoder.texts(texts).rows, plain.texts(texts).rows
    assert rows.shape == (3, model.width) and np.array_equal(rows[0], rows[2])
    np.testing.assert_allclose(rows[:, :-6], deep * np.sqrt(0.5), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    alone = encoder.texts(texts[:1]).rows[:, -6:]
    assert np.array_equal(alone, rows[:1, -6:])
    molecules = encoder.molecules(["CCO", "OCC", "C1CC"])
    assert np.array_equal(molecules[0].rows[0], molecules[0].rows[1])
    (run / LEXICAL).unlink()
    assert load_run(run)[2].sha256 != checkpoint.sha256


def test_a_table_knows_the_scores_of_a_run_with_a_branch(run):
    assert best_digest(run) == load_run(run)[2].sha256  # which results.json has


def test_a_training_that_stopped_before_the_branch_has_not_ended(run, capsys):
    assert finished(run)
    check_fitted(run, read_config(run))
    (run / FITTED).unlink()
    check_fitted(run, read_config(run))  # an older run, with its branch
    assert not finished(run)
    (run / LEXICAL).unlink()
    assert evaluate(["--run", str(run)]) == 2
    error = capsys.readouterr().err
    assert "whose training has ended" in error and "which lacks lexical.safetensors" in error
    (run / FITTED).write_text("{}")  # it gained nothing
    check_fitted(run, read_config(run))


def test_an_index_and_a_search_have_its_width(run, tmp_path):
    retriever = load(run)
    assert retriever.with_library(["CCO", "c1ccccc1"]).search("an alcohol", k=1)[0].rank == 1
    library = tmp_path / "library.smi"
    library.write_text("CCO ethanol\nc1ccccc1 benzene\n")
    assert len(retriever.with_library(library).search("an alcohol")) == 2


def test_the_share_is_chosen_on_validation(run, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "_mrr", lambda side, branch, share: 1 - abs(share - 0.35))
    assert main(["--run", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "table/validation, MRR by share: 0 0.6500, 0.2 0.8500, 0.35 1.0000, 0.5 0.85" in printed
    about = about_lexical(run)
    assert about["chosen_on"] == "table/validation" and json.loads(about["mrr"])["0.35"] == 1
    assert read_lexical(run).share == 0.35
    monkeypatch.setattr(fitting, "_mrr", None)  # a finished training does not choose again
    assert fit(run, again=False).share == 0.35


def test_a_branch_that_gains_nothing_is_not_kept(run, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "_mrr", lambda *_: 0.5)
    assert fit(run) is None and not (run / LEXICAL).exists()
    assert "gains nothing" in capsys.readouterr().out


def test_a_share_of_the_network_alone_gives_the_ranks_of_the_network(run):
    from tmr_jax.data.pools import load_pool
    from tmr_jax.eval.pools import encode_pools, restored

    model, params, checkpoint = load_run(run)
    pool = load_pool(f"{model.config.data.name}/validation", model.config.data)
    sides = [
        encode_pools(restored(m, params, checkpoint._asdict()), [pool])[0][0]
        for m in (model, model._replace(lexical=None))
    ]
    alone = fitting._mrr(sides[0], model.lexical, 0.0)
    from tmr_jax.eval.metrics import metrics
    from tmr_jax.eval.scores import query_sets

    plain = np.mean([metrics(one.ranking())["mrr"] for one in query_sets(*sides[1])])
    assert alone == pytest.approx(plain)


def test_a_model_without_counts_is_refused(tiny_run):
    with pytest.raises(UserError, match="expected a run that counts fragments; got ogb"):
        fit(tiny_run)


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "use ogb_counts"),
        (["--train.lexical", "-1"], "expected --train.lexical of at least 0; got -1"),
        (["--model.name", "difftmr"], "expected --train.lexical with a model that has no second"),
    ],
)
def test_training_refuses_at_its_start(options, message, tmp_path, capsys):
    words = ["--exp", TINY, "--run", str(tmp_path / "run"), "--train.lexical", "8", *options]
    assert train(words) == 2
    assert message in capsys.readouterr().err
