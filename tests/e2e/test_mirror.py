"""difftmr_chebi on a bare machine: it fetches data and weights itself, or says at once why not.

The server gives the real test files, stand-ins of a few rows for the large ones, and a small
random BERT under SciBERT's id. Nothing is at hand beforehand: no data folder, an empty cache.
"""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import http.server
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parent.parent.parent
TRAIN, VALIDATION, HIDDEN = 24, 16, 16


def run(module: str, *words: str, **settings: str) -> subprocess.CompletedProcess:
    bare = {k: v for k, v in os.environ.items() if not k.startswith("TMR_JAX_")} | settings
    command = [sys.executable, "-m", f"tmr_jax.{module}", *words]
    return subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=300)


def processor_seconds() -> float:
    """Of the programs that have ended: what they did, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rows(path: Path) -> list[list[str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def write_data(folder: Path, data: Path) -> None:
    """MolT5's and Text2Mol's files; the last rows of the real validation stand in for training."""
    folder.mkdir(parents=True)
    (folder / "test.txt").write_bytes(gzip.decompress((data / "test.txt.gz").read_bytes()))
    head, *real = rows(data / "validation.txt.gz")
    parts = {"validation": real[:VALIDATION], "train": real[-TRAIN:]}
    for name, part in parts.items():
        text = "".join("\t".join(row) + "\n" for row in [head, *part])
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    named = {r[0]: r[3] for r in rows(data / "text2mol_val.tsv.gz")[1:]}
    named_test = [(r[0], r[3]) for r in rows(data / "text2mol_test.tsv.gz")[1:]]
    floats = " ".join(["0.0"] * 300)
    for name, pairs in (
        ("training", [(r[0], named[r[0]]) for r in parts["train"]]),
        ("val", [(r[0], named[r[0]]) for r in parts["validation"]]),
        ("test", named_test),
    ):
        text = "".join(f"{cid}\t{floats}\t{description}\n" for cid, description in pairs)
        (folder / f"text2mol_{name}.txt").write_text(text, encoding="utf-8")
    sums = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in folder.glob("*.txt")
    ]
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def write_weights(folder: Path, vocabulary: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_bytes(vocabulary)
    config = {
        "model_type": "bert",
        "vocab_size": vocabulary.count(b"\n"),
        "hidden_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 2 * HIDDEN,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], HIDDEN),
        "embeddings.position_embeddings.weight": (512, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    layer = "encoder.layer.0"
    linear = dict.fromkeys(
        [f"{layer}.attention.self.{n}" for n in ("query", "key", "value")]
        + [f"{layer}.attention.output.dense", "pooler.dense"],
        (HIDDEN, HIDDEN),
    )
    linear[f"{layer}.intermediate.dense"] = (2 * HIDDEN, HIDDEN)
    linear[f"{layer}.output.dense"] = (HIDDEN, 2 * HIDDEN)
    norms = ["embeddings", f"{layer}.attention.output", f"{layer}.output"]
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.LayerNorm.weight": (HIDDEN,), f"{name}.LayerNorm.bias": (HIDDEN,)}
    rng = np.random.default_rng(0)
    weights = {f"bert.{k}": rng.normal(0, 0.1, s).astype(np.float32) for k, s in shapes.items()}
    save_file(weights, folder / "model.safetensors")


@pytest.fixture
def mirror(tmp_path: Path):
    data = Path(os.environ["TMR_JAX_DATA"])
    folder = tmp_path / "mirror"
    write_data(folder / "chebi20", data / "chebi20")
    vocabulary = gzip.decompress((data / "scibert_vocab" / "vocab.txt.gz").read_bytes())
    write_weights(folder / "allenai" / "scibert_scivocab_uncased", vocabulary)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.mark.slow
@pytest.mark.real_data
def test_data_and_weights_are_fetched_and_the_real_test_set_is_ranked(mirror, tmp_path):
    settings = {
        "TMR_JAX_CACHE": str(tmp_path / "cache"),
        "TMR_JAX_MIRROR": mirror,
        "TMR_JAX_MIRROR_SUMS": "1",
    }
    folder = tmp_path / "run"
    words = ["--exp", "difftmr_chebi", "--train.epochs", "1", "--train.batch-size", "8"]
    words += ["--eval.protocols", "chebi20-text2mol/test-split", "--eval.bootstrap", "50"]
    words += ["--features.max-tokens", "64", "--train.text-buckets", "64", "--run", str(folder)]
    words += ["--model.name", "dual"]  # the second stage takes minutes, and fetches nothing
    trained = run("train", *words, **settings)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert "WARNING" in trained.stderr  # the mirror's own hashes are not the published ones
    ranked = run("eval", "--run", str(folder), **settings)
    assert ranked.returncode == 0, ranked.stderr[-3000:]
    scores = json.loads((folder / "results.json").read_text())["scores"]
    assert {s["direction"] for s in scores} == {"t2m", "m2t"}
    # MolT5's test file lacks one molecule of Text2Mol's 3,301, the one whose SMILES is `*`
    assert all(s["pool"] == 3301 for s in scores)
    record = json.loads((folder / "features.json").read_text())["weights"]
    assert record["origin"] == "hub allenai/scibert_scivocab_uncased"


@pytest.mark.costly
def test_without_a_network_it_ends_at_once_with_what_to_do(tmp_path):
    begun, before = time.perf_counter(), processor_seconds()
    words = ("--exp", "difftmr_chebi", "--run", str(tmp_path / "run"))
    done = run("train", *words, TMR_JAX_CACHE=str(tmp_path / "cache"))
    worked, waited = processor_seconds() - before, time.perf_counter() - begun
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "train" in said and "https://raw.githubusercontent.com/" in said
    assert "make data SET=chebi20" in said
    # A machine may be slow and busy: imports alone say how much.
    begun, before = time.perf_counter(), processor_seconds()
    subprocess.run([sys.executable, "-c", "import tmr_jax.models.run"], cwd=ROOT, check=True)
    assert worked < max(5, 2 * (processor_seconds() - before)), done.stderr
    assert waited < 5 + 5 * (time.perf_counter() - begun), "no address is waited for"
