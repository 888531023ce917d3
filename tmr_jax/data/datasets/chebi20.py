"""ChEBI-20: 33,010 descriptions of molecules, in its two published versions.

In: files of Text2Mol (text with names, no SMILES) and of MolT5 (CID, SMILES, text without names).
Out: Pairs with the published splits. Both versions share one split; MolT5 lacks two molecules
whose SMILES is `*`. Scores on the two texts are not comparable: a name often gives the answer away.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tmr_jax.data import download
from tmr_jax.data.datasets.table import Report
from tmr_jax.data.files import open_binary
from tmr_jax.data.readers import Cells, read_table
from tmr_jax.types import Pair, UserError

MOLT5 = (
    "https://raw.githubusercontent.com/blender-nlp/MolT5/"
    "754f9bffa4a638e2f1386d0ca19b5c3ed0a5b4aa/ChEBI-20_data/"
)
TEXT2MOL = (
    "https://raw.githubusercontent.com/cnedwards/text2mol/"
    "749f997e6a45d0e3c8747e5392ae3b859a251094/data/"
)
SPLITS = ("train", "validation", "test")
MOLT5_PARTS = {
    "train": download.Part(
        "chebi20",
        "train.txt",
        MOLT5 + "train.txt",
        git_blob="c1b42b82fdc8fb5287614e159196e25370763aac",
    ),
    "validation": download.Part(
        "chebi20",
        "validation.txt",
        MOLT5 + "validation.txt",
        "f410b58e6825986577d01b4f0c14b59ed61c1343a15118ba584de4bbcea1508c",
        "694d328d621966d5c9ad0f36083fdfcf293191d5",
        1_289_422,
    ),
    "test": download.Part(
        "chebi20",
        "test.txt",
        MOLT5 + "test.txt",
        "91776254b54ef13ad701ede0ecdbd7bcd30c19a66e52aa34a6dac8d0e7306d72",
        "cf6da70d55c2745c6e64cf6864ea8cdbcdc80663",
        1_274_868,
    ),
}
# Text2Mol calls its files training.txt, val.txt and test.txt; test.txt is MolT5's name too
TEXT2MOL_PARTS = {
    "train": download.Part(
        "chebi20",
        "text2mol_training.txt",
        TEXT2MOL + "training.txt",
        git_blob="cf188ee3fe4d70629837fd424e95ec6b15630b74",
    ),
    "validation": download.Part(
        "chebi20",
        "text2mol_val.txt",
        TEXT2MOL + "val.txt",
        git_blob="6064f5058bb2cae6650692fdd562615b093fac1b",
    ),
    "test": download.Part(
        "chebi20",
        "text2mol_test.txt",
        TEXT2MOL + "test.txt",
        git_blob="6a9ae86c3d977aeaa8101104aeb9a557ad1da669",
    ),
}
# Small derived files that replace a large upstream one where they exist.
TRAIN_MOLECULES = download.Part(
    "chebi20",
    "train_cid_smiles.tsv",
    sha256="13d5cc8cbe2cc395b60cc79b0fe2cdf837ab80585050b5a8d0c75667b995ad4b",
    size=2_403_884,
)
NAMED_TEXTS = {
    "validation": download.Part(
        "chebi20",
        "text2mol_val.tsv",
        sha256="fa5f1ba95ced5566eeba56705b831e0ca6cad17f100f032edcc457062fb34008",
        size=1_753_941,
    ),
    "test": download.Part(
        "chebi20",
        "text2mol_test.tsv",
        sha256="9f25370c07873785c8ac244e58eced03ea15210d1f9aeb9600ee4358c6f8ac4d",
        size=1_720_915,
    ),
}
# in Text2Mol only: the SMILES of both is a lone wildcard atom
WILDCARDS = {"train": "135476785", "test": "135476786"}
VERSIONS = ("text2mol", "molt5")


def load(version: str) -> tuple[list[Pair], Report]:
    """All pairs of a version, train then validation then test, and the report of the rows.

    Raises MissingPart, naming file, URL and command, where a part cannot be had.
    """
    _check(version)
    report = Report(source=f"chebi20-{version}")
    pairs = [pair for split in SPLITS for pair in _rows(version, split, report)]
    report.keep(pairs)
    return pairs, report


def load_split(version: str, split: str) -> list[Pair]:
    """The pairs of one split, without touching the files of the others' texts."""
    _check(version)
    return list(_rows(version, split, Report(source=f"chebi20-{version}/{split}")))


def molecules(version: str, split: str) -> list[tuple[str, str]]:
    """(CID, SMILES) of a split in file order; no text is needed."""
    _check(version)
    rows = list(_molt5_molecules(split))
    if version == "text2mol" and split in WILDCARDS:
        rows.append((WILDCARDS[split], "*"))
    return rows


def has_molecules_only(version: str) -> bool:
    """Whether there are local training molecules but no training texts of a version."""
    _check(version)
    texts = MOLT5_PARTS["train"] if version == "molt5" else TEXT2MOL_PARTS["train"]
    molecules_at_hand = download.find(TRAIN_MOLECULES) or download.find(MOLT5_PARTS["train"])
    return download.find(texts) is None and molecules_at_hand is not None


def parts(version: str) -> list[download.Part]:
    """What `load` reads, to fetch it in advance."""
    _check(version)
    named = list(TEXT2MOL_PARTS.values()) if version == "text2mol" else []
    return list(MOLT5_PARTS.values()) + named


def _check(version: str) -> None:
    if version not in VERSIONS:
        raise UserError(
            f"expected a version of chebi20 out of {', '.join(VERSIONS)}; got {version!r}; "
            "set --data.version"
        )


def _rows(version: str, split: str, report: Report) -> Iterator[Pair]:
    rows = _molt5_rows(split) if version == "molt5" else _text2mol_rows(split, report)
    for cid, smiles, text in rows:
        report.rows += 1
        yield Pair(cid, text, smiles, split)


def _molt5_rows(split: str) -> Iterator[tuple[str, str, str]]:
    for cells in read_table(download.locate(MOLT5_PARTS[split]), ["CID", "SMILES", "description"]):
        cid, smiles, text = _whole(cells)
        yield cid, single_backslashes(smiles), text


def _molt5_molecules(split: str) -> Iterator[tuple[str, str]]:
    path = download.find(TRAIN_MOLECULES) if split == "train" else None
    for cells in read_table(path or download.locate(MOLT5_PARTS[split]), ["CID", "SMILES"]):
        cid, smiles = _whole(cells)
        yield cid, single_backslashes(smiles)


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
    derived = download.find(NAMED_TEXTS[split]) if split in NAMED_TEXTS else None
    if derived:
        for cells in read_table(derived, ["CID", "description_with_name"]):
            cid, text = _whole(cells)
            yield cid, text
        return
    yield from _upstream_texts(download.locate(TEXT2MOL_PARTS[split]))


def _upstream_texts(path: Path) -> Iterator[tuple[str, str]]:
    """CID and text of Text2Mol's own lines: CID, mol2vec floats, text, no header."""
    with open_binary(path) as file:
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
