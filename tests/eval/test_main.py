"""Evaluation from the command line to results.json and report.html, with a fake model."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import optax
import pytest
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tmr_jax.config import (
    DataConfig,
    DemoConfig,
    EvalConfig,
    Experiment,
    FeatureConfig,
    GraphEncoderConfig,
    ModelConfig,
    TableConfig,
    TrainConfig,
    from_json,
    to_json,
)
from tmr_jax.data.batching import Shapes, make_batch
from tmr_jax.data.features.atoms import EDGE_SIZES, NODE_SIZES
from tmr_jax.data.features.text import Tokenizer
from tmr_jax.data.pools import load_pool
from tmr_jax.data.tables import molecule_table, text_table
from tmr_jax.eval import evaluate as evaluation
from tmr_jax.eval import protocols
from tmr_jax.eval.__main__ import main
from tmr_jax.eval.metrics import TIES, metrics
from tmr_jax.eval.pools import encode_pools, in_whole_batches, without
from tmr_jax.eval.protocols import CLEAN, IDENTITY, PAIR, find
from tmr_jax.eval.report.page import (
    Candidate,
    Example,
    _lines,
    page,
    rank_histogram,
    read_history,
    series,
    smoothed,
)
from tmr_jax.eval.rerank import Lists
from tmr_jax.eval.rerank_steps import Refined
from tmr_jax.eval.restore import Restored
from tmr_jax.eval.score_lines import score_record
from tmr_jax.eval.scores import (
    ALL_TWINS,
    BASELINE,
    NO_TWIN,
    PIECES_BASELINE,
    SAME,
    asked,
    baseline_scores,
    identity_labels,
    refined_by_identity,
    score_pool,
    score_sides,
    with_clean,
)
from tmr_jax.models.build import build_model
from tmr_jax.models.checkpoint import Checkpoints
from tmr_jax.models.encode import Encoded, unit
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.run import TrainedModel, init_params, save_model
from tmr_jax.models.state import new_state, parameters_sha256
from tmr_jax.types import Pool, Ranking

MARKS = ("F", "Cl", "Br", "I", "O", "S")
SMILES = tuple(f"NC({a})CC({b})C" for a in MARKS for b in MARKS)

TINY_BERT = Path(__file__).parents[1] / "experiments" / "tiny_bert"


def text_of(i):
    return f"It is amine number {i} & has <b>marks</b>."


def number_of(item):
    """Which molecule a text or a SMILES is about."""
    return SMILES.index(item) if item in SMILES else int(re.search(r"\d+", item)[0])


def fake_model(noise=0.0):
    """Texts land on their molecules; `noise` pushes them off."""
    basis = unit(np.random.default_rng(0).normal(size=(len(SMILES), 16)).astype(np.float32))

    def side(items, seed, noise):
        rows = basis[[number_of(item) for item in items]]
        moved = rows + noise * np.random.default_rng(seed).normal(size=rows.shape)
        return Encoded(unit(moved.astype(np.float32)), np.arange(len(items)))

    return Restored(
        {"which": "best", "step": 40, "sha256": "0" * 64},
        lambda texts: side(texts, 1, noise),
        lambda smiles: (side(smiles, 2, 0.0), np.arange(len(smiles))),
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run trained on 20 rows of a table whose other 16 are its test."""
    rows = [
        f'"{text_of(i)}",{smiles},{"train" if i < 20 else "test"}'
        for i, smiles in enumerate(SMILES)
    ]
    table = tmp_path / "amines.csv"
    table.write_text("\n".join(["description,SMILES,split", *rows]) + "\n", encoding="utf-8")
    config = Experiment(
        name="amines",
        data=DataConfig(
            name="table",
            table=TableConfig(path=str(table), split="column", split_column="split"),
        ),
        eval=EvalConfig(bootstrap=50),
    )
    folder = tmp_path / "runs" / "amines"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(config), encoding="utf-8")
    history = [
        {"step": s, "loss": 3.0 / s, "loss/t2m": 2.0 / s, "t2m/hits@1": s / 40}
        for s in range(1, 41)
    ]
    lines = [json.dumps(row) for row in history]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 41, "lo', encoding="utf-8")
    monkeypatch.setattr(evaluation, "open_run", lambda run, which, refine: fake_model(noise=0.8))
    return folder


