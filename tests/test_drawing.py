"""Pictures of molecules: well-formed, escaped, and never an error."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tmr_jax.drawing import MAX_DRAWN_ATOMS, molecule_svg

SVG = "{http://www.w3.org/2000/svg}"


def parsed(smiles: str) -> ElementTree.Element:
    return ElementTree.fromstring(molecule_svg(smiles, 240, 180))


def test_bonds_of_benzene_are_drawn() -> None:
    root = parsed("c1ccccc1")
    assert root.tag == f"{SVG}svg"
    bonds = {(p.get("class") or "none").split()[0] for p in root.iter(f"{SVG}path")}
    assert {f"bond-{i}" for i in range(6)} <= bonds


@pytest.mark.parametrize("smiles", ["[Na+].[Cl-]", "*", "[H][H]", "F/C=C/F", "N[C@@H](C)C(=O)O"])
def test_unusual_molecules_are_well_formed(smiles: str) -> None:
    assert parsed(smiles).get("aria-label") == smiles


@pytest.mark.parametrize(
    "smiles, reason",
    [
        ("", "empty"),
        ("<script>alert(1)</script>", "unparsable"),
        ("C" * (MAX_DRAWN_ATOMS + 1), f"{MAX_DRAWN_ATOMS + 1} atoms"),
        ("C\x00C", "control-characters"),
        ('"><img src=x onerror=alert(1)>', "whitespace"),
    ],
)
def test_what_cannot_be_drawn_is_a_box_with_the_reason(smiles: str, reason: str) -> None:
    drawn = molecule_svg(smiles, 240, 180)
    assert "<script" not in drawn and "<img" not in drawn
    texts = [t.text or "" for t in ElementTree.fromstring(drawn).iter(f"{SVG}text")]
    assert reason in texts[0]
    assert len(texts) * 14 <= 180  # the box holds all its lines


def test_atoms_are_coloured_by_their_weights() -> None:
    plain = molecule_svg("CCO", 240, 180)
    drawn = molecule_svg("CCO", 240, 180, [0.0, 0.5, 1.0])
    atoms = {
        e.get("class"): e.get("style", "")
        for e in ElementTree.fromstring(drawn).iter()
        if (e.get("class") or "").startswith("atom-") and "ellipse" in e.tag
    }
    assert set(atoms) == {"atom-1", "atom-2"} and "ellipse" not in plain
    assert "#FF9E2D" in atoms["atom-2"].upper() and "#FFCE96" in atoms["atom-1"].upper()
    with pytest.raises(ValueError, match="each of the 3 atoms, got 2"):
        molecule_svg("CCO", 240, 180, [0.0, 1.0])
