"""Pictures of molecules: well-formed, escaped, and never an error."""

from __future__ import annotations

import builtins
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tmr_jax.data.drawing import MAX_DRAWN_ATOMS, MOST_WORDS, heat_svg, molecule_svg

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


def test_without_the_libraries_of_x_smiles_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ImportError("libXrender.so.1: cannot open shared object file: No such file")

    def refuse(name: str, *rest: Any) -> Any:
        if name == "rdkit.Chem.Draw":
            raise missing
        return imported(name, *rest)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    picture = molecule_svg("CCO", 240, 180)
    assert "not drawn: no libXrender.so.1" in picture and "CCO" in picture


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


def test_atoms_have_the_numbers_that_the_smiles_gives_them() -> None:
    plain, numbered = (molecule_svg("CCO", 240, 180, numbered=n) for n in (False, True))
    assert numbered.count("note") > plain.count("note")


def squares(root: ElementTree.Element) -> list[tuple[str, int]]:
    """Colour and number of squares of each path."""
    return [(p.get("fill", ""), p.get("d", "").count("z")) for p in root.iter(f"{SVG}path")]


def test_a_heat_map_is_darker_where_values_are_higher() -> None:
    heat = np.array([[0.5, 1.0, -0.2], [0.0, 0.1, 1.0]], np.float32)
    root = ElementTree.fromstring(heat_svg(["an", "<acid>"], "CCO", heat))
    named = [text.text for text in root.iter(f"{SVG}text")]
    assert named == ["an", "<acid>", "C1", "C2", "O3"]
    assert squares(root) == [("#ffe7cb", 2), ("#ffc27c", 1), ("#ff9e2e", 2)]


def test_of_a_large_heat_map_the_highest_rows_are_shown() -> None:
    heat = np.linspace(0, 1, MOST_WORDS + 10, dtype=np.float32)[:, None]
    words = [f"w{i}" for i in range(len(heat))]
    root = ElementTree.fromstring(heat_svg(words, "C", heat))
    named = [text.text for text in root.iter(f"{SVG}text")]
    assert named == [*words[10:], "C1"]


def test_a_heat_map_of_another_molecule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected values \[1 words, 3 atoms\], got \(1, 2\)"):
        heat_svg(["an"], "CCO", np.zeros((1, 2), np.float32))