def test_main_prints_and_writes_what_every_number_depends_on(run, capsys):
    assert main(["--run", str(run)]) == 0
    out = capsys.readouterr().out
    for words in ("table/test, t2m", "table/test, m2t", "pool 16, 16 queries, seed 0", TIES):
        assert words in out
    assert "twin ceiling 100.0 (0.0 % have a twin)" in out
    assert re.search(r"molecules also in training: \d+ of 16", out)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert results["checkpoint"] == {"which": "best", "step": 40, "sha256": "0" * 64}
    assert results["command"] == f"python -m tmr_jax.eval --run {run}"
    main_lines = [s for s in results["scores"] if s["right"] == PAIR]
    ranks = json.loads((run / "ranks.json").read_text(encoding="utf-8"))
    for score in main_lines:
        own = ranks[f"table/test, {score['direction']}"]
        np.testing.assert_allclose(np.mean(own), score["metrics"]["mr"], atol=0.01)
    assert [s["direction"] for s in main_lines] == ["t2m", "m2t"]
    for score in main_lines:
        assert score["declared"]["leakage"] == "molecule or text"
        assert score["overlap"]["left_out"] == 0
        assert "queries whose molecule or text was trained on, left out: 0" in score["about"]
        assert SAME in score["about"]
    for score in results["scores"]:
        assert score["ties"] == TIES and score["pool"] == 16 and score["seed"] == 0
        for name, value in score["metrics"].items():
            low, high = score["intervals"][name]
            assert low <= value <= high
            kind, harsh = (score["bounds"][b][name] for b in ("optimistic", "pessimistic"))
            assert min(kind, harsh) <= value <= max(kind, harsh)
    assert not list(run.glob(".*"))  # no temporary file is left


class Tags(HTMLParser):
    """Tags in order, attributes that name an address, and whether every tag is closed."""

    VOID = ("meta", "br", "rect", "path", "polyline", "ellipse", "i")

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.addresses, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_report_is_one_file_with_curves_histogram_table_and_structures(run):
    assert main(["--run", str(run)]) == 0
    report = (run / "report.html").read_text(encoding="utf-8")
    tags = Tags(report)
    assert not tags.open and not tags.addresses
    assert not {"script", "link", "img", "iframe", "b>marks"} & set(tags.names)
    assert "url(" not in report and "@import" not in report
    assert tags.names.count("figure") == 4  # loss, validation, ranks of two directions
    assert tags.names.count("svg") > 4 + 10  # and structures
    assert "has <b>marks</b>" not in report
    assert "has <b>marks</b>" in tags.text  # escaped in the file, itself on the page
    for words in ("table/test, t2m", TIES, "step 40 (best)", "Hits", "Misses"):
        assert words in tags.text


def test_hostile_strings_stay_text(tmp_path):
    bad = "</p><script>alert(1)</script>\"'&"
    example = Example(
        "m2t", bad, bad, Candidate(bad, 0.1, True), 2.0, (Candidate(bad, 0.2, False),)
    )
    results = {
        "experiment": bad,
        "run": bad,
        "command": bad,
        "commit": bad,
        "labels": [bad],
        "checkpoint": {"which": "best", "step": 1, "sha256": "0"},
        "scores": [],
        "resamples": 10,
    }
    history = [{"step": 1, "loss": 1.0, "loss/<script>": 2.0}, {"step": 2, "loss": 1.0}]
    ranking = Ranking(np.array([0]), np.array([0]), 3)
    found = Tags(page(results, {bad: ranking}, [example], history))
    assert "script" not in found.names
    assert found.text.count("<script>alert(1)</script>") >= 6


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--protocol", "table/tset"], "did you mean table/test"),
        (["--protocol", "demo/test"], "--data.name"),
        (["--protocol", "ood/open->pcdes"], "got one trained on table"),
    ],
)
def test_a_wrong_protocol_is_explained(run, capsys, words, hint):
    assert main(["--run", str(run), *words]) == 2
    assert hint in capsys.readouterr().err


def test_a_wrong_run_names_the_nearest(run, capsys):
    assert main(["--run", str(run.parent / "amine")]) == 2
    assert f"did you mean {run}" in capsys.readouterr().err


