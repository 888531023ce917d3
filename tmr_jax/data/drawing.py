"""Pictures for a page: a molecule, or words against its atoms, as one self-contained <svg>."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float

from tmr_jax.types import UserError

# Beyond this a structure of a few hundred pixels shows nothing but a tangle, and its drawing
# takes seconds and hundreds of kilobytes.
MAX_DRAWN_ATOMS = 150
STRONG = (1.0, 0.62, 0.18)  # red, green, blue of a weight of 1: orange is visible to all eyes
FAINT = 0.05  # weights below are not coloured
CELL, LETTER = 14, 6.6  # pixels of a heat map: side of a cell, width of a letter
MOST_WORDS, MOST_ATOMS = 40, 60  # of a heat map that can be read
SHADES = 8


def molecule_svg(
    smiles: str,
    width: int,
    height: int,
    weights: Sequence[float] | None = None,
    numbered: bool = False,
) -> str:
    """The structure as `<svg ...>...</svg>`, width x height pixels, black on white.

    `weights` of 0 to 1, one for each atom as the SMILES writes them, colour the atoms and what
    joins them (`search.explain`); `numbered` gives each its number in that order, from 1. Errors:
    UserError for a wrong number of weights. What cannot be drawn (not a molecule, more than
    `MAX_DRAWN_ATOMS` atoms, or no libXrender on this machine) comes as a box with the beginning of
    its SMILES and the reason, never as an error.
    """
    from rdkit import rdBase

    from tmr_jax.data.features.graph import BadMolecule, parse_smiles

    try:
        from rdkit.Chem.Draw import rdMolDraw2D
    except ImportError as error:  # a small container lacks libXrender, which RDKit's wheel needs
        return _box(smiles, f"not drawn: no {str(error).split(':')[0]}", width, height)
    try:
        mol = parse_smiles(smiles)
    except BadMolecule as error:
        return _box(smiles, f"not drawn: {error.reason}", width, height)
    if mol.GetNumAtoms() > MAX_DRAWN_ATOMS:
        return _box(smiles, f"not drawn: {mol.GetNumAtoms():,} atoms", width, height)
    colours = _coloured(mol, weights)
    for atom in mol.GetAtoms() if numbered else ():
        atom.SetProp("atomNote", str(atom.GetIdx() + 1))
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


def heat_svg(words: Sequence[str], smiles: str, heat: Float[np.ndarray, "words atoms"]) -> str:
    """Words down, atoms across: the lowest value is white, the highest darkest.

    Atoms are named by element and number as the SMILES writes them, from 1. Of more than
    `MOST_WORDS` words or `MOST_ATOMS` atoms those with the highest values are shown, in their
    order. Errors: BadMolecule for what is none, UserError for a wrong number of rows or columns.
    """
    from tmr_jax.data.features.graph import parse_smiles

    symbols = [atom.GetSymbol() for atom in parse_smiles(smiles).GetAtoms()]
    if heat.shape != (len(words), len(symbols)):
        raise UserError(
            f"expected values [{len(words)} words, {len(symbols)} atoms], got {heat.shape}; take "
            "the heat of the explanation that gives the SMILES"
        )
    rows, columns = _highest(heat.max(1), MOST_WORDS), _highest(heat.max(0), MOST_ATOMS)
    shown = [words[i] for i in rows]
    named = [word if len(word) < 19 else f"{word[:17]}\N{HORIZONTAL ELLIPSIS}" for word in shown]
    atoms = [f"{symbols[i]}{i + 1}" for i in columns]
    left = LETTER * max(map(len, named), default=0) + 8
    top = LETTER * max(map(len, atoms)) + 8
    text = [
        f'<text x="{left - 5:.0f}" y="{top + CELL * i + 11:.0f}" text-anchor="end">'
        f"{escape(name)}</text>"
        for i, name in enumerate(named)
    ]
    text += [
        f'<text transform="translate({left + CELL * i + 11:.0f} {top - 4:.0f}) rotate(-90)">'
        f"{atom}</text>"
        for i, atom in enumerate(atoms)
    ]
    low, high = float(heat.min(initial=1)), float(heat.max(initial=-1))
    shade = np.ceil(SHADES * (heat[np.ix_(rows, columns)] - low) / max(high - low, 1e-6)).astype(
        int
    )
    cells = [_cells(shade == s, left, top, s / SHADES) for s in range(1, SHADES + 1)]
    width, height = left + CELL * len(columns) + 1, top + CELL * len(rows) + 1
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="words against atoms" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f'<g font-family="monospace" font-size="11" fill="#333">{"".join(text)}</g>'
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{CELL * len(columns)}" '
        f'height="{CELL * len(rows)}" fill="#fff" stroke="#888"/>{"".join(cells)}</svg>'
    )


def _highest(values: np.ndarray, most: int) -> list[int]:
    """Places of the highest values, in their order."""
    return sorted(np.argsort(-values, kind="stable")[:most].tolist())


def _cells(marked: np.ndarray, left: float, top: float, weight: float) -> str:
    """Squares of one shade as one path."""
    squares = "".join(
        f"M{left + CELL * x:.0f} {top + CELL * y:.0f}h{CELL}v{CELL}h-{CELL}z"
        for y, x in np.argwhere(marked)
    )
    colour = "".join(f"{round(255 * part):02x}" for part in _colour(weight))
    return f'<path fill="#{colour}" d="{squares}"/>' if squares else ""


def _coloured(mol: Any, weights: Sequence[float] | None) -> dict[str, Any]:
    """What RDKit takes to colour atoms; a bond is as strong as the weaker of its ends."""
    if weights is None:
        return {}
    if len(weights) != mol.GetNumAtoms():
        raise UserError(
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
