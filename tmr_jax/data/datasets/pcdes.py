"""PCdes: 15,000 molecules with paragraphs from PubChem, by file order or by scaffold.

In: KV-PLM's two aligned files (one SMILES, one description a line), or the table lines.tsv made
of them. Out: Pairs; the id is the line number, counted from 0. Four lines hold SMILES that do not
parse (hypervalent halogens); they are skipped and counted, so a pool is smaller by them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tmr_jax.data import download
from tmr_jax.data.datasets.table import Report
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.files import open_binary
from tmr_jax.data.readers import read_table
from tmr_jax.data.splits import scaffold_splits
from tmr_jax.types import Pair, UserError

KVPLM = (
    "https://raw.githubusercontent.com/thunlp/KV-PLM/83f6292f559fef4a17e179c9611c8e84a9d31905/Ret/"
)
LINES = 15_000
VALIDATION, TEST = 10_500, 12_000  # first line of each; see docs/papers.md#protocols
SMILES = download.Part(
    "pcdes",
    "align_smiles.txt",
    KVPLM + "align_smiles.txt",
    "d3005854be3543e6f5ffa6c746edb8c3d70ee9c5b808f20eafd663430fb92c96",
    size=862_113,
)
TEXTS = download.Part(
    "pcdes",
    "align_des_filt3.txt",
    KVPLM + "align_des_filt3.txt",
    git_blob="7646535fd2366565f692f05bed7034cd44a34078",
)
# derived from both: complete for validation and test, with 2,114 of the 10,500 training texts
TABLE = download.Part(
    "pcdes",
    "lines.tsv",
    sha256="f491823107e34137432f0c70ae182207f42ae804d478f98d62a114fb2acc1829",
    size=3_986_307,
)
SCAFFOLD_TEST = download.Part(
    "pcdes",
    "scaffold_test.json",
    "https://raw.githubusercontent.com/Park-ing-lot/MolBridge/"
    "04c287886716c5e6a2fa44104d45b9e55d38b0e0/KV-PLM/test.json",
    "0b1854edc3d9a747b791aa9583f7071c12e72f9d913eb9cc876dd6a3d353f549",
    size=1_861_783,
)
PROTOCOLS = ("file-order", "scaffold")


def load(protocol: str) -> tuple[list[Pair], Report]:
    """All pairs under a protocol, and the report of the rows.

    file-order: lines 0-10,499 train, to 11,999 validation, to 14,999 test. scaffold: the published
    test list; what remains is divided 7:1 by scaffold, since the published division of it is not
    available. Raises MissingPart where the training texts (or the list) cannot be had.
    """
    _check(protocol)
    report = Report(source=f"pcdes/{protocol}")
    rows = _parsable(_full_rows(), report)
    pairs = list(rows) if protocol == "file-order" else _by_scaffold(list(rows))
    report.keep(pairs)
    return pairs, report


def load_split(protocol: str, split: str) -> tuple[list[Pair], Report]:
    """Pairs of validation or test; file-order needs no training text, scaffold's only its list."""
    _check(protocol)
    report = Report(source=f"pcdes/{protocol}/{split}")
    if protocol == "scaffold":
        if split == "test":
            rows: Iterator[Pair] = _scaffold_test()
        else:
            return [p for p in load(protocol)[0] if p.split == split], report
    else:
        rows = (p for p in _staged_rows() if p.split == split)
    pairs = list(_parsable(rows, report))
    report.keep(pairs)
    return pairs, report


def parts(protocol: str) -> list[download.Part]:
    """What `load` reads, to fetch it in advance."""
    _check(protocol)
    return [SMILES, TEXTS] + ([SCAFFOLD_TEST] if protocol == "scaffold" else [])


def split_of(line: int) -> str:
    """Protocol 1: the split by file order."""
    return "train" if line < VALIDATION else "validation" if line < TEST else "test"


def _check(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise UserError(
            f"expected a protocol of pcdes out of {', '.join(PROTOCOLS)}; got {protocol!r}; "
            "set --data.version"
        )


def _full_rows() -> Iterator[Pair]:
    """Every line from the two aligned files; the texts' first 15,000 lines count."""
    texts = _read_lines(download.locate(TEXTS))[:LINES]
    smiles = _read_lines(download.locate(SMILES))[:LINES]
    for line, (smi, text) in enumerate(zip(smiles, texts, strict=True)):
        yield Pair(str(line), text.strip(), smi.strip(), split_of(line))


def _staged_rows() -> Iterator[Pair]:
    """Lines that have a text in lines.tsv where that file exists, else every line."""
    path = download.find(TABLE)
    if path is None:
        yield from _full_rows()
        return
    for cells in read_table(path, ["line", "SMILES", "split", "description"]):
        line, smiles, split, text = cells.values
        if text:
            yield Pair(line, text, smiles, split)


def _scaffold_test() -> Iterator[Pair]:
    with open_binary(download.locate(SCAFFOLD_TEST)) as file:
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
