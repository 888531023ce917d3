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
from tmr_jax.data.features.graph import EDGE_SIZES, NODE_SIZES
from tmr_jax.data.features.text import Tokenizer
from tmr_jax.data.tables import molecule_table, text_table
from tmr_jax.eval import evaluate as evaluation
from tmr_jax.eval import protocols
from tmr_jax.eval.__main__ import main
from tmr_jax.eval.metrics import TIES
from tmr_jax.eval.pools import Restored
from tmr_jax.eval.protocols import PAIR
from tmr_jax.eval.report.page import Candidate, Example, page
from tmr_jax.eval.scores import (
    SAME,
)
from tmr_jax.models.checkpoint import Checkpoints, new_state, parameters_sha256
from tmr_jax.models.encode import Encoded, l2_normalize
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.run import TrainedModel, build_model, init_params, save_model
from tmr_jax.types import Ranking

MARKS = ("F", "Cl", "Br", "I", "O", "S")
SMILES = tuple(f"NC({a})CC({b})C" for a in MARKS for b in MARKS)


def text_of(i):
    return f"It is amine number {i} & has <b>marks</b>."


def number_of(item):
    """Which molecule a text or a SMILES is about."""
    return SMILES.index(item) if item in SMILES else int(re.search(r"\d+", item)[0])


def fake_model(noise=0.0):
    """Texts land on their molecules; `noise` pushes them off."""
    basis = l2_normalize(np.random.default_rng(0).normal(size=(len(SMILES), 16)).astype(np.float32))

    def side(items, seed, noise):
        rows = basis[[number_of(item) for item in items]]
        moved = rows + noise * np.random.default_rng(seed).normal(size=rows.shape)
        return Encoded(l2_normalize(moved.astype(np.float32)), np.arange(len(items)))

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
    lines = out.splitlines()
    assert lines[0] == "amines: best checkpoint, step 40"
    assert lines[1].split()[:5] == ["protocol", "direction", "right", "pool", "Hits@1"]
    t2m, m2t = (line for line in lines if line.startswith("table/test"))
    assert t2m.split()[1:4] == ["t2m", "pair", "16"] and m2t.split()[1] == "m2t"
    assert len(t2m) == len(m2t) == len(lines[1]) <= 100
    assert out.count(TIES) == 1 and f"ties: {TIES}; seed 0" in lines
    assert out.count("ceiling") == 0
    assert main(["--run", str(run), "--verbose"]) == 0
    details = capsys.readouterr().out
    assert details.startswith("\n".join(lines[:-2]))
    for words in ("table/test, t2m", "table/test, m2t", "pool 16, 16 queries, seed 0"):
        assert words in details
    assert "duplicate ceiling 100.0 (0.0 % have a duplicate)" in details
    assert re.search(r"molecules also in training: \d+ of 16", details)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert results["checkpoint"] == {"which": "best", "step": 40, "sha256": "0" * 64}
    assert results["command"] == f"tmr eval --run {run} --verbose"
    main_lines = [s for s in results["scores"] if s["right"] == PAIR]
    ranks = json.loads((run / "ranks.json").read_text(encoding="utf-8"))
    for score in main_lines:
        own = ranks[f"table/test, {score['direction']}"]
        np.testing.assert_allclose(np.mean(own), score["metrics"]["mr"], atol=0.01)
    assert [s["direction"] for s in main_lines] == ["t2m", "m2t"]
    for score in main_lines:
        assert score["declared"]["leakage"] == "molecule or text"
        assert score["overlap"]["left_out"] == 0
        assert "queries whose molecule or text is in training, removed: 0" in score["about"]
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
    assert not tags.open and all(address.startswith("#") for address in tags.addresses)
    assert not {"script", "link", "img", "iframe", "b>marks"} & set(tags.names)
    ids = re.findall(r'\bid="([^"]+)"', report)
    used = {address[1:] for address in tags.addresses} | {*re.findall(r"url\(#([^)]+)\)", report)}
    assert len(ids) == len(set(ids)) and used <= {*ids}
    assert "url(" not in report.replace("url(#", "") and "@import" not in report
    assert tags.names.count("figure") == 4  # loss, validation, ranks of two directions
    assert tags.names.count("svg") > 4 + 10  # and structures
    assert "has <b>marks</b>" not in report
    assert "has <b>marks</b>" in tags.text  # escaped in the file, itself on the page
    for words in ("table/test", "t2m", TIES, "step 40 (best)", "Hits", "Misses"):
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
        (["--protocol", "chebi20-text2mol/test-split"], "make data SET=chebi20"),
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
    assert main(["--run", str(run), "--data.table.path", str(foreign), "--verbose"]) == 0
    assert "molecules also in training: 0 of 1\n" in capsys.readouterr().out


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
    trained = TrainedModel(config, model, Tokenizer(inner), bert, {}, None)
    save_model(run, trained, Shapes((16,), (64,), (128,)))
    text = text_table(["It is amine"], trained.tokenizer, 16)
    mol = molecule_table(["CCN"], "ogb", "none")[0]
    zero, shapes = np.zeros(1, int), Shapes((16,), (64,), (128,))
    params = init_params(trained, make_batch(zero, text, mol, zero, zero, shapes, 0), 0)
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


@pytest.mark.costly
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


def test_in_batch_scores_say_how_they_were_cut(run, capsys, monkeypatch):
    monkeypatch.setattr(protocols, "BATCH", 6)
    assert main(["--run", str(run), "--protocol", "inbatch-64"]) == 0
    assert "inbatch-64/table/test t2m" in capsys.readouterr().out
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
    assert "queries whose molecule or text is in training, removed: 1" in score["about"]
