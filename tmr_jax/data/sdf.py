"""Records of an SDF, cut at their `$$$$` lines before RDKit sees them, so that none takes another.

A record is a mol block (V2000 or V3000), whose first line is its title, and data fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from rdkit import Chem, rdBase

from tmr_jax.data.features.graph import written
from tmr_jax.data.files import Lines, beginning, is_utf8

MAX_RECORD = 16 << 20  # characters; the rest of a longer record is not read
_FIELD = re.compile(r">.*?<(.+)>")  # the line above the value of a field
_PLACEHOLDER = "AtomNull"  # how RDKit describes R groups and *, which SMILES have, too


class Record(NamedTuple):
    """One record; `refused` is the reason why it has no molecule."""

    line: int  # where it begins
    title: str
    smiles: str  # with enhanced stereo as CXSMILES has it
    fields: dict[str, str]
    refused: str = ""
    beginning: str = ""


def read_records(lines: Lines, with_molecules: bool = True) -> Iterator[Record]:
    """Every record up to a `$$$$` line, and one after the last of them.

    Without molecules, none is parsed or refused.
    """
    while True:
        start, held, size, ended = lines.number + 1, [], 0, False
        for line in lines:
            if ended := line.startswith("$$$$"):
                break
            size += len(line) + 1
            if size <= MAX_RECORD:
                held.append(line)
        if ended or any(map(str.strip, held)):
            yield _record(start, held, size > MAX_RECORD, with_molecules)
        if not ended:
            return


def _record(start: int, lines: list[str], is_too_long: bool, with_molecule: bool) -> Record:
    title = lines[0].strip() if lines else ""
    shown = beginning(title or " ".join(lines[:4]))
    if is_too_long:
        return Record(start, title, "", {}, "too-long", shown)
    end = next((i for i, line in enumerate(lines) if line.startswith("M  END")), None)
    if end is None:  # fields, if any, begin at the first line that names one
        end = next((i for i, line in enumerate(lines) if _FIELD.match(line)), len(lines)) - 1
    fields = _fields(lines[end + 1 :])
    if not with_molecule:
        return Record(start, title, "", fields)
    # RDKit cannot take all bytes; of the first lines it needs 2D or 3D in the second one.
    head = [line.encode("ascii", "replace").decode() for line in lines[:3]]
    block = "\n".join([*head, *lines[3 : end + 1]]) + "\n"
    smiles, reason = _molecule(block)
    return Record(start, title, smiles, fields, reason, shown if reason else "")


def _fields(lines: list[str]) -> dict[str, str]:
    """Fields by name; a value ends at a blank line, at the next field, or with the record."""
    found: dict[str, list[str]] = {}
    value: list[str] | None = None
    for line in lines:
        if named := _FIELD.match(line):
            value = found[named[1]] = []
        elif not line.strip():
            value = None
        elif value is not None:
            value.append(line)
    return {name: "\n".join(value) for name, value in found.items()}


def _molecule(block: str) -> tuple[str, str]:
    """The SMILES of a mol block, or the reason why there is none."""
    if not is_utf8(block):
        return "", "not-utf-8"
    with rdBase.BlockLogs():
        mol = Chem.MolFromMolBlock(block)
    if mol is None:
        return "", "unparsable"
    if not mol.GetNumAtoms():
        return "", "empty"
    if any(bond.HasQuery() for bond in mol.GetBonds()):
        return "", "query-bond"
    if any(map(_is_query, mol.GetAtoms())):
        return "", "query-atom"
    return written(mol), ""


def _is_query(atom: Chem.Atom) -> bool:
    """Lists, any atom, any but carbon and the like: many molecules, not one."""
    return atom.HasQuery() and atom.DescribeQuery().strip() != _PLACEHOLDER
