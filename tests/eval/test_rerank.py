"""DiffTMR from training to search: in one and in two stages, with a score for every stage."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import tmr_jax
from tmr_jax.cli import Signals, Stopped
from tmr_jax.config import HdanConfig, RefineConfig, load_experiment
from tmr_jax.data.pools import load_pool
from tmr_jax.eval.__main__ import main
from tmr_jax.eval.evaluate import chosen_alpha, evaluate
from tmr_jax.eval.leakage import data_seen
from tmr_jax.eval.pools import encode_pools, open_run
from tmr_jax.eval.rerank import choose_alpha, keep_alpha, read_alpha, take
from tmr_jax.models.checkpoint import restore_params
from tmr_jax.models.difftmr import DiffTMR
from tmr_jax.models.encode import Encoded, Encoder
from tmr_jax.train.__main__ import train
from tmr_jax.train.directory import run_directory
from tmr_jax.types import EncodedCorpus, UserError

pytestmark = pytest.mark.costly

TINY = load_experiment(str(Path(__file__).parents[1] / "experiments" / "tiny.py"))
JOINT = dataclasses.replace(
    TINY,
    model=dataclasses.replace(TINY.model, name="difftmr", hdan=HdanConfig(steps=5)),
    train=dataclasses.replace(TINY.train, epochs=2),
    eval=dataclasses.replace(TINY.eval, refine=RefineConfig(shortlist=8, samples=3, candidates=4)),
)


def trained(config, run: Path) -> Path:
    with Signals() as signals:
        train(config, run, False, signals)
    return run


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> Path:
    return trained(JOINT, tmp_path_factory.mktemp("joint") / "run")


def second_stage(encoder: Path):
    second = dataclasses.replace(
        JOINT.train, start=str(encoder), pool_batches=0, alike=2, epochs=3, word_dropout=0.3
    )
    return dataclasses.replace(JOINT, train=second)


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> tuple[Path, Path]:
    """The run of the encoder and the run of the generator."""
    folder = tmp_path_factory.mktemp("stages")
    first = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, epochs=1))
    encoder = trained(first, folder / "encoder")
    return encoder, trained(second_stage(encoder), folder / "generator")


def test_every_tier_of_both_directions_is_reported_with_what_it_depends_on(joint):
    results = evaluate(joint)
    scores = [
        s for s in results["scores"] if s["right"] == "its own partner" and s["scorer"] == "model"
    ]
    names = [(s["direction"], s["tier"]) for s in scores]
    wanted = [(d, t) for d in ("t2m", "m2t") for t in ("det", "tapr", "fused", "x0")]
    assert sorted(names) == sorted(wanted)
    det, fused = (scores[names.index(("t2m", stage))] for stage in ("det", "fused"))
    gained = fused["metrics"]["mrr"] - det["metrics"]["mrr"]
    assert fused["over_det"]["mrr"][0] == pytest.approx(gained)
    assert fused["refined"]["samples"] == 3 and fused["refined"]["steps"] == 5
    assert 0 <= fused["refined"]["recall_denoised"] <= fused["refined"]["recall_shortlist"] <= 1
    kept = json.loads((joint / "refine.json").read_text())[results["checkpoint"]["sha256"]]
    assert kept["alpha"] == fused["refined"]["alpha"] and len(kept["mrr"]) == 8
    assert kept["chosen_on"] == "table/validation"
    page = (joint / "report.html").read_text()
    assert "alpha" in page and "fused" in page


@pytest.mark.slow
def test_other_sizes_may_be_evaluated_and_leave_the_choice_of_the_run_alone(joint, capsys):
    evaluate(joint)
    kept = (joint / "refine.json").read_bytes()
    sizes = ("steps", "2", "samples", "0", "candidates", "4")
    words = [f"--refine.{w}" if w.isalpha() else w for w in sizes]
    assert main(["--run", str(joint), "--verbose", *words]) == 0
    assert "F 0, K 4, S 2, R 1" in " ".join(capsys.readouterr().out.split())
    assert (joint / "refine.json").read_bytes() == kept
    told = json.loads((joint / "results.json").read_text())["scores"]
    tapr = next(s for s in told if s["tier"] == "tapr")
    assert tapr["refined"]["steps"] == 2
    assert tapr["over_det"]["mrr"] == [0, 0, 0]  # without a perturbation it is the cosine
    assert main(["--run", str(joint), "--refine.steps", "99"]) == 2
    assert "expected 1 to 5 sampling steps" in capsys.readouterr().err
    assert main(["--run", str(joint), "--refine.shortlist", "0"]) == 2
    assert "at least 1 for shortlist and candidates" in capsys.readouterr().err


def test_the_curves_of_training_have_every_tier_and_all_losses(joint):
    rows = [json.loads(line) for line in (joint / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/dis", "loss/gen_t2m", "loss/gen_m2t"} <= set(rows[0])
    score = next(row for row in rows if "validation/mrr" in row)
    assert {f"validation/t2m/{t}/mrr" for t in ("det", "tapr", "fused", "x0")} <= set(score)
    tried = [score["validation/t2m/fused/mrr"], score["validation/m2t/fused/mrr"]]
    assert score["validation/mrr"] == pytest.approx(np.mean(tried))


def test_training_leaves_the_choice_of_every_checkpoint_that_evaluation_would_make(joint):
    for which in ("best", "newest"):
        model = open_run(joint, which)
        own = read_alpha(joint, model.checkpoint["sha256"])
        unknown = model._replace(checkpoint={**model.checkpoint, "sha256": f"not {which}"})
        assert own is not None and own == chosen_alpha(joint, JOINT, unknown)


def test_a_search_orders_its_shortlist_by_the_second_stage(joint, tmp_path):
    evaluate(joint)
    smiles = ["CCO", "CCN", "Nc1ccccc1", "c1ccccc1O", "CC(=O)O", "OCC", "CCCl", "CCBr", "CCI", "C"]
    retriever = tmr_jax.load(joint).with_library([*smiles, "CCCCCCO", "CCCCCCN"])
    hits = retriever.search("an alcohol", k=12)
    assert [h.rank for h in hits] == list(range(1, 13))
    assert sorted(h.content for h in hits) == sorted([*smiles, "CCCCCCO", "CCCCCCN"])
    listed = [h for h in hits if h.refined is not None]
    assert listed == hits[: len(listed)] and len(listed) == 8  # the shortlist comes first
    assert [h.content for h in retriever.search("an alcohol", k=3)] == [h.content for h in hits[:3]]
    same = {h.content: (h.score, h.refined) for h in hits}
    assert same["CCO"] == same["OCC"]
    texts = ["an alcohol", "an amine", "a salt"]
    back = retriever.with_texts(texts).search_molecule("CCO", k=3)
    assert all(h.refined is not None for h in back)
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    kept = retriever.with_library(tmp_path / "texts.txt").search_molecule("CCO", k=3)
    assert [(h.content, h.refined) for h in kept] == [(h.content, h.refined) for h in back]


@pytest.mark.slow("True")
@pytest.mark.parametrize("on_disk", [True, False])
def test_a_search_scores_what_it_finds_as_evaluation_does(joint, tmp_path, on_disk):
    """Evaluation reads every molecule of the shortlist, a search those that are denoised."""
    smiles = ["CCO", "CCN", "Nc1ccccc1", "c1ccccc1O", "CC(=O)O", "OCC", "CCCl", "CCCCN"]
    (tmp_path / "my.smi").write_text("\n".join(smiles))
    retriever = tmr_jax.load(joint).with_library(tmp_path / "my.smi" if on_disk else smiles)
    retriever.alpha = 0.3
    retriever.warm()
    read = retriever._reader._text, retriever._reader._mol
    compiled = [of._cache_size() for of in read]
    encoder = Encoder(retriever._assembly, retriever._params, parts=True)
    mol = encoder.molecules(smiles)[0]
    for text in ("an alcohol", "an aromatic amine with a ring"):
        lists = retriever._second_stage.reranker.lists(
            encoder.texts([text]), mol, "t2m", np.zeros(1, int)
        )
        s1, clean = lists.reranked.perturbed[0], lists.reranked.clean[0]
        right = dict(zip(lists.reranked.item[0].tolist(), s1, strict=True))
        head = lists.reranked.item[0][:4].tolist()
        right |= {item: right[item] + 0.3 * r for item, r in zip(head, clean, strict=True)}
        hits = retriever.search(text, k=8)
        assert [of._cache_size() for of in read] == compiled
        assert len(clean) == 4 and len({hit.content for hit in hits}) == 8
        found = [right[mol.group[smiles.index(hit.content)]] for hit in hits]
        assert [hit.refined for hit in hits] == pytest.approx(found, abs=1e-5)
        inside = [mol.group[smiles.index(hit.content)] in head for hit in hits]
        assert inside == sorted(inside, reverse=True)
        assert found[: sum(inside)] == sorted(found[: sum(inside)], reverse=True)
        assert found[sum(inside) :] == sorted(found[sum(inside) :], reverse=True)


@pytest.mark.slow
def test_the_second_stage_leaves_the_encoder_as_it_was(stages):
    encoder, generator = stages
    before, after = restore_params(encoder, "best")[0], restore_params(generator, "newest")[0]
    assert set(after) - set(before) == DiffTMR.generator
    for name in before:
        same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), before[name], after[name])
        assert all(jax.tree.leaves(same)), name
    first = restore_params(generator, "best")[0]
    assert set(first) == set(after)
    for name in ("t2m", "m2t"):  # biases begin at zero
        assert all(np.abs(v).max() > 0 for k, v in after[name].items() if k.endswith("_bias"))


class Ended(Signals):
    """As if SIGTERM came at the tenth step."""

    steps = 0

    def check(self, _: int = 0) -> None:
        self.steps += 1
        if self.steps == 10:
            self.number = signal.SIGTERM
        super().check()


@pytest.mark.slow
def test_a_second_stage_that_was_stopped_ends_as_one_that_was_not(stages, tmp_path):
    encoder, whole = stages
    config, run = second_stage(encoder), tmp_path / "run"
    with Ended() as signals, pytest.raises(Stopped):
        train(config, run, False, signals)
    trained(config, run)
    ours, theirs = (restore_params(r, "newest")[0] for r in (run, whole))
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), ours, theirs)
    assert all(jax.tree.leaves(same))


@pytest.mark.slow
def test_the_generators_run_stands_alone(stages, tmp_path):

    encoder, generator = stages
    alone = shutil.copytree(generator, tmp_path / "alone")
    results = evaluate(alone)
    det = next(s for s in results["scores"] if (s["direction"], s["tier"]) == ("t2m", "det"))
    plain = evaluate(encoder)["scores"][0]
    assert det["metrics"] == pytest.approx(plain["metrics"])
    kept = json.loads((generator / "features.json").read_text())["weights"]
    assert kept["start"].startswith(str(encoder))


@pytest.mark.slow
def test_another_encoder_and_an_unfinished_run_are_refused(stages, tmp_path):
    encoder, _ = stages
    other = dataclasses.replace(
        JOINT,
        model=dataclasses.replace(JOINT.model, dim=8),
        train=dataclasses.replace(JOINT.train, start=str(encoder)),
    )
    with pytest.raises(ValueError, match=r"expected the encoder of .*; got another dim"):
        trained(other, tmp_path / "other")
    missing = dataclasses.replace(
        JOINT, train=dataclasses.replace(JOINT.train, start=str(tmp_path / "nowhere"))
    )
    with pytest.raises(ValueError, match="expected a finished run"):
        trained(missing, tmp_path / "missing")


def test_dropout_of_the_second_stage_is_refused_in_one_stage(tmp_path):
    config = dataclasses.replace(JOINT, train=dataclasses.replace(JOINT.train, word_dropout=0.5))
    with pytest.raises(ValueError, match="belongs to the second of two"):
        trained(config, tmp_path / "run")
    with pytest.raises(UserError, match="second of two"), run_directory(config, tmp_path / "run"):
        pass  # as the first of two stages enters it
    assert not (tmp_path / "run").exists()  # nothing was begun


class FakeLists:
    """MRR by alpha, as if lists had been ranked."""

    def __init__(self, best: float) -> None:
        self.best = best

    def ranking(self, stage: str, alpha: float):
        from tmr_jax.types import Ranking

        ahead = round(10 * abs(alpha - self.best))
        return Ranking(np.array([ahead]), np.array([0]), 100)


def test_alpha_is_the_best_of_the_grid_and_belongs_to_a_checkpoint(tmp_path):
    alpha, tried = choose_alpha([FakeLists(0.5), FakeLists(0.5)])
    assert alpha == 0.5 and tried["0.5"] == 1.0 and len(tried) == 8
    assert choose_alpha([FakeLists(0.0)]).alpha == 0.0
    keep_alpha(tmp_path, "abc", "table/validation", choose_alpha([FakeLists(1.0)]))
    keep_alpha(tmp_path, "def", "table/validation", choose_alpha([FakeLists(0.2)]))
    assert read_alpha(tmp_path, "abc") == 1.0 and read_alpha(tmp_path, "def") == 0.2
    assert read_alpha(tmp_path, "ghi") is None


def test_take_keeps_the_tokens_of_each_item():
    parts, offsets = np.arange(12.0).reshape(6, 2), np.array([0, 1, 3, 6])
    side = EncodedCorpus(np.eye(3, dtype=np.float32), parts, offsets, np.array([7, 8, 9]))
    got = take(side, np.array([2, 0]))
    assert got.offsets.tolist() == [0, 3, 4]
    assert got.token_embeddings[:, 0].tolist() == [6, 8, 10, 0]
    assert got.key.tolist() == [9, 7]
    assert Encoded(got.pooled, np.arange(2), got).side is got


def test_the_report_works_one_query_out_part_by_part(joint):
    evaluate(joint, draws=2)
    page = (joint / "report.html").read_text(encoding="utf-8")
    assert "One query, part by part" in page
    for part in ("cosine (place)", "step by step", "cosines of words"):
        assert part in page
    results = json.loads((joint / "results.json").read_text())
    fused = next(r for r in results["analysis"] if r["tier"] == "fused")
    assert fused["uncertainty"]["draws"] == 2 and 0.5 <= fused["uncertainty"]["agreement"] <= 1
    assert fused["slices"]["all"]["queries"] == 16
    assert 0 < fused["variety"]["tanimoto_distance@10"] < 1


@pytest.mark.slow
def test_the_data_of_the_first_stage_count_as_trained_on(stages):
    encoder, generator = stages
    other = dataclasses.replace(TINY.data, seed=1)
    assert data_seen(encoder, other) == [other]
    assert data_seen(generator, other) == [other, TINY.data]
    assert data_seen(generator, TINY.data) == [TINY.data]  # the same pairs count once


def test_captions_of_other_molecules_change_no_score_of_any_tier(joint):
    """From strings to X0_hat; batches, word buckets and shortlists change, too."""
    model = open_run(joint, "best")
    pool = load_pool("table/test", JOINT.data)
    before = refined_rows(model, pool)
    for i in (0, 9):
        foreign = [f"a caption of number {j} that is much longer than it was" for j in range(16)]
        foreign[i] = pool.texts[i]
        after = refined_rows(model, pool._replace(texts=tuple(foreign)))
        assert (before.item[i] == after.item[i]).all()
        for name in ("first", "perturbed", "local", "clean"):
            a, b = getattr(before, name)[i], getattr(after, name)[i]
            np.testing.assert_allclose(a, b, atol=1e-5)


def refined_rows(model, pool):
    [(pool, text, mol)], _ = encode_pools(model, [pool])
    return model.reranker.lists(text, mol, "t2m", pool.text_target).reranked
