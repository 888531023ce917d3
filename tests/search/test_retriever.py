"""The Python API on a run with random parameters: same input same row, and search by the rows."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tmr_jax
from tmr_jax.data import readers
from tmr_jax.data.features.graph import BadMolecule
from tmr_jax.eval.ood import OodDetector, save_detector
from tmr_jax.index import build as index_build
from tmr_jax.index.schema import parse_filter
from tmr_jax.models.encode import CANDIDATES, QUERIES
from tmr_jax.search.retriever import Answer, CutShort, Query, Retriever
from tmr_jax.search.substructure import MATCHER, Checked

SMILES = [
    "CCO",
    "OCC",
    "c1ccccc1N",
    "CC(=O)O",
    "C[C@H](N)C(=O)O",
    "C[C@@H](N)C(=O)O",
    "[Na+].[Cl-]",
]


@pytest.fixture(scope="module")
def retriever(tiny_run: Path) -> Retriever:
    return tmr_jax.load(tiny_run)


def test_import_alone_loads_no_jax() -> None:
    code = "import sys, tmr_jax; tmr_jax.__version__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_rows_have_length_one_and_equal_inputs_equal_bits(retriever: Retriever) -> None:
    rows = retriever.encode_molecules(SMILES)
    assert rows.shape == (7, 16) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert (rows[0] == rows[1]).all()  # one molecule, written twice
    assert (rows[4] != rows[5]).any()  # ogb sees the mirror image
    texts = retriever.encode_text(["an acid", "a  salt", "an acid"])
    assert (texts[0] == texts[2]).all() and (texts[0] != texts[1]).any()


def test_a_text_alone_is_what_it_is_among_many(retriever: Retriever) -> None:
    texts = [f"an acid with {i} rings" for i in range(QUERIES + 1)]
    many = retriever.encode_text(texts)
    np.testing.assert_allclose(retriever.encode_text(texts[3:4]), many[3:4], atol=1e-6)
    np.testing.assert_allclose(retriever.encode_text(texts[:2]), many[:2], atol=1e-6)


def test_nothing_is_compiled_after_warming_up(tiny_run: Path) -> None:
    warm = tmr_jax.load(tiny_run)
    warm.warm()
    read = warm._encoder._text, warm._encoder._mol
    compiled = [of._cache_size() for of in read]
    for text in ("acid", "an acid with a ring " * 5, "an acid " * 400):
        warm.encode_text([text])
        for count in (2, QUERIES, QUERIES + 5):
            warm.encode_text([f"{i} {text}" for i in range(count)])
    for smiles in ("C", "c1ccccc1" * 2, "CC(C)C" * 5, "C" * 100):
        warm.encode_molecules([smiles])
        warm.encode_molecules([smiles + "C" * i for i in range(CANDIDATES)])
    assert [of._cache_size() for of in read] == compiled


def test_search_is_the_order_of_cosines(retriever: Retriever) -> None:
    found = retriever.with_library(SMILES).search("an aromatic molecule with 1 ring", k=3)
    cosines = retriever.encode_text(["an aromatic molecule with 1 ring"])[0] @ (
        retriever.encode_molecules(SMILES).T
    )
    best = np.argsort(-cosines, kind="stable")[:3]
    assert [h.content for h in found] == [SMILES[i] for i in best]
    assert [h.rank for h in found] == [1, 2, 3]
    np.testing.assert_allclose([h.score for h in found], cosines[best], atol=1e-6)


def test_a_molecule_finds_itself_first_and_texts_that_describe_it(retriever: Retriever) -> None:
    hit = retriever.with_library(SMILES).search_molecule("Nc1ccccc1", k=1)[0]
    assert hit.content == "c1ccccc1N" and hit.score == pytest.approx(1, abs=1e-6)
    texts = ["an acid", "a salt"]
    found = retriever.with_texts(texts).search_molecule("[Na+].[Cl-]", k=5)
    assert {h.content for h in found} == set(texts)


FILES = {
    "plain.smi": "SMILES name\nCCO grain alcohol\n\n# remark\nC1CC open\nc1ccccc1N\taniline\n",
    "table.csv": "id,Smiles\r\na1,CCO\r\na2,C1CC\r\na3,c1ccccc1N\r\n",
    "table.tsv": "SMILES\tid\nCCO\ta1\nC1CC\ta2\nc1ccccc1N\ta3\n",
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_files_give_molecules_names_and_an_account(
    retriever: Retriever, tmp_path: Path, name: str, packed: bool
) -> None:
    content = FILES[name].encode()
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content) if packed else content)
    column = "" if ".smi" in name else "id"
    searched = retriever.with_library(path, name_column=column)
    assert searched.library is not None
    assert searched.library.kept == 2 and searched.library.refused == {"unparsable": 1}
    names = {h.content: h.name for h in searched.search("an amine")}
    assert names == (
        {"CCO": "a1", "c1ccccc1N": "a3"}
        if column
        else {"CCO": "grain alcohol", "c1ccccc1N": "aniline"}
    )


def test_a_txt_file_is_a_table_or_a_bare_list(tmp_path: Path) -> None:
    bare, columns = tmp_path / "zinc.txt", tmp_path / "table.txt"
    bare.write_text("CCO\nCCN amine\n")
    columns.write_text("CID\tSMILES\n7\tCCO\n")
    assert [r.content for r in readers.read_rows(bare)] == ["CCO", "CCN"]
    assert [r.content for r in readers.read_rows(columns)] == ["CCO"]
    columns.write_text("compound\tSMILE\n7\tCCO\n")
    assert [r.content for r in readers.read_rows(columns)] == ["CCO"]
    columns.write_text("compound\tnumber\n7\t8\n")
    with pytest.raises(ValueError, match="expected a column 'SMILES'"):
        list(readers.read_rows(columns))


def test_lines_that_are_no_text_or_too_long_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.smi"
    long = b"C" * (3 * readers.MAX_TEXT)
    path.write_bytes(b"CCO\n\xff\xfe\n" + long + b"\nCCN amine\n" + long)
    rows = list(readers.read_rows(path))
    assert [row.refused for row in rows] == ["", "not-utf-8", "too-long", "", "too-long"]
    assert rows[3] == readers.Row("CCN", "amine", "", 4)


def test_a_text_has_one_vector_whatever_its_neighbours(tiny_run: Path, tmp_path: Path) -> None:
    """In bfloat16, in which this run says that it trained, they would differ by up to 1e-3."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text("utf-8"))
    config["train"]["precision"] = "bfloat16"
    (run / "config.json").write_text(json.dumps(config), "utf-8")
    retriever = tmr_jax.load(run)
    few = ["an aromatic amine", "a steroid", "benzene"]
    alone = np.concatenate([retriever.encode_text([text]) for text in few])
    among = retriever.encode_text([*few, *(f"mol {i}" for i in range(23)), "x " * 60])[:3]
    np.testing.assert_allclose(among, alone, rtol=0, atol=1e-5)


