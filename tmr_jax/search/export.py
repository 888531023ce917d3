"""Hits as text: JSON, CSV and SDF for other programs, a page for readers.

In: answers. Out: strings. Data of a file or a user is escaped as each form needs it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tmr_jax.cli import printable
from tmr_jax.data.features.properties import Properties, names_of
from tmr_jax.index.schema import FLAGS, Hit
from tmr_jax.search.retriever import Answer, Named
from tmr_jax.types import UserError

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell with such a start is run by a spreadsheet
DIGITS = 6  # of scores; properties have those of float32


def record(hit: Hit) -> dict[str, Any]:
    """A hit as plain values: the same names in every form, without unknown ones."""
    fields: dict[str, Any] = {"rank": hit.rank, "score": hit.score}
    if hit.refined is not None:
        fields["refined"] = hit.refined
    fields |= {"text" if hit.is_text else "smiles": hit.content, "name": hit.name}
    if not hit.columns:  # of a list in memory
        return fields
    fields["id"] = hit.id
    if hit.is_text:
        return fields | {"duplicate": bool(hit.columns["duplicate"])}
    fields |= {name: _short(hit.columns[name]) for name in Properties._fields}
    fields |= names_of(hit.columns)
    return fields | {name: bool(hit.columns[name]) for name in FLAGS}


def named_record(named: Named) -> dict[str, Any]:
    """The structure that a query names, and the molecule of the library that comes nearest."""
    return {**named.match._asdict(), "in_library": named.is_exact, "nearest": record(named.nearest)}


def to_json(answers: Iterable[Answer], about: dict[str, Any]) -> str:
    """`about` and, of every query, its hits; groups and classes are lists of names."""
    results = []
    for a in answers:
        named = {"named": named_record(a.named)} if a.named else {}
        named |= {"raised": list(a.facets)} if a.facets else {}
        results.append({"query": a.query.content, **named, "hits": [record(h) for h in a.hits]})
    return json.dumps({**about, "results": results}, indent=2)


def to_csv(answers: Sequence[Answer]) -> str:
    """A line for each hit, under one header; cells that a spreadsheet would run get a quote."""
    records = [{"query": a.query.content, **record(hit)} for a in answers for hit in a.hits]
    names = list(max(records, key=len)) if records else ["query", "rank", "score", "smiles", "name"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    for one in records:
        writer.writerow(
            {n: cell(v) if isinstance(v, str) else _plain(n, v) for n, v in one.items()}
        )
    return text.getvalue()


def to_sdf(answers: Iterable[Answer]) -> str:
    """A record for each hit with 2D coordinates, and the query and numbers as fields.

    A molecule that this RDKit cannot parse keeps its fields and has no atoms. Raises UserError for
    hits that are texts.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDepictor

    from tmr_jax.data.features.graph import BadMolecule, parse_smiles

    answers = list(answers)
    if any(hit.is_text for answer in answers for hit in answer.hits):
        raise UserError("expected molecules to write as SDF, got descriptions; use CSV or JSON")
    text = io.StringIO()
    writer = Chem.SDWriter(text)
    with rdBase.BlockLogs():
        for answer in answers:
            for hit in answer.hits:
                try:
                    mol = parse_smiles(hit.content)
                    rdDepictor.Compute2DCoords(mol)
                except (BadMolecule, RuntimeError):
                    mol = Chem.Mol()
                mol.SetProp("_Name", printable(hit.name))
                mol.SetProp("query", printable(answer.query.content))
                for name, value in record(hit).items():
                    if name != "name":
                        mol.SetProp(name, printable(_plain(name, value)))
                writer.write(mol)
    writer.close()
    return text.getvalue()


def to_html(answers: Sequence[Answer], about: dict[str, Any]) -> str:
    """One self-contained document with drawings; all data is escaped."""
    from tmr_jax.search.hits import templates

    texts = any(hit.is_text for answer in answers for hit in answer.hits)
    title = "Descriptions that fit" if texts else "Molecules that fit"
    template = templates().get_template("hits.jinja")
    return template.render(title=title, answers=answers, about=json.dumps(about))


def cell(text: str) -> str:
    """A cell that no spreadsheet runs as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _plain(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list):
        return " ".join(value)
    return f"{value:.{DIGITS}f}" if name in ("score", "refined") else str(value)


def _short(value: Any) -> Any:
    """A float32 in its shortest decimals: 46.069, not 46.0690002441."""
    return float(f"{value:.7g}") if isinstance(value, float) else value
