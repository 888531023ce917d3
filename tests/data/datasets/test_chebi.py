"""chebi: the data set inside the package, its parts, and what its training part must not hold."""

from __future__ import annotations

import gzip
from collections import Counter

import pytest

from tmr_jax.data import DataConfig, load_pairs_with_report
from tmr_jax.data.datasets import chebi
from tmr_jax.data.download import WrongContent
from tmr_jax.data.features.similarity import molecule_keys
from tmr_jax.data.pools import load_pool


@pytest.fixture(scope="module")
def terms() -> list[chebi.Term]:
    return list(chebi.terms())


def test_the_account_of_its_rows_adds_up() -> None:
    pairs, report = load_pairs_with_report(DataConfig(name="chebi"))
    assert (report.rows, report.kept, report.dropped) == (12_980, 9_408, 3_572)
    assert report.splits == {"train": 7_908, "validation": 500, "test": 1_000}
    assert report.kept + report.dropped == report.rows and not report.refused
    assert "2,543 rows: train definition" in report.notes
    assert len({pair.id for pair in pairs}) == len(pairs) == report.kept


def test_training_rows_carry_no_flag_and_the_others_those_of_their_part(terms) -> None:
    flags = {part: [] for part in ("train", "validation", "test", chebi.LEFT_OUT)}
    for term in terms:
        flags[term.part].append(set(term.eval_skeletons.split()))
    assert not any(flags["train"])
    assert all(found and found <= {"cv", "pv"} for found in flags["validation"])
    assert all(found & {"ct", "pt"} for found in flags["test"])
    asked = [t for t in terms if t.part in ("validation", "test")]
    assert {term.kind for term in asked} == {"definition"}


@pytest.mark.costly
def test_no_connectivity_is_in_two_parts(terms) -> None:
    kept = [t for t in terms if t.part != chebi.LEFT_OUT]
    blocks = [key[:14] for key in molecule_keys([t.smiles for t in kept])]
    parts = {block: set() for block in blocks}
    for term, block in zip(kept, blocks, strict=True):
        parts[block].add(term.part)
    assert Counter(map(len, parts.values())).keys() == {1}


def test_no_text_and_no_molecule_of_a_pool_comes_twice(terms) -> None:
    texts, molecules = Counter(t.caption for t in terms), Counter(t.smiles for t in terms)
    for name, size in (("chebi/validation", 500), ("chebi/test", 1_000)):
        pool = load_pool(name, DataConfig(name="chebi20"))  # whatever the data of the run are
        assert len(pool.texts) == len(pool.smiles) == size
        assert {texts[text] for text in pool.texts} == {molecules[s] for s in pool.smiles} == {1}


def test_training_pairs_by_kind() -> None:
    assert len(chebi.train_pairs()) == 2_543 + 1_336
    assert len(chebi.train_pairs(["classes"])) == 4_029
    first = chebi.train_pairs(["definition"])[0]
    assert (first.id, first.smiles) == ("CHEBI:7", "CC1=CC[C@@H]2[C@H](C1)C2(C)C")
    assert first.text.startswith("The molecule is a car-3-ene (3,7,7-trimethylbicyclo[4.1.0]hept")
    with pytest.raises(ValueError, match=r"definition, classes\+roles, classes; got \['roles'\]"):
        chebi.train_pairs(["roles"])


def test_definitions_have_no_structure(terms) -> None:
    found = list(chebi.all_definitions())
    assert len(found) == 4_157 and not {d.chebi_id for d in found} & {t.chebi_id for t in terms}
    assert found[0].name == "3beta-hydroxy-Delta(5)-steroid"


def test_the_licence_names_every_source(terms) -> None:
    text = (chebi.FOLDER / "CHEBI_LICENSE.md").read_text(encoding="utf-8")
    assert "https://creativecommons.org/licenses/by/4.0/" in text and "Changes:" in text
    for code in {t.structure_source for t in terms} | {t.text_source for t in terms}:
        assert f"| {code} |" in text


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in chebi.FOLDER.glob("chebi_*.gz")) < 1_500_000


def test_a_changed_file_is_refused(tmp_path, monkeypatch) -> None:
    for name in (chebi.TERMS, chebi.DEFINITIONS):
        content = gzip.decompress((chebi.FOLDER / f"{name}.gz").read_bytes())
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content + b"\n"))
    monkeypatch.setattr(chebi, "FOLDER", tmp_path)
    with pytest.raises(WrongContent, match=r"chebi_terms\.tsv\.gz with SHA-256 .* install"):
        chebi.load()
    with pytest.raises(WrongContent, match="chebi_definitions"):
        list(chebi.all_definitions())