def test_a_wrong_option_exits_2_and_names_the_nearest(run, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--run", str(run), "--protocl", "table/test"])
    assert stop.value.code == 2
    assert "--protocol" in capsys.readouterr().err


def test_a_foreign_test_set_with_training_molecules_is_refused(run, tmp_path, capsys):
    foreign = tmp_path / "foreign.csv"
    foreign.write_text(
        f"description,SMILES,split\n{text_of(3)},{SMILES[3]},test\n{text_of(30)},CCO,test\n",
        encoding="utf-8",
    )
    assert main(["--run", str(run), "--data.table.path", str(foreign)]) == 2
    assert "got 1 of 2 by InChIKey block 1" in capsys.readouterr().err


def test_a_foreign_test_set_without_training_molecules_is_scored(run, tmp_path, capsys):
    foreign = tmp_path / "foreign.csv"
    foreign.write_text(
        f"description,SMILES,split\n{text_of(30)},{SMILES[30]},test\n", encoding="utf-8"
    )
    assert main(["--run", str(run), "--data.table.path", str(foreign)]) == 0
    assert "molecules also in training: 0 of 1 " in capsys.readouterr().out


def test_a_run_on_disk_is_restored_and_ranked(run, monkeypatch):
    """config.json, features.json, tokenizer.json and a checkpoint are all it takes."""
    monkeypatch.undo()
    config = from_json((run / "config.json").read_text(encoding="utf-8"))
    config = replace(
        config,
        model=ModelConfig(dim=8, graph=GraphEncoderConfig(kind="residual", layers=1, width=8)),
        features=FeatureConfig(max_tokens=16),
        train=TrainConfig(text_buckets=(16,)),
    )
    (run / "config.json").write_text(to_json(config), encoding="utf-8")
    inner = tokenizers.Tokenizer(
        WordLevel({w: i for i, w in enumerate(["[PAD]", "[UNK]", "is", "amine"])}, "[UNK]")
    )
    inner.pre_tokenizer = Whitespace()
    bert = BertConfig(vocab_size=4, hidden=8, layers=1, heads=2, intermediate=8)
    sizes = NODE_SIZES, EDGE_SIZES
    model = build_model(config.model, config.features, config.train, bert, *sizes)
    assembly = TrainedModel(config, model, Tokenizer(inner), bert, {}, None)
    save_model(run, assembly, Shapes((16,), (64,), (128,)))
    text = text_table(["It is amine"], assembly.tokenizer, 16)
    mol = molecule_table(["CCN"], "ogb", "none")[0]
    zero, shapes = np.zeros(1, int), Shapes((16,), (64,), (128,))
    params = init_params(assembly, make_batch(zero, text, mol, zero, zero, shapes, 0), 0)
    checkpoints = Checkpoints(run)
    checkpoints.save(new_state(params, optax.adam(0.1)), 3, score=0.5)
    checkpoints.close()
    assert main(["--run", str(run), "--which", "newest"]) == 0
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert results["checkpoint"]["step"] == 3
    assert results["checkpoint"]["sha256"] == parameters_sha256(params)
    # All numbers are one unknown word, so that all texts are one input: m2t knows nothing.
    t2m, m2t = (s for s in results["scores"] if s["right"] == PAIR)
    assert t2m["twin_ceiling"]["hits1"] == 1.0
    assert m2t["twin_ceiling"]["hits1"] == pytest.approx(1 / 16)
    assert m2t["metrics"]["mr"] == 8.5 and m2t["tied_queries"] == 16


CHILD = """
import sys
sys.path.insert(0, {tests!r})
import test_main
from tmr_jax.eval import evaluate as evaluation
from tmr_jax.eval.__main__ import main
evaluation.open_run = lambda run, which, refine: test_main.fake_model(0.8)
sys.exit(main())
"""  # as a user starts it, but with the fake model


def test_an_ascii_terminal_no_home_and_a_path_with_spaces(run, tmp_path):
    odd = tmp_path / "bir koşu"
    run.rename(odd)
    kept = {k: v for k, v in os.environ.items() if k != "HOME"}
    settings = {
        "LC_ALL": "tr_TR",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            CHILD.format(tests=str(Path(__file__).parent)),
            "--run",
            str(odd),
        ],
        env=kept | settings,
        capture_output=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr.decode()
    assert b"bir ko\\u015fu/results.json" in found.stdout.replace(b"\n", b"")
    assert found.stdout.isascii()
    assert str(odd) in json.loads((odd / "results.json").read_text(encoding="utf-8"))["command"]


def test_identical_texts_have_a_number_by_identity():
    pool = Pool("table/test", ("a", "a", "b"), ("C", "CC", "CCC"), np.arange(3), np.arange(3))
    rows = np.eye(3, dtype=np.float32)
    # Both texts "a" are one input and point at the second molecule.
    text = Encoded(rows[[1, 1, 2]], np.array([0, 0, 1]))
    found = {(s.direction, s.right): s for s in score_pool(pool, text, Encoded(rows, np.arange(3)))}
    assert found["t2m", PAIR].ranking.greater.tolist() == [1, 0, 0]
    assert found["t2m", IDENTITY].ranking.greater.tolist() == [0, 0, 0]
    assert found["m2t", PAIR].ranking.equal.tolist() == [1 + 1, 1, 0]
    assert found["m2t", IDENTITY].ranking.equal.tolist() == [1, 0, 0]
    assert found["m2t", PAIR].ceiling.hits1 == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_generated_text_has_a_baseline_beside_it():
    data = DataConfig(name="demo", demo=DemoConfig(train=120, validation=30, test=30))
    found = baseline_scores(load_pool("demo/test", data), data, TINY_BERT)
    wanted = [(d, name) for name in (BASELINE, PIECES_BASELINE) for d in ("t2m", "m2t")]
    assert [(s.direction, s.scorer) for s in found] == wanted
    assert all(metrics(s.ranking)["mr"] < 11 for s in found)  # chance: 15.5
    counts = {"refused_molecules": 0, "dropped_pairs": 0}
    shared = {"in_training": 0, "queried": 30, "left_out": 0}
    own = find("demo/test", "demo/test")
    record = score_record(found[0], Experiment(data=data), own, shared, counts)
    assert record["about"][0] == f"baseline, {BASELINE}"
    assert record["about"][-1] == "generated text"


def test_no_baseline_on_other_text():
    pool = Pool("table/test", ("a",), ("C",), np.zeros(1, int), np.zeros(1, int))
    assert baseline_scores(pool, DataConfig(name="table"), TINY_BERT) == []


def test_who_has_no_other_half_is_like_nobody():
    pool = Pool("x/full", ("a", "a"), ("C", "CC", "CCC"), np.array([2, 0]), np.full(3, -1))
    text, mol = identity_labels(pool)
    assert text[0, 0] == text[0, 1] == mol[0, 0] == mol[0, 2]
    assert mol[0, 1] == -1 and -1 not in text
    assert text[1].tolist() == mol[1, [2, 0]].tolist()
    assert len(set(mol[1])) == 3


def test_pairs_that_do_not_ask_have_an_identity():
    """Test queries in a full pool: a training molecule of the same text is as right."""
    pool = Pool("x/full", ("a", "a", "b"), ("C", "CC", "CCC"), *2 * [np.array([-1, 1, 2])])
    rows = np.eye(3, dtype=np.float32)
    text = Encoded(rows[[0, 0, 2]], np.array([0, 0, 1]))
    found = {(s.direction, s.right): s for s in score_pool(pool, text, Encoded(rows, np.arange(3)))}
    assert found["t2m", PAIR].ranking.greater.tolist() == [1, 0]
    assert found["t2m", IDENTITY].ranking.greater.tolist() == [0, 0]


def test_one_molecule_written_in_two_ways_is_right_twice():
    # 0 and 1 share the molecule, 1 and 2 the text: that makes 2 no answer to 0.
    pool = Pool("x/test", ("a", "b", "b"), ("OCC", "CCO", "CCN"), np.arange(3), np.arange(3))
    scores = np.float32([[0.1, 0.2, 0.9], [0.1, 0.2, 0.9], [0.1, 0.2, 0.9]])
    mol = Encoded(np.eye(3, dtype=np.float32), np.arange(3))
    pair, identity, *_ = score_pool(pool, Encoded(scores, np.arange(3)), mol)
    assert pair.ranking.greater.tolist() == [2, 1, 0]
    assert (identity.right, identity.ranking.greater.tolist()) == (IDENTITY, [1, 0, 0])


def test_a_score_that_is_the_same_by_identity_says_so_in_a_line():
    pool = Pool("x/test", ("a", "b"), ("C", "CC"), np.arange(2), np.arange(2))
    rows = Encoded(np.eye(2, dtype=np.float32), np.arange(2))
    assert [(s.right, s.notes) for s in score_pool(pool, rows, rows)] == 2 * [(PAIR, (SAME,))]


def clean_of(scores, pool, rows, *blocks):
    return with_clean(scores, pool, asked(pool, rows, rows), frozenset(blocks))


def test_queries_without_a_connectivity_twin_have_a_line_from_the_same_ranks():
    pool = Pool("x/test", ("a", "b", "c"), ("CCO", "CC", "CCC"), np.arange(3), np.arange(3))
    rows = Encoded(np.eye(3, dtype=np.float32)[[0, 0, 2]], np.array([0, 0, 2]))
    scores = score_pool(pool, rows, rows)
    found = clean_of(scores, pool, rows, "LFQSCWFLJHTTHZ")  # ethanol
    assert [s.right for s in found] == [PAIR, CLEAN, PAIR, CLEAN]
    assert found[1].ranking.equal.tolist() == [1, 0] and found[1].ranking.pool_size == 3
    assert found[1].ceiling.hits1 == 0.75 and found[0].ceiling.hits1 == pytest.approx(2 / 3)
    assert found[1].notes == ()
    none = clean_of(scores, pool, rows)
    assert [s.right for s in none] == [PAIR, PAIR] and none[0].notes == (SAME, NO_TWIN)
    ethanol = pool._replace(smiles=("CCO", "OCC", "C(O)C"))
    every = clean_of(scores[:1], ethanol, rows, "LFQSCWFLJHTTHZ")
    assert [(s.right, s.notes) for s in every] == [(PAIR, (SAME, ALL_TWINS))]
    assert with_clean(scores, pool, [], None) == scores


def test_of_a_second_stage_the_best_of_the_right_ones_counts():
    # 0 is right by index and on no list; 1 has its text and is listed third, 2 to 4 are others.
    pool = Pool("x", ("a", "a", "b", "c", "d"), ("C", "CC", "CCC", "CN", "CS"), *2 * [np.arange(5)])
    axes = np.eye(5, dtype=np.float32)
    one = Lists(
        refined=Refined(
            item=np.array([[2, 3, 1], [1, 2, 3]]),
            first=np.float32([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7]]),
            perturbed=np.float32([[0.9, 0.8, 0.7], [0.9, 0.9, 0.7]]),
            local=np.zeros((2, 2), np.float32),
            clean=np.zeros((2, 2), np.float32),
        ),
        query=np.float32([[0.1, 0.7, 0.9, 0.8, 0.2], [0.1, 0.9, 0.8, 0.7, 0.2]]),
        candidate=axes,
        target=np.array([0, 1]),
        count=np.ones(5, np.int64),
    )
    rows = Encoded(axes, np.arange(5))
    side = asked(pool._replace(text_target=np.array([0, 1, -1, -1, -1])), rows, rows)[0]
    assert one.ranking("tapr").greater.tolist() == [4, 0]
    found = refined_by_identity(one, side, "tapr", 0.0)
    assert (found.greater.tolist(), found.equal.tolist()) == ([2, 0], [0, 1])
    det = refined_by_identity(one, side, "det", 0.0)
    assert (det.greater.tolist(), det.equal.tolist()) == ([2, 0], [0, 0])


