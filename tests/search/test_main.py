"""The search program: what it prints and draws, and what it says to a mistake."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
from rdkit import Chem

import tmr_jax
from tmr_jax.cli import main as tmr
from tmr_jax.data.files import hold
from tmr_jax.eval.ood import OodDetector, save_detector
from tmr_jax.index.exact import MANIFEST
from tmr_jax.search.__main__ import Arguments, main
from tmr_jax.search.export import cell, printable, to_html, to_sdf
from tmr_jax.search.retriever import Answer, Hit, Query, Retriever
from tmr_jax.serve.__main__ import main as serve

LIBRARY = (
    'CCO =HYPERLINK("http://x")\nc1ccccc1N <script>alert(1)</script>\nC1CC bad\nCCN \x1b[31mred\n'
)


@pytest.fixture
def words(tiny_run: Path, tmp_path: Path) -> list[str]:
    library = tmp_path / "my.smi"
    library.write_text(LIBRARY)
    return ["--run", str(tiny_run), "--library", str(library)]


def test_table(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-k", "2", "an amine", "an alcohol"]) == 0
    out, err = capsys.readouterr()
    assert "an amine" in out and "an alcohol" in out
    assert len(re.findall(r"^ +[12] +-?\d\.\d{4} ", out, re.M)) == 4
    assert "\x1b" not in out  # a name may not command the terminal
    assert "3 of 4 rows" in err and "1 unparsable" in err


def test_json_holds_checkpoint_account_and_hits(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json", "an amine"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert re.fullmatch("[0-9a-f]{64}", found["checkpoint"]["sha256"])
    assert found["library"]["rows"] == 4 and found["library"]["refused"] == {"unparsable": 1}
    hits = found["results"][0]["hits"]
    assert [h["rank"] for h in hits] == [1, 2, 3]
    assert [h["score"] for h in hits] == sorted((h["score"] for h in hits), reverse=True)
    assert "3 are shown" in err  # ten were asked for


def test_csv_holds_no_formula(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--csv", "an amine"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 3
    assert list(rows[0])[:5] == ["query", "unsure", "rank", "score", "smiles"]
    assert next(r for r in rows if r["smiles"] == "CCO")["mw"] == "46.069"
    assert (
        next(r for r in rows if r["smiles"] == "c1ccccc1N")["groups"]
        == "primary-amine aromatic-amine arene"
    )
    assert next(r for r in rows if r["smiles"] == "CCO")["name"].startswith("'=HYPERLINK")
    for dangerous in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1"):
        assert cell(dangerous) == f"'{dangerous}"
    assert cell("[Na+]") == "[Na+]"


def test_page_is_one_file_with_drawings(words: list[str], tmp_path: Path) -> None:
    page = tmp_path / "hits.html"
    assert main([*words, "--html", str(page), 'an "amine" <b>']) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 3
    assert "<script" not in text and '<b>"' not in text and "&lt;script&gt;" in text
    assert not re.search(r'(src|href)="', text)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_page_shows_both_scores_where_there_are_two() -> None:
    hits = [Hit(1, 0.25, "CCO", "a", 0.75), Hit(2, 0.5, "CCN", "b")]
    text = to_html([Answer(Query("x"), hits)], {})
    assert "<small>0.7500 (0.2500)</small>" in text and "<small>0.5000</small>" in text


def test_a_file_that_another_process_indexes(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit status 3, as of trainers; the cache is its own, others write in the common one."""
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    assert main([*words, "an amine"]) == 0
    (place,) = (tmp_path / "cache").glob("library-*")
    (place / MANIFEST).unlink()
    with hold(place / "lock"):
        for program in (main, serve):
            capsys.readouterr()
            asked = ["an amine"] if program is main else ["--port", "0"]
            assert program([*words, *asked]) == 3
            assert "error: expected to be alone in" in capsys.readouterr().err


def with_pools(source: Path, run: Path, data: str, protocols: list[str]) -> Path:
    """A copy of a run whose configuration names these data and protocols."""
    shutil.copytree(source, run)
    config = json.loads((run / "config.json").read_text("utf-8"))
    config["eval"]["protocols"], config["data"]["name"] = protocols, data
    (run / "config.json").write_text(json.dumps(config), "utf-8")
    return run


