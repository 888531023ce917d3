"""ChEBI-20: 33,010 descriptions of molecules, in its two published versions.

In: files of Text2Mol (text with names, no SMILES) and of MolT5 (CID, SMILES, text without names).
Out: Pairs with the published splits. Both versions share one split; MolT5 lacks two molecules
whose SMILES is `*`. Scores on the two texts are not comparable: a name often gives the answer away.
"""

from __future__ import annotations

from collections.abc import Iterator

from tmr_jax.data.datasets.table import Report
from tmr_jax.data.download import Part, check_version, find, locate, parts_of
from tmr_jax.data.files import open_binary
from tmr_jax.data.readers import Cells, read_table
from tmr_jax.types import Pair

SPLITS = ("train", "validation", "test")
PARTS = parts_of("chebi20")
MOLT5_PARTS = {split: PARTS[f"{split}.txt"] for split in SPLITS}
# Text2Mol calls its files training.txt, val.txt and test.txt; test.txt is MolT5's name too
TEXT2MOL_PARTS = {
    "train": PARTS["text2mol_training.txt"],
    "validation": PARTS["text2mol_val.txt"],
    "test": PARTS["text2mol_test.txt"],
}
# Small derived files that replace a large upstream one where they exist.
TRAIN_MOLECULES = PARTS["train_cid_smiles.tsv"]
NAMED_TEXTS = {"validation": PARTS["text2mol_val.tsv"], "test": PARTS["text2mol_test.tsv"]}
# in Text2Mol only: the SMILES of both is a lone wildcard atom
WILDCARDS = {"train": "135476785", "test": "135476786"}
VERSIONS = ("text2mol", "molt5")


def load(version: str) -> tuple[list[Pair], Report]:
    """All pairs of a version, train then validation then test, and the report of the rows.

    Raises MissingPart, naming file, URL and command, where a part cannot be had.
    """
    check_version("chebi20", VERSIONS, version)
    report = Report(source=f"chebi20-{version}")
    pairs = [pair for split in SPLITS for pair in _rows(version, split, report)]
    report.keep(pairs)
    return pairs, report


def load_split(version: str, split: str) -> list[Pair]:
    """The pairs of one split, without touching the files of the others' texts."""
    check_version("chebi20", VERSIONS, version)
    return list(_rows(version, split, Report(source=f"chebi20-{version}/{split}")))


def molecules(version: str, split: str) -> list[tuple[str, str]]:
    """(CID, SMILES) of a split in file order; no text is needed."""
    check_version("chebi20", VERSIONS, version)
    path = find(TRAIN_MOLECULES) if split == "train" else None
    table = read_table(path or locate(MOLT5_PARTS[split]), ["CID", "SMILES"])
    rows = [(cid, single_backslashes(smiles)) for cid, smiles in map(_whole, table)]
    if version == "text2mol" and split in WILDCARDS:
        rows.append((WILDCARDS[split], "*"))
    return rows


def has_molecules_only(version: str) -> bool:
    """Whether there are local training molecules but no training texts of a version."""
    check_version("chebi20", VERSIONS, version)
    texts = (MOLT5_PARTS if version == "molt5" else TEXT2MOL_PARTS)["train"]
    return not find(texts) and bool(find(TRAIN_MOLECULES) or find(MOLT5_PARTS["train"]))


def parts(version: str) -> list[Part]:
    """What `load` reads, to fetch it in advance."""
    check_version("chebi20", VERSIONS, version)
    named = list(TEXT2MOL_PARTS.values()) if version == "text2mol" else []
    return list(MOLT5_PARTS.values()) + named


def _rows(version: str, split: str, report: Report) -> Iterator[Pair]:
    rows = _molt5_rows(split) if version == "molt5" else _text2mol_rows(split, report)
    for cid, smiles, text in rows:
        report.rows += 1
        yield Pair(cid, text, smiles, split)


def _molt5_rows(split: str) -> Iterator[tuple[str, str, str]]:
    for cells in read_table(locate(MOLT5_PARTS[split]), ["CID", "SMILES", "description"]):
        cid, smiles, text = _whole(cells)
        yield cid, single_backslashes(smiles), text


def _text2mol_rows(split: str, report: Report) -> Iterator[tuple[str, str, str]]:
    """Named text joined by CID with MolT5's SMILES."""
    texts = dict(_named_texts(split))
    smiles = dict(molecules("text2mol", split))
    for number, (cid, text) in enumerate(texts.items(), 1):
        if cid in smiles:
            yield cid, smiles[cid], text
        else:
            report.rows += 1
            report.refuse(number, "no-smiles-for-cid", cid)


def _named_texts(split: str) -> Iterator[tuple[str, str]]:
    """CID and text, from the derived file or from Text2Mol's own lines: CID, floats, text."""
    derived = find(NAMED_TEXTS[split]) if split in NAMED_TEXTS else None
    if derived:
        for cells in read_table(derived, ["CID", "description_with_name"]):
            cid, text = _whole(cells)
            yield cid, text
        return
    with open_binary(locate(TEXT2MOL_PARTS[split])) as file:
        for line in file:
            cells = line.decode("utf-8").rstrip("\r\n").split("\t")
            if len(cells) >= 3:
                yield cells[0], cells[-1]


def _whole(cells: Cells) -> tuple[str, ...]:
    # the hash of the file was checked, so a broken row is a fault of the reader
    assert not cells.refused, cells
    return cells.values


def single_backslashes(smiles: str) -> str:
    r"""MolT5 doubles the backslash in 15 % of its SMILES.

    >>> single_backslashes("/C=C" + 2 * chr(92) + "C") == "/C=C" + chr(92) + "C"
    True
    """
    return smiles.replace("\\\\", "\\")
