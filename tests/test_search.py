"""The search program: what it prints and draws, and what it says to a mistake."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from tmr_jax.cli import main as tmr
from tmr_jax.search import cell, main, printable

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
    assert len(rows) == 3 and set(rows[0]) == {"query", "rank", "score", "smiles", "name"}
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


def test_molecules_as_queries_and_the_runs_own_pool(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words[:2], "--molecule", "--json", "-k", "1", "CCO"]) == 0
    out, err = capsys.readouterr()
    assert "table/test" in err
    assert len(json.loads(out)["results"][0]["hits"]) == 1


@pytest.mark.parametrize(
    "extra, said",
    [
        ([], "no query"),
        (["--json", "--csv", "x"], "choose one"),
        (["-k", "0", "x"], "at least 1"),
        (["--html", "/nonexistent/x.html", "x"], "is none"),
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