def test_batches_are_whole_and_a_small_pool_has_none():
    pool = Pool("x", tuple("abcde"), tuple("CNOSF"), *2 * [np.array([0, 1, -1, 3, 4])])
    rows = Encoded(np.eye(5, dtype=np.float32), np.arange(5))
    found, text, mol = in_whole_batches(pool, rows, rows, 2)
    assert found.texts == tuple("abcd") and len(text.rows) == len(mol.rows) == 4
    t2m = score_sides(found.protocol, asked(found, text, mol, 2))[0]
    assert (len(t2m.ranking.greater), t2m.ranking.pool_size) == (3, 2)
    with pytest.raises(ValueError, match="at least 6 pairs for x; got 5"):
        in_whole_batches(pool, rows, rows, 6)


def test_in_batch_scores_say_how_they_were_cut(run, capsys, monkeypatch):
    monkeypatch.setattr(protocols, "BATCH", 6)
    assert main(["--run", str(run), "--protocol", "inbatch-64"]) == 0
    assert "inbatch-64/table/test, t2m" in capsys.readouterr().out
    score = json.loads((run / "results.json").read_text(encoding="utf-8"))["scores"][0]
    assert (score["pool"], score["queries"], score["declared"]["batch"]) == (6, 12, 6)
    assert "batches in file order; pairs at the end dropped: 4" in score["about"]


