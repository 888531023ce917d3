"""tools/make/chebi.py: the rule of the parts, the wording, and a table from an OBO file."""

from __future__ import annotations

import doctest
import gzip
import os
from pathlib import Path

import pytest

from tmr_jax.data import DataConfig, TableConfig, load_pairs_with_report
from tmr_jax.data.datasets import chebi
from tmr_jax.data.readers import read_table
from tools.make import chebi as make

NEW = """format-version: 1.2

[Term]
id: CHEBI:1
name: carboxylic acid
subset: 3:STAR

[Term]
id: CHEBI:2
name: human metabolite
subset: 3:STAR

[Term]
id: CHEBI:3
name: (E)-but-2-enoate
def: "A \\"crotonate\\" of trans form,\\nmade by hand." [PMID:1, "x"]
subset: 3:STAR
is_a: CHEBI:1 ! carboxylic acid
relationship: RO:0000087 CHEBI:2 ! has role human metabolite
relationship: RO:0018033 CHEBI:4 ! is conjugate base of (E)-but-2-enoic acid
property_value: chemrof:charge "-1" xsd:integer
property_value: chemrof:smiles_string "C/C=C/C([O-])=O" xsd:string

[Term]
id: CHEBI:4
name: (E)-but-2-enoic acid
subset: 3:STAR
is_a: CHEBI:1 ! carboxylic acid
property_value: chemrof:smiles_string "C/C=C/C(O)=O" xsd:string

[Term]
id: CHEBI:5
name: of two stars
subset: 2:STAR
property_value: chemrof:smiles_string "CC" xsd:string

[Term]
id: CHEBI:6
name: acyl chain
subset: 3:STAR
is_a: CHEBI:1
property_value: chemrof:smiles_string "*C(O)=O" xsd:string

[Term]
id: CHEBI:7
name: withdrawn
subset: 3:STAR
is_obsolete: true
property_value: chemrof:smiles_string "CCC" xsd:string

[Typedef]
id: RO:0000087
name: has role
"""
OLD = """[Term]
id: CHEBI:1
name: amine
subset: 3_STAR

[Term]
id: CHEBI:2
name: drug
subset: 3_STAR

[Term]
id: CHEBI:3
name: an olefin
subset: 3_STAR
property_value: http://purl.obolibrary.org/obo/chebi/inchikey "X" xsd:string
property_value: http://purl.obolibrary.org/obo/chebi/smiles "N/C=C\\\\C" xsd:string
is_a: CHEBI:1
relationship: has_role CHEBI:2 ! drug

[Term]
id: CHEBI:4
name: its other writing
subset: 3_STAR
property_value: http://purl.obolibrary.org/obo/chebi/smiles "N/C=C\\C" xsd:string
is_a: CHEBI:1
"""


