"""Hits as text: JSON, CSV and SDF for other programs, a page for readers.

In: answers. Out: strings. Data of a file or a user is escaped as each form needs it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tmr_jax.cli import printable
from tmr_jax.data.columns import DATE, NUMBER, TEXT
from tmr_jax.data.features.properties import FLOATS, INTEGERS, MASKS, Properties, names_of
from tmr_jax.index.schema import FLAGS, Hit, own_cells
from tmr_jax.search.retriever import UNSURE, Answer, Named
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
        fields["duplicate"] = bool(hit.columns["duplicate"])
    else:
        fields |= {name: _short(hit.columns[name]) for name in Properties._fields}
        fields |= names_of(hit.columns)
        fields |= {name: bool(hit.columns[name]) for name in FLAGS}
    own = {name: value for name, value in own_cells(hit).items() if value is not None}
    return fields | ({"columns": own} if own else {})


def flat(hit: Hit) -> dict[str, Any]:
    """`record` with the columns of the file next to ours, None for an empty cell."""
    fields = record(hit)
    fields.pop("columns", None)
    return fields | own_cells(hit)


def named_record(named: Named) -> dict[str, Any]:
    """The structure that a query names, and the molecule of the library that comes nearest."""
    return {**named.match._asdict(), "in_library": named.is_exact, "nearest": record(named.nearest)}


def to_json(answers: Iterable[Answer], about: dict[str, Any]) -> str:
    """`about` and, of every query, its hits; groups and classes are lists of names."""
    results = []
    for a in answers:
        named = {"named": named_record(a.named)} if a.named else {}
        named |= {"raised": list(a.facets)} if a.facets else {}
        named |= {"hits": [record(hit) for hit in a.hits]}
        results.append({"query": a.query.content, "unsure": a.is_unsure, **named})
    return json.dumps({**about, "results": results}, indent=2)


def rows(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    """A record for each hit, with its query and whether the search is unsure of the answer."""
    return [
        {"query": answer.query.content, "unsure": answer.is_unsure, **flat(hit)}
        for answer in answers
        for hit in answer.hits
    ]


def to_csv(answers: Sequence[Answer]) -> str:
    """A line for each hit, under one header; cells that a spreadsheet would run get a quote."""
    records = rows(answers)
    names = ["query", "unsure", "rank", "score", "smiles", "name"]
    names = list(max(records, key=len)) if records else names
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(cell, names))
    for one in records:
        values = ((name, one.get(name)) for name in names)
        writer.writerow([cell(v) if isinstance(v, str) else _plain(n, v) for n, v in values])
    return text.getvalue()


def write_parquet(path: Path, answers: Sequence[Answer], columns: Mapping[str, str]) -> None:
    """A row for each hit; `columns` are names and kinds of the file's own, dates among them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = rows(answers)
    texts, refined = (any(name in one for one in records) for name in ("text", "refined"))
    kinds = {"query": pa.string(), "unsure": pa.bool_(), "rank": pa.int64(), "score": pa.float64()}
    kinds |= {"refined": pa.float64()} if refined else {}
    kinds |= {"text" if texts else "smiles": pa.string(), "name": pa.string()}
    numbers = {**dict.fromkeys(FLOATS, pa.float64()), **dict.fromkeys(INTEGERS, pa.int64())}
    kinds |= {"id": pa.int64()} | ({} if texts else numbers)
    kinds |= {} if texts else dict.fromkeys(MASKS, pa.list_(pa.string()))
    kinds |= dict.fromkeys(["duplicate"] if texts else FLAGS, pa.bool_())
    own = {NUMBER: pa.float64(), TEXT: pa.string(), DATE: pa.date32()}
    kinds |= {name: own[kind] for name, kind in columns.items()}
    arrays = []
    for name, kind in kinds.items():
        values = [one.get(name) for one in records]
        is_date = columns.get(name) == DATE
        arrays.append(
            pa.array(values, pa.string()).cast(kind) if is_date else pa.array(values, kind)
        )
    pq.write_table(pa.table(arrays, names=[*kinds]), path)


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
                mol.SetProp("unsure", _plain("unsure", answer.is_unsure))
                for name, value in flat(hit).items():
                    if name != "name" and value is not None:
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
    about_json = json.dumps(about)
    return template.render(title=title, answers=answers, about=about_json, unsure=UNSURE)


def cell(text: str) -> str:
    """A cell that no spreadsheet runs as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _plain(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list):
        return " ".join(value)
    return f"{value:.{DIGITS}f}" if name in ("score", "refined") else str(value)


def _short(value: Any) -> Any:
    """A float32 in its shortest decimals: 46.069, not 46.0690002441."""
    return float(f"{value:.7g}") if isinstance(value, float) else value