def test_queries_that_were_trained_on_are_left_out_and_counted(run, capsys):
    table = from_json((run / "config.json").read_text(encoding="utf-8")).data.table.path
    with Path(table).open("a", encoding="utf-8") as file:
        file.write(f"{SMILES[30]},{SMILES[2]},test\n")  # a trained molecule with a new text
    assert main(["--run", str(run)]) == 0
    score = json.loads((run / "results.json").read_text(encoding="utf-8"))["scores"][0]
    assert (score["pool"], score["queries"]) == (17, 16)
    assert "queries whose molecule or text was trained on, left out: 1" in score["about"]


def test_a_pool_of_queries_on_one_side_is_ranked_one_way():
    pool = Pool("x/full", ("a", "b"), ("C", "CC", "CCC"), np.array([2, 0]), np.full(3, -1))
    rows = np.eye(3, dtype=np.float32)
    found = score_pool(pool, Encoded(rows[[2, 0]], np.arange(2)), Encoded(rows, np.arange(3)))
    assert [s.direction for s in found] == ["t2m"]
    assert found[0].ranking.pool_size == 3


def test_refused_molecules_leave_with_their_texts():
    pool = Pool(
        "x/y",
        ("a", "b", "c"),
        ("C", "?", "CC", "CCC"),
        np.array([0, 1, 3]),
        np.array([0, 1, -1, 2]),
    )
    found = without(pool, np.array([True, False, True, True]))
    assert found.texts == ("a", "c") and found.smiles == ("C", "CC", "CCC")
    assert found.text_target.tolist() == [0, 2]
    assert found.mol_target.tolist() == [0, -1, 1]
    assert without(pool, np.ones(4, bool)) is pool
    only_candidate = pool._replace(text_target=np.array([0, -1, 3]))
    assert without(only_candidate, np.array([True, False, True, True])).texts == ("a", "c")