def obo(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


def rows(path: Path) -> dict[str, chebi.Term]:
    found = (chebi.Term(*cells.values) for cells in read_table(path, chebi.Term._fields))
    return {term.chebi_id: term for term in found}


def test_the_examples_of_the_wording() -> None:
    assert doctest.testmod(make).failed == 0


def test_a_table_from_the_file_of_chebi_2(tmp_path, capsys) -> None:
    out = tmp_path / "full.tsv.gz"
    make.full(obo(tmp_path / "chebi.obo.gz", NEW), out, {"ct": ["CC"], "pv": ["C/C=C\\C(O)=O"]})
    found = rows(out)
    assert list(found) == ["CHEBI:3", "CHEBI:4"]
    anion, acid = found.values()
    assert anion.caption == (
        'The molecule is a "crotonate" of trans form, made by hand. It has a role as a human '
        "metabolite. It is a carboxylic acid. It is a conjugate base of a (E)-but-2-enoic acid."
    )
    assert (anion.smiles, anion.kind, anion.roles) == (
        "C/C=C/C(=O)[O-]",
        "definition",
        "human metabolite",
    )
    assert (acid.kind, acid.caption) == ("classes", "The molecule is a carboxylic acid.")
    # the Z acid of the evaluation set has the connectivity of both, whatever their charge
    assert anion.eval_skeletons == acid.eval_skeletons == "pv"
    assert (anion.part, acid.part) == ("validation", "left_out")
    said = capsys.readouterr().out
    for line in ("no structure", "wildcard atoms", "fewer than three stars"):
        assert f"no row: {line}" in said


def test_the_older_form_with_one_or_two_backslashes(tmp_path) -> None:
    out = tmp_path / "full.tsv.gz"
    make.full(obo(tmp_path / "chebi.obo.gz", OLD), out, {})
    term, other = rows(out).values()
    assert other.smiles == term.smiles
    assert (term.smiles, term.part, term.kind) == (r"C/C=C\N", "train", "classes+roles")
    assert term.caption == "The molecule is an amine. It has a role as a drug."
    table = TableConfig(
        path=str(out),
        text="caption",
        smiles="smiles",
        split="column",
        split_column="part",
        drop_column="part",
        drop_values=("left_out",),
    )
    pairs, report = load_pairs_with_report(DataConfig(name="table", table=table))
    assert len(pairs) == 2 and not report.refused


def term(number: int, kind: str = "definition", flags: str = "", **changed: str) -> make.Keyed:
    """A row whose connectivity, SMILES and caption are its number."""
    fields = dict.fromkeys(chebi.Term._fields, "")
    fields |= {"chebi_id": f"CHEBI:{number}", "smiles": f"S{number}", "caption": f"C{number}"}
    return make.Keyed(
        chebi.Term(**(fields | {"kind": kind, "eval_skeletons": flags} | changed)), f"B{number}"
    )


def test_parts_by_flag_kind_and_order(monkeypatch) -> None:
    monkeypatch.setattr(make, "TEST", 2)
    monkeypatch.setattr(make, "VALIDATION", 2)
    given = [
        term(1, flags="ct"),
        term(2, flags="cv pt"),
        term(3, flags="pt"),
        term(4, flags="pv"),
        term(5, flags="cv"),
        term(6),
        term(7, "classes"),
        term(8, "classes+roles", "ct"),
        term(9, flags="ct", caption="C1000"),  # two rows of one text
        term(10, "classes", caption="C1000"),
        term(11)._replace(block=""),
    ]
    found = {t.chebi_id.removeprefix("CHEBI:"): t.part for t in make.with_parts(given)}
    tested = {number for number, part in found.items() if part == "test"}
    assert len(tested) == 2 and tested < {"1", "2", "3"}
    assert {n for n, part in found.items() if part == "validation"} == {"4", "5"}
    assert {n for n, part in found.items() if part == "train"} == {"6", "7", "10"}
    # the order of the rows does not decide
    again = make.with_parts(given[::-1])
    assert {t.chebi_id.removeprefix("CHEBI:"): t.part for t in again} == found


def test_a_table_has_the_same_bytes_each_time(tmp_path) -> None:
    pins = [make.write_table(tmp_path / n, ["a", "b"], [["1", "ä"]]) for n in ("x.gz", "y.gz")]
    assert (tmp_path / "x.gz").read_bytes() == (tmp_path / "y.gz").read_bytes()
    assert pins[0] == pins[1] and pins[0].endswith(" 9")


@pytest.mark.costly
@pytest.mark.real_data
def test_the_files_of_the_package_are_what_the_tables_give(tmp_path) -> None:
    make.package(Path(os.environ["TMR_JAX_DATA"]) / "chebi", tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    for path in tmp_path.iterdir():
        unpacked = gzip.decompress if path.suffix == ".gz" else bytes
        assert unpacked(path.read_bytes()) == unpacked((chebi.FOLDER / path.name).read_bytes())


@pytest.mark.costly
@pytest.mark.real_data
def test_the_wording_is_that_of_the_table() -> None:
    """All but one: a class there has a semicolon in its name, where names are divided."""
    path = Path(os.environ["TMR_JAX_DATA"]) / "chebi" / "ontology.tsv.gz"
    other = 0
    for cells in read_table(path, ["definition", "classes", "roles", "caption"]):
        definition, classes, roles, caption = cells.values
        names = [[n for n in cell.split("; ") if n] for cell in (classes, roles)]
        roles = {make.ROLE: names[1]} if names[1] else {}
        made = make.caption(definition, names[0], roles)
        other += not caption.startswith(made)
    assert other == 1
