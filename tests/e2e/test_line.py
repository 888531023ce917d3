"""The whole line as a user walks it, each program a process of its own: train, eval, search.

The second test walks it in the worst of surroundings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tmr_jax

ROOT = Path(__file__).resolve().parent.parent.parent
TINY = str(ROOT / "tests" / "experiments" / "tiny.py")
TABLE = "--data.name table --data.table.id id --data.table.split column"
SHORT = "--features.max-tokens 48 --train.text-buckets 48 --train.batch-size 32 --train.epochs 3"
ONCE = "--train.pool-batches 0 --train.eval-every 3 --eval.bootstrap 100"


def program(module: str, *words: str, status: int = 0, **settings: str | None) -> str:
    """Standard output of `python -m tmr_jax.MODULE words`; None removes a setting."""
    asked = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": None, **settings}
    environment = {k: v for k, v in asked.items() if v is not None}
    done = subprocess.run(
        [sys.executable, "-m", f"tmr_jax.{module}", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=600,
    )
    out = done.stdout.decode("utf-8", "replace")
    assert done.returncode == status, f"{out}\n{done.stderr.decode('utf-8', 'replace')}"
    return out


def walk(run: Path, library: Path, training: list[str], **settings: str | None) -> dict:
    """Train, evaluate, search twice, by the program and from Python; what results.json holds."""
    program("train", *training, "--run", str(run), **settings)
    program("eval", "--run", str(run), **settings)
    words = ["--run", str(run), "--library", str(library), "--json", "an aromatic amine"]
    first = json.loads(program("search", *words, **settings))
    assert {h["smiles"] for h in first["results"][0]["hits"]} == {"Nc1ccccc1", "CCO"}
    again = tmr_jax.load(run).with_library(library).search("an aromatic amine")
    hits = [(h["smiles"], h["score"]) for h in first["results"][0]["hits"]]
    assert [(hit.content, pytest.approx(hit.score, abs=1e-6)) for hit in again] == hits
    assert (run / "loss.png").stat().st_size > 1000
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page and not re.search(r"<script|(src|href)=.?http", page)
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "my molécules und Düfte ışık"
    folder.mkdir()
    path = folder / "library.smi"
    path.write_text("Nc1ccccc1 Anilin ışık\nCCO ethanol\nC1CC broken\n", encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_quickstart_made_small(tmp_path: Path, library: Path, slice_of_chebi) -> None:
    """The pretrained text encoder and a slice of chebi: better than chance after forty steps."""
    table = slice_of_chebi(train=448, validation=64, test=100).table
    words = ["--exp", "quickstart", *f"{TABLE} {SHORT} {ONCE}".split()]
    words += ["--data.table.path", table.path, "--data.table.split-column", table.split_column]
    results = walk(tmp_path / "run", library, words)
    score = next(s for s in results["scores"] if (s["scorer"], s["direction"]) == ("model", "t2m"))
    assert score["protocol"] == "table/test" and score["pool"] == 100
    assert score["metrics"]["hits@10"] > 0.4  # 0.1 by chance
    ridge = {s["scorer"] for s in results["scores"]} - {"model"}
    assert len(ridge) == 2


@pytest.mark.slow
def test_odd_surroundings(tmp_path: Path, library: Path) -> None:
    """No HOME, a path with spaces and letters, two locales and time zones in one run."""
    run = library.parent / "runs" / "tiny"
    bare: dict[str, str | None] = {"HOME": None, "TMR_JAX_DATA": None}
    turkish = {"LC_ALL": "tr_TR.ISO-8859-9", "LANG": "tr_TR", "TZ": "Europe/Berlin"}
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Asia/Tokyo"}
    words = ["--exp", TINY, "--train.epochs", "2", "--run", str(run)]
    out = program("train", *words, **turkish, **bare)
    assert "t2m/hits@1" in out
    question = ["--library", str(library), "an aromatic amine"]
    assert "Anilin" in program("search", "--run", str(run), "--csv", *question, **turkish, **bare)
    # ASCII file names, which a terminal without UTF-8 mode has: the run's own must be ASCII.
    program("search", "--run", str(run), *question, **ascii_only, **bare, status=2)
    plain = shutil.copytree(run, tmp_path / "plain run")
    found = program("search", "--run", str(plain), *question, **ascii_only, **bare)
    assert "Anilin \\u0131\\u015f\\u0131k" in found