@pytest.mark.parametrize("protocols", [["table/test"], []])  # quickstart's configuration names none
def test_molecules_as_queries_and_the_runs_own_pool(
    protocols: list[str], tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = with_pools(tiny_run, tmp_path / "run", "table", protocols)
    assert main(["--run", str(run), "--molecule", "--json", "-k", "1", "CCO"]) == 0
    out, err = capsys.readouterr()
    assert "table/test" in err
    assert len(json.loads(out)["results"][0]["hits"]) == 1


def test_a_run_without_a_test_pool_asks_for_a_library(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = with_pools(tiny_run, tmp_path / "run", "open", [])
    assert main(["--run", str(run), "an amine"]) == 2
    assert "got no --library" in capsys.readouterr().err


def test_sdf_is_read_by_rdkit_again(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--sdf", "an amine"]) == 0
    read = Chem.SDMolSupplier()
    read.SetData(capsys.readouterr().out)
    molecules = list(read)
    assert [m.GetProp("rank") for m in molecules] == ["1", "2", "3"]
    assert {Chem.MolToSmiles(m) for m in molecules} == {"CCO", "CCN", "Nc1ccccc1"}
    assert molecules[0].GetProp("query") == "an amine" and molecules[0].HasProp("tpsa")
    assert molecules[0].GetConformer().GetPositions().any()
    ethanol = next(m for m in molecules if m.GetProp("smiles") == "CCO")
    assert ethanol.GetProp("_Name").startswith("=HYPERLINK")


def test_only_what_holds_a_substructure(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--contains", "[NH2]", "--csv", "an amine"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {r["smiles"] for r in rows} == {"c1ccccc1N", "CCN"}
    assert [r["rank"] for r in rows] == ["1", "2"]


def test_python_takes_what_the_command_line_takes_by_the_same_names(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Input and output aside: there Python has `load(run)`, `with_texts`, `search_molecule`."""
    files = {"queries", "run", "library", "from_file", "texts", "molecule"}
    printed = {"json", "csv", "sdf", "html", "out"}
    taken = {*signature(Retriever.search).parameters, *signature(Retriever.with_library).parameters}
    assert {field.name for field in fields(Arguments)} - files - printed <= taken
    options = ["-k", "5", "--contains", "N", "--diversity", "0.5", "--pure"]
    assert main([*words, "--csv", *options, "an amine", "--where", "mw<50", "!arene"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    library = tmr_jax.load(words[1]).with_library(words[3])
    hits = library.search(
        "an amine", k=5, where=["mw<50", "!arene"], contains="N", diversity=0.5, pure=True
    )
    assert [hit.content for hit in hits] == [row["smiles"] for row in rows] == ["CCN"]
    near = library.search_molecule("CCN", k=5, where=("mw<50",), contains="C")
    assert [hit.content for hit in near] == ["CCN", "CCO"]
    assert library.search("an amine", where=[]) == library.search("an amine")


def test_older_spellings_of_options_mean_the_same(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for index, diversity in (("--library", "--spread"), ("--index", "--diversity")):
        asked = [*words[:2], index, words[3], diversity, "0.9", "-k", "2", "--json", "an amine"]
        assert main(asked) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_texts_and_queries_from_files(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, queries = tmp_path / "texts.txt", tmp_path / "queries.txt"
    texts.write_text("an amine\n\nan alcohol\n")
    queries.write_text("CCO\nCCN\n")
    told = ["--texts", str(texts), "--from-file", str(queries), "--molecule", "--json"]
    assert main([*words[:2], *told]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert [one["query"] for one in found] == ["CCO", "CCN"]
    assert all({h["text"] for h in one["hits"]} == {"an amine", "an alcohol"} for one in found)


def test_an_invalid_query_of_a_file_is_named_and_the_others_answered(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = tmp_path / "queries.txt"
    queries.write_text("an amine\n\n\u200b\nan alcohol\n", "utf-8")
    assert main([*words, "--from-file", str(queries), "--json"]) == 2
    out, err = capsys.readouterr()
    assert [one["query"] for one in json.loads(out)["results"]] == ["an amine", "an alcohol"]
    assert f"skipped line 3 of {queries}: expected a description" in err
    assert "expected 3 valid queries, got 1 invalid" in err
    molecules = tmp_path / "queries.smi"
    molecules.write_text("smiles name\nCCO a\nXX b\nCCN c\n")
    assert main([*words, "--from-file", str(molecules), "--molecule", "--json"]) == 2
    out, err = capsys.readouterr()
    assert [one["query"] for one in json.loads(out)["results"]] == ["CCO", "CCN"]
    assert "skipped line 3" in err
    assert main([*words, "\u200b"]) == 2
    assert "error: expected a description" in capsys.readouterr().err


def test_a_query_that_a_filter_takes_is_named(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--where", "mw<500", "an amine"]) == 2
    assert "got none, but 'an amine' after --where" in capsys.readouterr().err
    assert main([*words, "an amine", "--where", "mw<5e2", "mw>.5"]) == 0


def test_a_library_from_standard_input(words: list[str], monkeypatch, capsys) -> None:
    for content in (LIBRARY, "id;Smiles\n1;CCO\n2;CCN\n3;C1CC\n4;Nc1ccccc1\n"):
        raw = io.TextIOWrapper(io.BytesIO(content.encode()))
        monkeypatch.setattr("sys.stdin", raw)
        assert main([*words[:2], "--library", "-", "an amine", "--json"]) == 0
        out, _ = capsys.readouterr()
        assert json.loads(out)["library"]["kept"] == 3


def test_notes_do_not_mix_with_json(tiny_run: Path, words: list[str], tmp_path, capsys) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "checkpoints" / "999999").mkdir()  # of a killed training, without a manifest
    assert main(["--run", str(run), *words[2:], "--json", "an amine"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) and "is damaged" in err


@pytest.fixture
def corpus(tiny_run: Path, tmp_path: Path) -> list[str]:
    path = tmp_path / "corpus.txt"
    path.write_text("=An acid\x1b[31m.\nAn <b>alcohol</b>.\n\n")
    return ["--run", str(tiny_run), "--library", str(path), "--molecule", "CCO"]


def test_a_library_of_descriptions(
    corpus: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, told = tmp_path / "hits.html", ["name", "id", "duplicate"]
    assert main([*corpus, "--html", str(file)]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^ *rank +score +text +name", out, re.M) and "SMILES" not in out
    assert "An <b>alcohol</b>." in out and "\x1b" not in out
    assert "2 of 3 rows are descriptions; skipped: 1 empty-text" in err
    shown = file.read_text("utf-8")
    assert "Descriptions that fit" in shown and "An &lt;b&gt;alcohol&lt;/b&gt;." in shown
    assert "<svg" not in shown
    assert main([*corpus, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["library"]["of"] == "descriptions"
    assert list(found["results"][0]["hits"][0]) == ["rank", "score", "text", *told]
    assert main([*corpus, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["query", "unsure", "rank", "score", "text", *told]
    assert {row["text"][:4] for row in rows} == {"'=An", "An <"}


@pytest.mark.parametrize(
    "extra, said",
    [
        (["--sdf"], "molecules for --sdf, got descriptions"),
        (["--where", "mw<500"], "no filter but distinct"),
        (["--contains", "C"], "leave the SMARTS out"),
        (["--spread", "0.5"], "leave the diversity (`spread` in the API) out"),
        (["--smiles-column", "a", "--text-column", "b"], "name one of them"),
    ],
)
def test_what_descriptions_have_not_is_refused(
    corpus: list[str], capsys: pytest.CaptureFixture[str], extra: list[str], said: str
) -> None:
    assert main([*corpus, *extra]) == 2
    assert said in capsys.readouterr().err


def test_no_sdf_is_made_of_texts() -> None:
    with pytest.raises(ValueError, match="expected molecules to write as SDF, got descriptions"):
        to_sdf([Answer(Query("CCO", "molecule"), [Hit(1, 0.5, "An acid.", "a", is_text=True)])])


@pytest.mark.parametrize(
    "extra, said",
    [
        ([], "expected a query"),
        (["--json", "--csv", "x"], "choose one"),
        (["-k", "0", "x"], "at least 1"),
        (["--html", "/nonexistent/x.html", "x"], "does not exist"),
        (["--texts", "t.txt", "x"], "leave one out"),
        (["--from-file", "missing.txt"], "missing.txt"),
        (["--contains", "C(", "x"], "expected a SMARTS"),
        (["--diversity", "2", "x"], "diversity of 0 to 1"),
        (["--molecule", "C1CC"], "unparsable"),
        (["--smiles-column", "x", "--library", "missing.csv", "x"], "missing.csv"),
        (["--run", "nowhere", "x"], "run directory"),
        ([""], "empty text"),
    ],
)
def test_mistakes_exit_2_and_are_explained(
    words: list[str], capsys: pytest.CaptureFixture[str], extra: list[str], said: str
) -> None:
    assert main([*words, *extra]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert re.search(r"^error: .*expected", err, re.M) and said in err


def test_what_is_printed_commands_no_terminal() -> None:
    assert printable("a\x1b[2Jb\u202ec") == "a [2Jb c"


def test_console_script(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert tmr(["search", *words, "--json", "an amine"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]
    assert tmr(["serch"]) == 2
    assert "did you mean search" in capsys.readouterr().err
    assert tmr([]) == 0
    assert "tmr train" in capsys.readouterr().out


def test_a_query_unlike_the_validation_texts_is_said(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    retriever = tmr_jax.load(run)
    rows = retriever.encode_text(["an acid", "a salt"])
    save_detector(run, retriever.checkpoint.sha256, OodDetector(rows, 1, 1e-4))
    (tmp_path / "my.smi").write_text("CCO\n")
    words = ["--run", str(run), "--library", str(tmp_path / "my.smi"), "-k", "1"]
    assert main([*words, "an acid", "a metal"]) == 0
    said = capsys.readouterr().err
    assert "they may all be wrong: 'a metal'" in said and "'an acid'" not in said
    assert main([*words, "an acid", "a metal", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [one["unsure"] for one in results] == [False, True]
    assert main([*words, "an acid", "a metal", "--csv"]) == 0
    lines = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert [line["unsure"] for line in lines] == ["0", "1"]
    assert main([*words, "an acid", "a metal", "--sdf"]) == 0
    assert re.findall(r"<unsure>.*\n(\d)", capsys.readouterr().out) == ["0", "1"]
