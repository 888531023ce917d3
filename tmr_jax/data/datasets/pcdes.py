"""PCdes: 15,000 molecules with paragraphs from PubChem, by file order or by scaffold.

In: KV-PLM's two aligned files (one SMILES, one description a line), or the table lines.tsv made
of them. Out: Pairs; the id is the line number, counted from 0. Four lines hold SMILES that do not
parse (hypervalent halogens); they are skipped and counted, so a pool is smaller by them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tmr_jax.data.datasets.table import Report, scaffold_splits
from tmr_jax.data.download import Part, check_version, find, locate, parts_of
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.files import open_binary
from tmr_jax.data.readers import read_table
from tmr_jax.types import Pair

LINES = 15_000
VALIDATION, TEST = 10_500, 12_000  # first line of each; see docs/papers.md#protocols
PARTS = parts_of("pcdes")
SMILES, TEXTS = PARTS["align_smiles.txt"], PARTS["align_des_filt3.txt"]
# derived from both: complete for validation and test, with 2,114 of the 10,500 training texts
TABLE = PARTS["lines.tsv"]
SCAFFOLD_TEST = PARTS["scaffold_test.json"]
PROTOCOLS = ("file-order", "scaffold")


def load(protocol: str) -> tuple[list[Pair], Report]:
    """All pairs under a protocol, and the report of the rows.

    file-order: lines 0-10,499 train, to 11,999 validation, to 14,999 test. scaffold: the published
    test list; what remains is divided 7:1 by scaffold, since the published division of it is not
    available. Raises MissingPart where the training texts (or the list) cannot be had.
    """
    check_version("pcdes", PROTOCOLS, protocol)
    report = Report(source=f"pcdes/{protocol}")
    rows = _parsable(_full_rows(), report)
    pairs = list(rows) if protocol == "file-order" else _by_scaffold(list(rows))
    report.keep(pairs)
    return pairs, report


def load_split(protocol: str, split: str) -> tuple[list[Pair], Report]:
    """Pairs of validation or test; file-order needs no training text, scaffold's only its list."""
    check_version("pcdes", PROTOCOLS, protocol)
    report = Report(source=f"pcdes/{protocol}/{split}")
    if protocol == "scaffold" and split != "test":
        return [p for p in load(protocol)[0] if p.split == split], report
    rows = _scaffold_test() if protocol == "scaffold" else _staged_rows()
    pairs = list(_parsable((p for p in rows if p.split == split), report))
    report.keep(pairs)
    return pairs, report


def parts(protocol: str) -> list[Part]:
    """What `load` reads, to fetch it in advance."""
    check_version("pcdes", PROTOCOLS, protocol)
    return [SMILES, TEXTS] + ([SCAFFOLD_TEST] if protocol == "scaffold" else [])


def split_of(line: int) -> str:
    """Protocol 1: the split by file order."""
    return "train" if line < VALIDATION else "validation" if line < TEST else "test"


def _full_rows() -> Iterator[Pair]:
    """Every line from the two aligned files; the texts' first 15,000 lines count."""
    texts = _read_lines(locate(TEXTS))[:LINES]
    smiles = _read_lines(locate(SMILES))[:LINES]
    for line, (smi, text) in enumerate(zip(smiles, texts, strict=True)):
        yield Pair(str(line), text.strip(), smi.strip(), split_of(line))


def _staged_rows() -> Iterator[Pair]:
    """Lines that have a text in lines.tsv where that file exists, else every line."""
    path = find(TABLE)
    if path is None:
        yield from _full_rows()
        return
    for cells in read_table(path, ["line", "SMILES", "split", "description"]):
        line, smiles, split, text = cells.values
        if text:
            yield Pair(line, text, smiles, split)


def _scaffold_test() -> Iterator[Pair]:
    with open_binary(locate(SCAFFOLD_TEST)) as file:
        entries = json.load(file)
    for entry in entries:
        yield Pair(f"cid-{entry['cid']}", entry["caption"].strip(), entry["smiles"], "test")


def _by_scaffold(pairs: list[Pair]) -> list[Pair]:
    held_out = list(_parsable(_scaffold_test(), Report(source="")))
    tested = {pair.smiles for pair in held_out}
    rest = [pair for pair in pairs if pair.smiles not in tested]
    names = scaffold_splits([pair.smiles for pair in rest], (7 / 8, 1 / 8, 0.0), seed=0)
    return [p._replace(split=s) for p, s in zip(rest, names, strict=True)] + held_out


def _parsable(rows: Iterator[Pair], report: Report) -> Iterator[Pair]:
    for pair in rows:
        report.rows += 1
        try:
            parse_smiles(pair.smiles)
        except BadMolecule as error:
            report.refuse(report.rows, error.reason, pair.smiles)
            continue
        yield pair


def _read_lines(path: Path) -> list[str]:
    with open_binary(path) as file:
        return file.read().decode("utf-8").split("\n")
