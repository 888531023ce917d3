"""A molecule as a picture for a page: one SMILES in, one self-contained <svg> element out."""

from __future__ import annotations

from html import escape

# Beyond this a structure of a few hundred pixels shows nothing but a tangle, and its drawing
# takes seconds and hundreds of kilobytes.
MAX_DRAWN_ATOMS = 150


def molecule_svg(smiles: str, width: int, height: int) -> str:
    """The structure as `<svg ...>...</svg>`, width x height pixels, black on white.

    What cannot be drawn (not a molecule, or more than `MAX_DRAWN_ATOMS` atoms) comes as a box with
    the beginning of its SMILES and the reason, never as an error.
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
    with rdBase.BlockLogs():
        canvas = rdMolDraw2D.MolDraw2DSVG(width, height)
        try:
            rdMolDraw2D.PrepareAndDrawMolecule(canvas, mol)
        except (ValueError, RuntimeError):  # e.g. a ring system that has no Kekule form
            return _box(smiles, "not drawn: RDKit finds no picture", width, height)
        canvas.FinishDrawing()
        drawing = canvas.GetDrawingText()
    element = drawing[drawing.index("<svg") :].strip()  # without the XML declaration
    label = escape(smiles[:300], quote=True)
    return element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


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