def test_a_library_is_encoded_once_and_again_when_anything_changed(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "my.smi"
    path.write_text("CCO\nCCN\n")
    first = retriever.with_library(path).search("an amine")
    kept = sorted((tmp_path / "cache").iterdir())
    written = [p.stat().st_mtime_ns for p in kept]
    assert retriever.with_library(path).search("an amine") == first
    assert [p.stat().st_mtime_ns for p in kept] == written
    rows = next(kept[0].glob("shards/*/rows.f32"))
    rows.write_bytes(rows.read_bytes()[:-4])  # damaged: made again
    assert retriever.with_library(path).search("an amine") == first
    path.write_text("CCO\nCCN\nCCS\n")
    assert len(retriever.with_library(path).search("an amine")) == 3
    assert len(list((tmp_path / "cache").iterdir())) == 2  # no temporary folder is left


def test_chunks_and_shards_change_no_row(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_build, "CHUNK", 2)
    monkeypatch.setattr(index_build, "SHARD", 3)
    path = tmp_path / "my.smi"
    path.write_text("\n".join(SMILES))
    searched = retriever.with_library(path)
    found = {hit.id: hit for hit in searched.search("an acid", k=20)}
    assert [found[i].content for i in range(len(SMILES))] == SMILES
    cosines = retriever.encode_molecules(SMILES) @ retriever.encode_text(["an acid"])[0]
    np.testing.assert_allclose([found[i].score for i in range(len(SMILES))], cosines, atol=1e-6)


def test_a_filter_leaves_only_what_meets_it(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "my.smi"
    path.write_text("CCO\nCCN\nc1ccccc1O\n[Na+].[Cl-]\n")
    searched = retriever.with_library(path)
    hits = searched.search("an alcohol", where=parse_filter(["mw<60", "unsalted", "!alcohol"]))
    assert [hit.content for hit in hits] == ["CCN"] and hits[0].columns["heavy_atoms"] == 3
    assert searched.search("an alcohol", where=parse_filter(["mw>1000"])) == []
    with pytest.raises(ValueError, match="properties to filter by, got a list"):
        retriever.with_library(["CCO"]).search("x", where=parse_filter(["mw<60"]))


SALTS = ["CC(=O)[O-].[Na+]", "CC(=O)O", "OC(C)=O", "CCN", "CC[NH3+].[Cl-]", "CCO"]


@pytest.mark.parametrize(
    "words, right",
    [
        (["parents"], {SALTS[0], "CCN", "CCO"}),  # the first of each, as the file has them
        (["parents", "distinct"], {SALTS[0], "CCN", "CCO"}),
        (["parents", "unsalted"], {"CC(=O)O", "CCN", "CCO"}),
        (["parents", "distinct", "unsalted", "mw>50"], {"CC(=O)O"}),
        (["distinct", "mw>46.1", "mw<70"], {"CC(=O)O"}),
        (["parents", "mw>80"], {SALTS[0], SALTS[4]}),
        (["parents", "!carboxylic-acid", "unsalted"], {"CCN", "CCO"}),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, list) else "",  # a set has no order
)
def test_one_of_each_parent_is_one_that_meets_the_rest(
    retriever: Retriever, tmp_path: Path, words: list[str], right: set[str]
) -> None:
    path = tmp_path / "my.smi"
    path.write_text("\n".join([*SALTS, *["CC(=O)[O-].[K+]"] * 40]))
    library, where = retriever.with_library(path), parse_filter(words)
    passing = library.count(where)
    assert passing >= len(right) if where.repeats else passing == len(right)
    for k in (len(right), 10):
        hits = library.search("an acid", k, where)
        found = {"CC(=O)O" if hit.content == "OC(C)=O" else hit.content for hit in hits}
        assert len(hits) == len(right)
        assert {content.replace("K+", "Na+") for content in found} == right
        assert [hit.rank for hit in hits] == [1, 2, 3][: len(hits)]


def test_one_of_each_parent_is_one_that_holds_the_substructure(
    retriever: Retriever, tmp_path: Path
) -> None:
    path = tmp_path / "my.smi"
    path.write_text("\n".join(SALTS))
    library = retriever.with_library(path)
    hits = library.search("x", 10, parse_filter(["parents"]), contains="C(=O)[OX2H1]")
    assert len(hits) == 1 and hits[0].content in ("CC(=O)O", "OC(C)=O")
    hits = library.search("x", 10, parse_filter(["parents"]), contains="C")
    assert len(hits) == 3


def test_hits_hold_a_substructure(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my.smi"
    chains = ["C" * n + "O" for n in range(1, 160)]
    path.write_text("\n".join([*chains, "CCN", "CCCN"]))
    library = retriever.with_library(path)
    query = retriever.encode_text(["an alcohol"])
    every = library.nearest(query, 200)[0]
    right = [hit.content for hit in every if "N" in hit.content]
    last, checked = max(hit.rank for hit in every if "N" in hit.content), []
    check = MATCHER.check

    def counted(smarts: str, smiles: list[str], *more: float):
        checked.extend(smiles)
        return check(smarts, smiles, *more)

    monkeypatch.setattr(MATCHER, "check", counted)
    (found,) = library.answers([Query("an alcohol", k=2, substructure="[NH2]")])
    assert isinstance(found, Answer) and found.looked is None and len(checked) >= last
    assert [hit.content for hit in found.hits] == right
    assert [hit.rank for hit in found.hits] == [1, 2]
    assert library.search("an alcohol", 5, contains="[NH2]") == found.hits
    light = library.search("an alcohol", 3, parse_filter(["mw<50"]), "[NH2]")
    assert light[0].content == "CCN" and light[0].held == (False, False, True)
    assert library.count() == len(chains) + 2
    with pytest.raises(ValueError, match="got texts"):
        retriever.with_texts(["an acid"]).search("an acid", contains="C")


CORPUS = ["An acid.", "A salt of sodium.", "An  acid.", "An alcohol."]


def test_a_file_of_texts_is_a_library_of_descriptions(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join([*CORPUS, " "]))
    library = retriever.with_library(path)
    assert library.library is not None and library.library.of == "descriptions"
    assert library.library.refused == {"empty-text": 1}
    listed = retriever.with_texts(CORPUS)
    assert listed.library is not None and listed.library.of_texts
    for ask in (lambda r: r.search_molecule("CCO", 4), lambda r: r.search("an acid", 4)):
        hits = ask(library)
        assert [h.content for h in hits] == [h.content for h in ask(listed)]
        assert all(h.is_text and set(h.columns) == {"duplicate", "identity"} for h in hits)
    distinct = library.search_molecule("CCO", 4, parse_filter(["distinct"]))
    assert {h.content for h in distinct} == {*CORPUS} - {"An  acid."}
    (place,) = (tmp_path / "cache").glob("library-*")
    written = [p.stat().st_mtime_ns for p in place.iterdir()]
    retriever.with_library(path)
    assert [p.stat().st_mtime_ns for p in place.iterdir()] == written
    table = tmp_path / "corpus.csv"
    table.write_text("SMILES,text\nCCO,An alcohol.\n")
    for words, of in (({}, "molecules"), ({"text_column": "text"}, "descriptions")):
        opened = retriever.with_library(table, **words).library
        assert opened is not None and opened.of == of


@pytest.mark.parametrize(
    "words", ["mw<100", "nitro", "!nitro", "unsalted", "parents", "distinct parents"]
)
def test_what_only_a_molecule_has_is_no_filter_of_texts(
    retriever: Retriever, tmp_path: Path, words: str
) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(CORPUS))
    library = retriever.with_library(path)
    with pytest.raises(ValueError, match="no filter but distinct for an index of descriptions"):
        library.search("an acid", where=parse_filter(words.split()))
    for more in ({"contains": "C"}, {"diversity": 0.5}):
        with pytest.raises(ValueError, match="got texts; leave the"):
            library.search_molecule("CCO", **more)


def test_too_little_time_is_said(retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    library = retriever.with_library(SMILES)
    monkeypatch.setattr(MATCHER, "_limit", 0.05)
    MATCHER.check("C", [])
    monkeypatch.setattr(
        MATCHER,
        "check",
        lambda smarts, smiles, spent: Checked(np.array([True, False]), False),
    )
    with pytest.warns(CutShort, match="only the 2 nearest"):
        assert len(library.search("an acid", 5, contains="C")) == 1


def test_a_pattern_is_charged_what_was_spent_on_it_alone(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the start of a process, nor the wait for the question of another."""
    library, told = retriever.with_library(["C" * n for n in range(1, 300)]), []

    def check(smarts: str, smiles: list[str], spent: float) -> Checked:
        told.append(spent)
        time.sleep(0.1)
        return Checked(np.zeros(len(smiles), bool), True, 0.01)

    monkeypatch.setattr(MATCHER, "check", check)
    assert library.search("an acid", 5, contains="[N]") == []
    assert told == [0.0, 0.01]


def test_diverse_hits_are_structures_that_differ(retriever: Retriever) -> None:
    twins = ["C" * n + "O" for n in range(5, 12)]
    library = retriever.with_library([*twins, "c1ccccc1N", "CC(=O)[O-].[Na+]"])
    plain = library.search("an alcohol", 9)
    assert library.search("an alcohol", 9, diversity=1e-9) == plain
    diverse = library.search("an alcohol", 4, diversity=0.9)
    assert diverse[0].content == plain[0].content and [h.rank for h in diverse] == [1, 2, 3, 4]
    assert {"c1ccccc1N", "CC(=O)[O-].[Na+]"} <= {hit.content for hit in diverse}
    with pytest.raises(ValueError, match="got texts"):
        retriever.with_texts(["an acid"]).search("an acid", diversity=0.5)


def test_strange_texts_are_told_by_what_eval_has_kept(
    retriever: Retriever, tiny_run: Path, tmp_path: Path
) -> None:
    assert retriever.is_ood("an acid") is None
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    rows = retriever.encode_text(["an acid", "a salt"])
    save_detector(run, retriever.checkpoint.sha256, OodDetector(rows, 1, 1e-4))
    again = tmr_jax.load(run)
    encoded = again.encode_queries([Query(text) for text in ("an acid", "a salt", "a metal")])
    assert [read.is_ood for read in encoded] == [False, False, True]  # type: ignore[union-attr]
    assert again.is_ood("an acid") is False and again.is_ood("a metal") is True
    assert again.with_library(["CCO"]).is_ood("a metal") is True
    save_detector(run, "0" * 64, OodDetector(rows, 1, 1e-4))  # of another checkpoint
    assert tmr_jax.load(run).is_ood("an acid") is None
    best = again.with_library(["CCO"]).search("an acid", k=1)[0].score
    for trusted, unsure in ((best - 0.01, False), (best + 0.01, True)):
        save_detector(run, retriever.checkpoint.sha256, OodDetector(rows, 1, 1e-4, trusted))
        held = tmr_jax.load(run).with_library(["CCO"])
        asked = [Query("an acid"), Query("a metal"), Query("CCO", "molecule")]
        found = [a.is_unsure for a in held.answers(asked, held.encode_queries(asked))]
        assert found[::2] == [unsure, False]  # a structure has no threshold
    (run / "known.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="evaluate the run again"):
        tmr_jax.load(run)


def test_several_queries_at_once(retriever: Retriever) -> None:
    library = retriever.with_library(SMILES)
    queries = [
        Query("an acid", k=3),
        Query("\u200b"),
        Query("a salt", k=2),
        Query("OCC", "molecule"),
    ]
    found, refused, *rest = library.answers([*queries, Query("C1CC", "molecule")])
    assert isinstance(refused, ValueError) and "empty text" in str(refused)
    assert isinstance(rest.pop(), BadMolecule)
    for answer, query in zip([found, *rest], (queries[0], *queries[2:]), strict=True):
        assert isinstance(answer, Answer) and answer.query == query
        search = library.search if query.of == "text" else library.search_molecule
        alone = search(query.content, query.k)  # a batch of one: the last bits may differ
        assert [hit.content for hit in answer.hits] == [hit.content for hit in alone]
        assert [hit.score for hit in answer.hits] == pytest.approx([hit.score for hit in alone])


@pytest.mark.parametrize("whole_shard", [False, True])
def test_a_damaged_library_answers_from_the_rest(
    retriever: Retriever,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole_shard: bool,
) -> None:
    monkeypatch.setattr(index_build, "SHARD", 3)
    path, out = tmp_path / "my.smi", tmp_path / "lib"
    path.write_text("\n".join(SMILES))
    index_build.build(index_build.Source(path), out, retriever.model)
    assert not retriever.with_library(out).is_partial
    if whole_shard:
        shutil.rmtree(out / "shards" / "000000")
    else:
        (out / "shards" / "000000" / "rows.f32").unlink()
    rest = retriever.with_library(out)
    assert rest.is_partial
    assert sorted(hit.id for hit in rest.search("an acid", k=20)) == list(range(3, len(SMILES)))


def test_a_library_of_another_model_is_refused(
    retriever: Retriever, tiny_run: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "my.smi", tmp_path / "lib"
    path.write_text("CCO\nCCN\n")
    model = retriever.model
    index_build.build(index_build.Source(path), out, model)
    assert retriever.with_library(out).library.kept == 2
    head = out / "library.json"
    ours, theirs = model.checkpoint, "f" * 64
    head.write_text(head.read_text().replace(ours, theirs))
    with pytest.raises(ValueError, match=rf"model {ours} .* got .*{theirs}\" there, .*{ours}"):
        retriever.with_library(out)


def test_an_index_by_another_rdkit_is_noted(
    retriever: Retriever, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Canonical SMILES changed in 2026.03 and 2026.09. Some indexes do not name their version."""
    path, out = tmp_path / "my.smi", tmp_path / "index"
    path.write_text("CCO\n")
    index_build.build(index_build.Source(path), out, retriever.model)
    head = json.loads((out / "library.json").read_text())
    for version, noted in ((head["about"]["rdkit"], False), ("2025.03.5", True), ("", False)):
        head["about"]["rdkit"] = version
        if not version:
            del head["about"]["rdkit"]
        (out / "library.json").write_text(json.dumps(head))
        capsys.readouterr()
        assert retriever.with_library(out).search("an alcohol")[0].content == "CCO"
        assert ("built with RDKit 2025.03.5" in capsys.readouterr().err) == noted


@pytest.mark.costly
def test_search_and_service_never_import_transformers(tiny_run: Path, tmp_path: Path) -> None:
    """A run keeps its tokenizer, so only importing weights needs the package, which takes seconds.

    An index on disk is searched without what builds one, and without second stages unless the
    model has one.
    """
    path, out = tmp_path / "my.smi", tmp_path / "index"
    path.write_text("CCO\n")
    index_build.build(index_build.Source(path), out, tmr_jax.load(tiny_run).model)
    ask = f"main(['--run', {str(tiny_run)!r}, '--library', {str(out)!r}, 'x'])"
    unneeded = {"tmr_jax.index.build", "tmr_jax.search.rerank", "tmr_jax.eval.rerank"}
    for before, absent in (
        ("", {"transformers", *unneeded}),
        ("tmr_jax.serve.app", {"transformers"}),
    ):
        code = (
            f"import sys, tmr_jax, {before or 'json'}; from tmr_jax.search.__main__ import main; "
        )
        code += f"code = {ask}; print(code, {absent!r} & sys.modules.keys())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.endswith("0 set()\n"), done.stdout + done.stderr


def test_a_library_of_other_features_is_refused_with_what_differs(
    retriever: Retriever, tmp_path: Path
) -> None:
    """The parameters are the same, so their hash does not tell them apart."""
    (tmp_path / "my.smi").write_text("CCO\n")
    model = retriever.model
    for key, told in (("featuriser", "0 there"), ("features", '"motif": "brics"')):
        out = tmp_path / key
        index_build.build(index_build.Source(tmp_path / "my.smi"), out, model)
        head = json.loads((out / "library.json").read_text())
        said = head["about"]["model"]
        said[key] = 0 if key == "featuriser" else said[key] | {"motif": "brics"}
        (out / "library.json").write_text(json.dumps(head))
        with pytest.raises(ValueError, match=f"differs from it .{key}: ") as error:
            retriever.with_library(out)
        assert told in str(error.value) and str(error.value).count(model.checkpoint) == 1


@pytest.mark.parametrize(
    "ask, said",
    [
        (lambda r, p: r.search("x"), "with_library"),
        (lambda r, p: r.with_library(SMILES).search("x", k=0), "k of at least 1"),
        (lambda r, p: r.with_library(SMILES).search(" \x00 "), "empty text"),
        (lambda r, p: r.with_library(SMILES).search("x", where="mw<60"), "write ['mw<60']"),
        (lambda r, p: r.with_library(SMILES).search("x", where=["mv<60"]), "did you mean mw?"),
        (lambda r, p: r.with_library(["C1CC", ""]), "unparsable"),
        (lambda r, p: r.with_library(p / "none.smi"), "got nothing"),
        (lambda r, p: r.with_library(p / "none.csv"), "got nothing"),
        (lambda r, p: r.with_library(p / "none.docx"), "got nothing"),
        (lambda r, p: r.encode_molecules(["CCO", "C1CC"]), "row 1: unparsable"),
        (lambda r, p: r.encode_text("one string"), "a list of strings"),
        (lambda r, p: r.encode_text([]), "empty list"),
        (lambda r, p: tmr_jax.load(p / "nowhere"), "run directory"),
    ],
)
def test_mistakes_are_explained(retriever: Retriever, tmp_path: Path, ask, said: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        ask(retriever, tmp_path)
    assert said in str(error.value)


def test_long_texts_are_known_to_be_cut(retriever: Retriever) -> None:
    assert retriever.is_cut("ring " * 500) and not retriever.is_cut("a ring")
