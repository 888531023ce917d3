"""Names as queries: the structure they stand for, where that is shown, and what it leaves alone."""

from __future__ import annotations

import ast
import json
import shutil
import sys
import time
from pathlib import Path

import pytest

import tmr_jax
from tmr_jax.data.features.text import normal_name
from tmr_jax.search import names
from tmr_jax.search.__main__ import main
from tmr_jax.search.names import Match, Opsin, structure_of, written_structure
from tmr_jax.search.retriever import Query, Retriever

LIBRARY = "CCO my ethanol\nCN1C=NC2=C1C(=O)N(C)C(=O)N2C stimulant\nc1ccccc1N\n"
# Reads names as OPSIN does, in lines; "slow" takes longer than anybody waits, "crash" ends it.
STAND_IN = """
import sys, time
print("Enter a chemical name to begin:", file=sys.stderr)
for line in sys.stdin:
    name = line.strip()
    if name == "slow":
        time.sleep(60)
    if name == "crash":
        sys.exit(1)
    print({"methane": "C", "toyane": "CO", "odd": "C1CC"}.get(name, ""), flush=True)
"""


@pytest.fixture(autouse=True)
def without_opsin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has; the stand-in is tested below."""
    monkeypatch.setattr(names, "OPSIN", Opsin(("false",)))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Opsin:
    reader = Opsin((sys.executable, "-c", STAND_IN))
    monkeypatch.setattr(names, "OPSIN", reader)
    return reader


@pytest.fixture(scope="module")
def retriever(tiny_run: Path) -> Retriever:
    return tmr_jax.load(tiny_run)


@pytest.mark.parametrize(
    "written",
    ["α-D-Glucose", "alpha-d-glucose", "Alpha D glucose", "ALPHA-D‑GLUCOSE", " α–D–glucose "],
)
def test_ways_to_write_a_name(written: str) -> None:
    assert normal_name(written) == "alphadglucose"
    match = structure_of(written)
    assert match and match.source == "CHEBI:17925" and match.name == "alpha-D-glucose"


@pytest.mark.parametrize("text", ["indoles", "a steroid with a ketone", "amine", "", "x" * 400])
def test_other_texts_name_nothing(text: str) -> None:
    assert structure_of(text) is None


@pytest.mark.parametrize(
    ("text", "smiles"),
    [
        ("CCO", "CCO"),
        (" c1ccccc1N ", "c1ccccc1N"),
        ("[Na+].[Cl-]", "[Na+].[Cl-]"),
        ("InChI=1S/CH4O/c1-2/h2H,1H3", "CO"),
        ("InChI=1S/nothing", None),
        ("CNS", None),  # words, and abbreviations that RDKit would parse
        ("PCP", None),
        ("SOON", None),
        ("CO2", None),
        ("C1CC", None),
        ("a (chlorinated) phenol", None),
        ("p53", None),
        ("", None),
    ],
)
def test_a_structure_may_be_written(text: str, smiles: str | None) -> None:
    assert written_structure(text) == smiles


def test_a_space_that_makes_another_molecule() -> None:
    """An ester of a phenol and an anion: without the space both would be one name."""
    ester, anion = map(structure_of, ("4-hydroxyphenyl acetate", "4-hydroxyphenylacetate"))
    assert ester and anion and ester.smiles == "CC(=O)Oc1ccc(O)cc1" != anion.smiles
    assert structure_of("4-hydroxy-phenyl-acetate") is None


def test_systematic_names_are_read_by_opsin(stand_in: Opsin) -> None:
    assert structure_of("toyane  ") == Match("toyane", "CO", "OPSIN")
    assert structure_of("odd") is structure_of("no name") is None  # a SMILES that does not parse
    assert structure_of("two\nlines") is structure_of("m" * 301) is None  # are not sent at all
    assert structure_of("caffeine").source == "CHEBI:27732"  # ChEBI's own name comes first


@pytest.mark.parametrize("name", ["slow", "crash"])
def test_a_name_that_hangs_costs_its_process(
    name: str, stand_in: Opsin, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stand_in.smiles("toyane") == "CO"
    monkeypatch.setattr(names, "LIMIT", 0.1)
    start = time.monotonic()
    assert stand_in.smiles(name) == "" and time.monotonic() - start < 30
    assert stand_in.smiles("toyane") == "CO"  # by a new process


def test_without_package_or_java_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(names.importlib.util, "find_spec", lambda name: None)
    assert names.jar() is None and Opsin().smiles("ethanol") == ""
    for broken in ("no-such-program", "false"):
        absent = Opsin((broken,))
        assert absent.smiles("ethanol") == "" and not absent._command  # it is not tried again
    assert capfd.readouterr() == ("", "")


def test_java_is_needed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "py2opsin"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('imported')")
    jar = package / "opsin-cli-9.9.9-jar-with-dependencies.jar"
    jar.touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(names.shutil, "which", lambda name: "/usr/bin/java")
    assert names.jar() == jar
    monkeypatch.setattr(names.shutil, "which", lambda name: None)
    assert names.jar() is None


@pytest.mark.skipif(names.jar() is None, reason="py2opsin or Java is not installed")
def test_opsin_itself() -> None:
    assert Opsin().smiles("2-aminopropanoic acid") == "NC(C(=O)O)C"


# In answers


def test_the_named_molecule_is_found_and_scores_stay(retriever: Retriever, monkeypatch) -> None:
    library = retriever.with_library([line.split()[0] for line in LIBRARY.splitlines()])
    found = library.named("Caffeine")
    assert found and found.is_exact and found.nearest.name == "row 2"
    assert found.nearest.score == pytest.approx(1, abs=1e-5)
    assert str(found).startswith("caffeine (CHEBI:27732) is in this library: CN1C=NC2")
    hits = library.search("caffeine", k=3)
    absent = library.named("benzene")
    assert absent and not absent.is_exact
    assert "(CHEBI:16716, c1ccccc1) is not in this library; nearest by structure:" in str(absent)
    assert absent.nearest == library.search_molecule("c1ccccc1", k=3)[0]
    assert library.named("an aromatic amine") is None
    monkeypatch.setattr("tmr_jax.search.retriever.structure_of", lambda name: None)
    assert library.search("caffeine", k=3) == hits


def test_the_names_of_the_file_come_first(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "my.smi"
    path.write_text(LIBRARY + "CCN caffeine\n")
    library = retriever.with_library(path)
    found = library.named(" my ethanol ")
    assert found and found.is_exact and found.nearest.content == "CCO"
    assert str(found) == "my ethanol (its name in the file) is in this library: CCO (my ethanol)"
    assert library.named("caffeine").nearest.content == "CCN"
    (answer,) = library.answers([Query("my ethanol", pure=True)])
    assert answer.named is None


def test_a_written_structure_is_searched_as_one(retriever: Retriever) -> None:
    library = retriever.with_library(["CCO", "CCN", "c1ccccc1N"])
    asked = [
        Query("c1ccccc1N"),
        Query("InChI=1S/C2H6O/c1-2-3/h3H,2H2,1H3"),
        Query("CCO", pure=True),
    ]
    answers = [*library.answers(asked)]
    assert [a.query.of for a in answers] == ["molecule", "molecule", "text"]
    assert [a.hits[0].content for a in answers[:2]] == ["c1ccccc1N", "CCO"]
    assert answers[0].hits == library.search_molecule("c1ccccc1N")


def test_a_mirror_image_is_another_structure(retriever: Retriever) -> None:
    library = retriever.with_library(["C[C@H](N)C(=O)O", "CC(N)C(=O)O"])
    found = library.named("D-alanine")
    assert found and not found.is_exact
    (exact,) = [library.named(name) for name in ("L-alanine",)]
    assert exact and exact.is_exact and exact.nearest.content == "C[C@H](N)C(=O)O"


def test_descriptions_have_no_structure(retriever: Retriever) -> None:
    assert retriever.with_texts(["An acid."]).named("caffeine") is None


def test_every_form_of_output_says_it(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library, page = tmp_path / "my.smi", tmp_path / "hits.html"
    library.write_text(LIBRARY)
    asked = ["--run", str(tiny_run), "--library", str(library), "Caffeine", "an amine", "-k", "1"]
    line = "caffeine (CHEBI:27732) is in this library: CN1C=NC2=C1C(=O)N(C)C(=O)N2C (stimulant)"
    assert main([*asked, "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert out.count("in this library") == 1 and out.index(line) < out.index("Caffeine")
    assert line in page.read_text()
    assert main([*asked, "--json"]) == 0
    named, plain = json.loads(capsys.readouterr().out)["results"]
    assert named["named"]["source"] == "CHEBI:27732" and named["named"]["in_library"]
    assert named["named"]["nearest"]["name"] == "stimulant" and "named" not in plain


# In evaluations


def test_no_evaluation_looks_names_up() -> None:
    """Not by an import, and not by the index of names either."""
    root = Path(tmr_jax.__file__).parent
    for room in ("data", "models", "eval", "train", "index"):
        for path in (root / room).rglob("*.py"):
            tree = ast.parse(path.read_text("utf-8"))
            found = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Import)}
            found |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
            assert not any("tmr_jax.search" in name for name in found), path


@pytest.mark.costly
def test_an_evaluation_ranks_the_same_without_names(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tmr_jax.eval.__main__ import main as evaluate

    run = shutil.copytree(tiny_run, tmp_path / "run")  # an evaluation leaves files in it

    def scores() -> str:
        assert evaluate(["--run", str(run), "--protocol", "table/test"]) == 0
        return json.dumps(json.loads((run / "results.json").read_text())["scores"])

    before = scores()

    def never(name: str) -> None:
        raise AssertionError(f"{name} was looked up")

    monkeypatch.setattr(names, "structure_of", never)
    monkeypatch.setattr("tmr_jax.search.retriever.structure_of", never)
    assert scores() == before