def test_each_distinct_string_of_all_pools_is_encoded_once():
    seen = []

    def texts(items):
        seen.append(list(items))
        return Encoded(np.eye(len(items), dtype=np.float32), np.arange(len(items)))

    def molecules(items):
        side = texts(items)
        kept = np.array([i for i, s in enumerate(items) if s != "?"])
        return Encoded(side.rows[kept], side.group[kept]), kept

    one = Pool("one", ("a", "b"), ("C", "CC"), np.arange(2), np.arange(2))
    two = Pool("two", ("b", "d"), ("CC", "?"), np.arange(2), np.arange(2))
    sides, refused = encode_pools(Restored({}, texts, molecules), [one, two])
    assert seen == [["C", "CC", "?"], ["a", "b"]]
    assert refused == {"one": 0, "two": 1}
    assert sides[1].pool.texts == ("b",) and sides[1].text.rows.tolist() == [[0.0, 1.0]]


def test_history_skips_what_a_killed_run_left_and_what_is_no_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n{"st', encoding="utf-8")
    assert series(read_history(path), lambda name: name == "loss") == {"loss": [(1.0, 2.0)]}
    assert read_history(tmp_path / "none.jsonl") == []


def test_a_long_curve_is_drawn_as_means_and_a_short_one_as_it_is():
    short = [(1.0, 3.0), (2.0, 5.0)]
    assert smoothed(short) == short
    long = [(float(i), float(i % 2)) for i in range(600)]
    assert len(smoothed(long)) == 300
    assert smoothed(long)[1] == (2.5, 0.5)


def test_rank_histogram_counts_every_query_once():
    ranking = Ranking(np.array([0, 0, 4, 9, 29]), np.array([0, 1, 0, 0, 0]), 30)
    bars = dict(rank_histogram(ranking))
    assert bars == {"1": 1, "2-5": 2, "6-10": 1, "11-20": 0, "21-30": 1}
    far = Ranking(np.array([700]), np.array([0]), 33_008)
    assert [name for name, count in rank_histogram(far) if count] == ["501+"]


def test_a_curve_of_one_point_is_seen():
    assert "<circle" in _lines("title", {"loss": [(526.0, 0.366)]})
    assert "<circle" not in _lines("title", {"loss": [(1.0, 0.3), (2.0, 0.2)]})
