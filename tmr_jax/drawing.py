"""A molecule as a picture for a page: one SMILES in, one self-contained <svg> element out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

# Beyond this a structure of a few hundred pixels shows nothing but a tangle, and its drawing
# takes seconds and hundreds of kilobytes.
MAX_DRAWN_ATOMS = 150
STRONG = (1.0, 0.62, 0.18)  # red, green, blue of a weight of 1: orange is told by all eyes
FAINT = 0.05  # weights below are not coloured


def molecule_svg(
    smiles: str, width: int, height: int, weights: Sequence[float] | None = None
) -> str:
    """The structure as `<svg ...>...</svg>`, width x height pixels, black on white.

    `weights` of 0 to 1, one for each atom as the SMILES writes them, colour the atoms and what
    joins them (tmr_jax.explain). Errors: ValueError for a wrong number of weights. What cannot be
    drawn (not a molecule, or more than `MAX_DRAWN_ATOMS` atoms) comes as a box with the beginning
    of its SMILES and the reason, never as an error.
    """
    from rdkit import rdBase
    from rdkit.Chem.Draw import rdMolDraw2D

    from tmr_jax.features.graph import BadMolecule, parse_smiles

    try:
        mol = parse_smiles(smiles)
    except BadMolecule as error:
        return _box(smiles, f"not drawn: {error.reason}", width, height)
    if mol.GetNumAtoms() > MAX_DRAWN_ATOMS:
        return _box(smiles, f"not drawn: {mol.GetNumAtoms():,} atoms", width, height)
    colours = _coloured(mol, weights)
    with rdBase.BlockLogs():
        canvas = rdMolDraw2D.MolDraw2DSVG(width, height)
        try:
            rdMolDraw2D.PrepareAndDrawMolecule(canvas, mol, **colours)
        except (ValueError, RuntimeError):  # e.g. a ring system that has no Kekule form
            return _box(smiles, "not drawn: RDKit finds no picture", width, height)
        canvas.FinishDrawing()
        drawing = canvas.GetDrawingText()
    element = drawing[drawing.index("<svg") :].strip()  # without the XML declaration
    label = escape(smiles[:300], quote=True)
    return element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _coloured(mol: Any, weights: Sequence[float] | None) -> dict[str, Any]:
    """What RDKit takes to colour atoms; a bond is as strong as the weaker of its ends."""
    if weights is None:
        return {}
    if len(weights) != mol.GetNumAtoms():
        raise ValueError(
            f"expected a weight for each of the {mol.GetNumAtoms()} atoms, got {len(weights)}; "
            "take those of the SMILES that the explanation gives"
        )
    strong = {i: w for i, w in enumerate(weights) if w > FAINT}
    ends = {b.GetIdx(): (b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()}
    joined = {i: min(weights[a], weights[b]) for i, (a, b) in ends.items() if {a, b} <= set(strong)}
    return {
        "highlightAtoms": list(strong),
        "highlightAtomColors": {i: _colour(w) for i, w in strong.items()},
        "highlightBonds": list(joined),
        "highlightBondColors": {i: _colour(w) for i, w in joined.items()},
    }


def _colour(weight: float) -> tuple[float, float, float]:
    """From white to STRONG."""
    red, green, blue = (1 - weight * (1 - part) for part in STRONG)
    return red, green, blue


def _box(smiles: str, reason: str, width: int, height: int) -> str:
    """The first characters of the SMILES, wrapped to the box, under the reason."""
    size = 11  # pixels; a monospaced character is about 0.6 of that wide
    columns = max(int((width - 16) / (0.6 * size)), 4)
    rows = max(height // (size + 3) - 3, 1)
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in smiles[:5000])
    lines = [shown[i : i + columns] for i in range(0, len(shown), columns)]
    if len(lines) > rows:
        lines = [*lines[: rows - 1], lines[rows - 1][: columns - 3] + "..."]
    text = "".join(
        f'<text x="8" y="{(size + 3) * (i + 2)}">{escape(line)}</text>'
        for i, line in enumerate([reason, *lines])
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(reason)}" '
        f'width="{width}px" height="{height}px" viewBox="0 0 {width} {height}">'
        f'<rect x="1" y="1" width="{width - 2}" height="{height - 2}" fill="#fff" stroke="#888"/>'
        f'<g font-family="monospace" font-size="{size}" fill="#333">{text}</g></svg>'
    )
