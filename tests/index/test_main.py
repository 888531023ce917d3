"""Building an index: valid, flagged and skipped rows; interruption, damage, resuming."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tmr_jax
from tmr_jax.data.files import hold
from tmr_jax.data.workers import Died
from tmr_jax.index import __main__ as index
from tmr_jax.index import build as index_build
from tmr_jax.index.build import REFUSED, Seen, Source, build, described
from tmr_jax.index.exact import MANIFEST, ROWS, ExactEngine, shard_places
from tmr_jax.index.schema import KEPT, contents
from tmr_jax.models.encode import Encoder

LINES = [
    "CC(=O)O acetic acid",
    "CC(=O)[O-].[Na+] its salt",
    "OC(C)=O the acid again",
    "not_a_molecule x",
    "c1ccccc1 benzene",
    "C1CC unclosed",
    "CCO",
    "CC(=O)[O-] acetate",
    "[Fe] iron",
    "CCN amine",
    "CCCCCC hexane",
]


@pytest.fixture
def small(monkeypatch):
    """Shards of 4 rows, chunks of 2."""
    monkeypatch.setattr(index_build, "SHARD", 4)
    monkeypatch.setattr(index_build, "CHUNK", 2)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my molecules.smi"
    path.write_text("\n".join(LINES) + "\n")
    return path


@pytest.fixture(scope="module")
def model(tiny_run):
    return tmr_jax.load(tiny_run).model


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "lock"
    }


def test_rows_of_a_file(small, file, model, tmp_path, tiny_run):
    seen = []
    account = build(Source(file), tmp_path / "lib", model, lambda *said: seen.append(said))
    assert seen == [(4, 11), (8, 11), (11, 11)]
    assert (account.rows, account.kept, account.refused) == (11, 9, {"unparsable": 2})
    assert (account.salts, account.duplicates, account.variants) == (1, 1, 3)
    store = ExactEngine(tmp_path / "lib")
    items = store.get(range(11))
    assert [item and item["name"] for item in items] == [
        *["acetic acid", "its salt", "the acid again", None, "benzene", None, "line 7"],
        *["acetate", "iron", "amine", "hexane"],
    ]
    flags = [
        (i, n)
        for i, item in enumerate(items)
        for n in ("salt", "duplicate", "variant")
        if item and item[n]
    ]
    assert flags == [(1, "salt"), (1, "variant"), (2, "duplicate"), (2, "variant"), (7, "variant")]
    assert items[4]["mw"] == pytest.approx(78.11, abs=0.01) and items[8]["heavy_atoms"] == 1
    refused = (tmp_path / "lib" / REFUSED).read_text().splitlines()
    assert refused[1:] == ["4\tunparsable\tnot_a_molecule", "6\tunparsable\tC1CC"]
    kept = [line.split()[0] for i, line in enumerate(LINES) if items[i]]
    vectors = tmr_jax.load(tiny_run).encode_molecules(kept)
    found = np.stack([item["vector"] for item in store.get(range(11), ["vector"]) if item])
    np.testing.assert_allclose(found, vectors, atol=1e-6)
    retriever = tmr_jax.load(tiny_run)
    reader = Encoder(retriever._assembly, retriever._params, parts=True)
    read = reader.molecules(kept)[0]
    found = [item["norm"] for item in items if item]
    np.testing.assert_allclose(
        found, np.linalg.norm(read.side.pooled, axis=1)[read.group], rtol=1e-5
    )


def test_a_stopped_build_goes_on_and_ends_the_same(small, file, model, tmp_path):
    whole = tmp_path / "whole"
    build(Source(file), whole, model)
    part = tmp_path / "part"

    def stop(done: int, total: int | None) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(Source(file), part, model, stop)
    assert len(shard_places(part)) == 2 and not (part / MANIFEST).exists()
    (part / "shards" / ".000002.77.tmp").mkdir()  # what kill -9 leaves
    account = build(Source(file), part, model)
    assert (account.made, account.shards) == (1, 3)
    assert content(part) == content(whole)


TEXTS = ["An  acid.", "An alcohol.", "", "An acid. ", "A salt.", "ring " * 500, " An\tacid."]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def no_process(*_):
    raise AssertionError("texts need no RDKit")


def test_texts_of_a_file(small, corpus, model, tmp_path, tiny_run, monkeypatch):
    monkeypatch.setattr(index_build, "in_workers", no_process)
    seen = []
    account = build(Source(corpus), tmp_path / "lib", model, lambda *said: seen.append(said))
    assert seen == [(2, 7), (4, 7), (7, 7), (7, 7)]
    assert (account.rows, account.kept, account.refused) == (7, 6, {"empty-text": 1})
    assert (account.duplicates, account.cut, account.salts) == (2, 1, 0)
    store = ExactEngine(tmp_path / "lib")
    assert contents(store.about) == "descriptions" and "rdkit" not in store.about
    items = store.get(range(7), [*KEPT, "vector"])
    assert [item and item["smiles"] for item in items] == [t.strip() or None for t in TEXTS]
    assert [i for i, item in enumerate(items) if item and item["duplicate"]] == [3, 6]
    assert items[1]["name"] == "line 2" and items[1]["mw"] == 0
    refused = (tmp_path / "lib" / REFUSED).read_text().splitlines()
    assert refused[1:] == ["3\tempty-text\t"]
    vectors = tmr_jax.load(tiny_run).encode_text([text for text in TEXTS if text])
    found = np.stack([item["vector"] for item in items if item])
    np.testing.assert_allclose(found, vectors, atol=1e-6)
    assert all(item["norm"] > 1.5 for item in items if item)


def test_a_stopped_build_of_texts_goes_on_and_ends_the_same(small, corpus, model, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    build(Source(corpus), whole, model)

    def stop(done: int, total: int | None) -> None:
        if done == 7:  # while the second shard is encoded
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(Source(corpus), part, model, stop)
    assert len(shard_places(part)) == 1
    assert build(Source(corpus), part, model).made == 1
    assert content(part) == content(whole)


def test_a_column_of_texts_by_the_program(corpus, tiny_run, tmp_path, capsys):
    table = tmp_path / "my.csv"
    table.write_text("CID,SMILES,text\n7,CCO,An alcohol.\n8,CCN,\n9,CCS,an alcohol.\n")
    out = str(tmp_path / "lib")
    words = ["--run", str(tiny_run), "--library", str(table), "--out", out, "--name-column", "CID"]
    assert index.main([*words, "--text-column", "text"]) == 0
    said = capsys.readouterr().out
    assert "2 descriptions of 3 rows in" in said and "0 duplicates, 0 longer" in said
    assert "skipped: 1 empty-text" in said
    assert index.main(["check", out]) == 0 and "2 descriptions in" in capsys.readouterr().out
    assert ExactEngine(Path(out)).get([2])[0]["name"] == "9"
    assert index.main([*words, "--text-column", "text", "--smiles-column", "SMILES"]) == 2
    assert "for both; name one of them" in capsys.readouterr().err
    assert index.main(words) == 2  # its molecules are another index
    assert "of the same file and model, got another one" in capsys.readouterr().err
    (tmp_path / "none.txt").write_text("\n \n")
    words = ["--run", str(tiny_run), "--library", str(tmp_path / "none.txt"), "--out", out + "2"]
    assert index.main(words) == 2
    assert "at least one text, got none of 2 rows" in capsys.readouterr().err


def test_a_damaged_shard_is_made_again(small, file, model, tmp_path, capsys):
    out = tmp_path / "lib"
    build(Source(file), out, model)
    before = content(out)
    path = shard_places(out)[1] / "rows.f32"
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    assert index.main(["check", str(out)]) == 2
    assert "shard 000001: rows.f32 differs from what was written" in capsys.readouterr().out
    assert build(Source(file), out, model).made == 1
    assert content(out) == before and index.main(["check", str(out)]) == 0
    shutil.rmtree(shard_places(out)[2])
    assert index.main(["check", str(out)]) == 2
    assert "shard 000002: is missing" in capsys.readouterr().out
    shutil.rmtree(out / "shards")
    assert index.main(["check", str(out)]) == 2
    assert "error: expected an index that can be read" in capsys.readouterr().err


def test_a_shard_removed_during_the_build_is_no_complete_index(small, file, model, tmp_path):
    out = tmp_path / "lib"

    def remove_first(done, total):
        if len(shard_places(out)) == 3:
            shutil.rmtree(shard_places(out)[0])

    with pytest.raises(ValueError, match=r"expected 11 rows in the shards of .*, got 7; some"):
        build(Source(file), out, model, remove_first)
    assert not (out / MANIFEST).exists()
    assert build(Source(file), out, model).made == 1
    assert index.main(["check", str(out)]) == 0


def test_another_file_or_model_is_refused(small, file, model, tmp_path):
    out = tmp_path / "lib"
    build(Source(file), out, model)
    before = content(out)
    other = model._replace(checkpoint="0" * 64)
    with pytest.raises(ValueError, match=rf"{model.checkpoint}.* there, .*{'0' * 64}.* now"):
        build(Source(file), out, other)
    file.write_text("C\n")
    with pytest.raises(ValueError, match="of the same file and model, got another one"):
        build(Source(file), out, model)
    assert content(out) == before
    moved = model._replace(run="elsewhere")
    file.write_text("\n".join(LINES) + "\n")
    assert build(Source(file), out, moved).made == 0


def test_somebody_elses_folder_is_left_alone(file, model, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="new or empty folder"):
        build(Source(file), tmp_path, model)
    assert (tmp_path / "thesis.tex").read_text() == "mine" and not (tmp_path / "shards").exists()


def test_no_molecule_at_all(file, model, tmp_path):
    file.write_text("nonsense\nmore\n")
    with pytest.raises(ValueError, match="at least one molecule, got none of 2 rows"):
        build(Source(file), tmp_path / "lib", model)


def test_no_room_is_said_with_what_is_free(small, file, model, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tmr_jax.index.exact.write_shard", full)
    with pytest.raises(ValueError, match=r"No space left.*[\d,]+ bytes are free"):
        build(Source(file), tmp_path / "lib", model)


def test_two_builds_of_one_library(file, tiny_run, tmp_path, capsys):
    out = tmp_path / "lib"
    (out / "shards").mkdir(parents=True)
    with hold(out / "lock"):
        words = ["--run", str(tiny_run), "--library", str(file), "--out", str(out)]
        assert index.main(words) == 3
    assert "works there" in capsys.readouterr().err
    assert index.main(words) == 0


CSV = """SMILES,id,Batch,pIC50
CCO,a,1,7
CCN,b,x,
not_a_molecule,c,2,8
CCO,d,3,9
c1ccccc1,e,4,>10
"""


def encoder_of(model, monkeypatch) -> list[int]:
    """How many molecules it encodes from here on, call by call."""
    calls = []
    of = type(model.encoder)
    encode = of.mol_rows
    monkeypatch.setattr(of, "mol_rows", lambda self, t: calls.append(len(t.key)) or encode(self, t))
    return calls


def test_a_change_of_a_cell_encodes_nothing_again(small, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    path, out = tmp_path / "my.csv", tmp_path / "lib"
    path.write_text(CSV)
    source = Source(path, name_column="id")
    first = index_build.open_file(source, model)
    assert build(source, out, model).known == 0
    before = {i: item["vector"] for i in range(5) if (item := first.engine.get([i], ["vector"])[0])}
    calls = encoder_of(model, monkeypatch)
    # A row moves to the top, two cells and a name change, and one molecule is new.
    path.write_text(
        "SMILES,id,Batch,pIC50\nc1ccccc1,e,4,10\nCCO,A,1,7\nCCN,b,y,\nbad,c,,\nCCCN,n,,\n"
    )
    again = index_build.open_file(source, model)
    assert calls == [1]
    items = again.engine.get(range(5), ["name", "smiles", "Batch", "pIC50", "duplicate", "vector"])
    assert [item and item["name"] for item in items] == ["e", "A", "b", None, "n"]
    assert items[2]["Batch"] == "y" and items[0]["pIC50"] == 10
    for old, new in ((4, 0), (0, 1), (1, 2)):
        assert before[old].tobytes() == items[new]["vector"].tobytes()
    with pytest.raises(ValueError, match="--update replaces it"):
        build(source, out, model)
    report = index_build.update(source, out, model)
    assert calls == [1, 1] and (report.known, report.kept, report.refused) == (
        3,
        4,
        {"unparsable": 1},
    )
    assert index.main(["check", str(out)]) == 0
    assert ExactEngine(out).about["columns"] == again.engine.about["columns"]
    assert not list(tmp_path.glob("*.new")) and not list(tmp_path.glob(".*"))
    assert index_build.update(source, out, model).made == 0  # nothing to do


def test_known_shards_are_not_all_read_ahead(small, model, tmp_path, monkeypatch):
    path, out = tmp_path / "my.csv", tmp_path / "lib"
    path.write_text("SMILES,n\n" + "CCO,1\n" * 400)
    build(Source(path), out, model)
    path.write_text("SMILES,n\n" + "CCO,2\n" * 400)
    monkeypatch.setattr(index_build, "AHEAD", 1)
    read, written = [], []
    shards = Source.shards
    monkeypatch.setattr(
        Source, "shards", lambda *words: (read.append(s[0]) or s for s in shards(*words))
    )
    write = index_build._write
    monkeypatch.setattr(
        index_build, "_write", lambda *words: written.append(len(read)) or write(*words)
    )
    assert index_build.update(Source(path), out, model).known == 400
    assert len(read) == 100 and written[0] < 50


def test_an_update_ended_between_its_renames_goes_on(small, model, tmp_path):
    path, out = tmp_path / "my.csv", tmp_path / "lib"
    path.write_text(CSV)
    build(Source(path), out, model)
    path.write_text(CSV.replace("7", "6"))
    build(Source(path), tmp_path / "lib.new", model)
    out.rename(tmp_path / ".lib.old")
    report = index_build.update(Source(path), out, model)
    assert report.made == 0 and ExactEngine(out).get([0], ["pIC50"])[0]["pIC50"] == "6"
    assert {p.name for p in tmp_path.iterdir()} == {"my.csv", "lib"}


def test_columns_are_listed_by_the_program(tiny_run, tmp_path, capsys):
    path, out = tmp_path / "my.csv", tmp_path / "lib"
    path.write_text(CSV.replace("Batch", "MW").replace("id", ""))
    words = ["--run", str(tiny_run), "--library", str(path), "--out", str(out)]
    assert index.main(words) == 0
    said = capsys.readouterr().out
    assert "2 columns of the file: file.MW (text: 'x' in line 3 is not a number), pIC50" in said
    assert "column 'MW' of the file is called 'file.MW' here" in said
    assert "column '' is left out: it has no name" in said
    path.write_text(CSV)
    assert index.main(words) == 2
    assert index.main([*words, "--update"]) == 0
    said = capsys.readouterr().out
    assert "4 molecules were known and not encoded again" in said and "Batch (text" in said


class Fragile:
    """A worker whose process ends over one molecule."""

    asked = 0

    def be_ready(self, task):
        assert task == index_build.DESCRIBE

    def ask(self, task, job, limit=60.0):
        from tmr_jax.index.entries import describe_chunk

        self.asked += 1
        assert task == index_build.DESCRIBE and limit > 0
        if "C#C" in job[0]:
            raise Died
        return describe_chunk(*job)


def test_a_molecule_that_ends_its_process_is_refused_alone():
    worker = Fragile()
    smiles = ["C", "CC", "C#C", "x", "CCC", "CCCC", "CO"]
    found = described(worker, [smiles, "ogb", "none"])
    reasons = json.loads(found["reasons"].tobytes())
    assert reasons == ["", "", "crashed", "unparsable", "", "", ""]
    assert found["node_sizes"].tolist() == [1, 2, 3, 4, 2] and len(found["mw"]) == 5
    assert worker.asked <= 8


def test_numbers_that_came_before():
    drawn = np.random.default_rng(0).integers(0, 5000, 20_000)
    seen, known = Seen(), set()
    for part in np.array_split(drawn, 50):
        wanted = []
        for number in part.tolist():
            wanted.append(number in known)
            known.add(number)
        assert seen.add(part).tolist() == wanted


SLOW = """
import sys
from tmr_jax.index import __main__ as index
from tmr_jax.index import build as index_build
index_build.SHARD, index_build.CHUNK = 16, 8
sys.exit(index.main(sys.argv[1:]))
"""


def files(out: Path) -> dict[str, int]:
    """Which file holds the rows of each shard."""
    return {place.name: (place / ROWS).stat().st_ino for place in shard_places(out)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["smi", "txt"])
def test_killed_at_random_moments(kind, tiny_run, tmp_path):
    """A build survives kills, and shards that are complete are not written again."""
    file = tmp_path / f"many.{kind}"
    lines = ["C" * (i % 40 + 1) + "O" * (i % 3) for i in range(400)]
    lines = lines if kind == "smi" else [f"An alcohol, {line}." for line in lines]
    file.write_text("\n".join(lines) + "\n")
    words = ["--run", str(tiny_run), "--library", str(file), "--out"]
    command = [sys.executable, "-c", SLOW, *words]

    def start(out: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    process = start(tmp_path / "whole")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    out, random_, killed = tmp_path / "lib", random.Random(0), 0
    before: dict[str, int] = {}
    for kill in range(3):
        process = start(out)
        wanted = random_.randrange(1, 8) + 8 * kill
        limit = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < limit:
            if out.is_dir() and (out / "shards").is_dir() and len(shard_places(out)) >= wanted:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM if kill == 2 else signal.SIGKILL)
        said = process.communicate(timeout=60)[0]
        assert process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM, 0), said
        killed += process.returncode == -signal.SIGKILL
        assert before.items() <= files(out).items()
        before = files(out)
    assert killed, "every build had ended before it was killed"
    process = start(out)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "shards existed" in said
    assert before.items() <= files(out).items()
    assert content(out) == content(tmp_path / "whole")
