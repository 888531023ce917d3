"""A user's table of texts and molecules as Pairs, its splits, and a report of every row.

A row is kept, left out by the filter, or skipped with a reason (`Report.refused`); an invalid row
never stops the file. Random splits are pure functions of (seed, id), so that adding a row moves no
other row. Scaffold splits keep every Bemis-Murcko scaffold whole.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tmr_jax.config import TableConfig
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.features.similarity import scaffold
from tmr_jax.data.readers import read_table
from tmr_jax.types import Pair, UserError

EXAMPLES = 5  # skipped rows shown per reason
NAMES = ("train", "validation", "test")
SPLITS = {name: name for name in NAMES} | {"training": "train"}  # by what a cell says
SPLITS |= dict.fromkeys(("val", "valid", "dev"), "validation")


class Refusal(NamedTuple):
    """One skipped row, and why."""

    row: int  # counted from 1 after the header
    reason: str
    value: str  # the invalid content, shortened


@dataclass
class Report:
    """What became of the rows of a data set: rows = kept + dropped + all refused."""

    source: str
    rows: int = 0
    kept: int = 0
    dropped: int = 0  # left out by the filter
    refused: dict[str, int] = field(default_factory=dict)  # skipped, by reason
    splits: dict[str, int] = field(default_factory=dict)
    examples: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Of the training pairs, where known: {"source", "licence", "rows"}, for the card of a model.
    sources: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, row: int, reason: str, value: str) -> None:
        seen = self.refused.get(reason, 0)
        self.refused[reason] = seen + 1
        if seen < EXAMPLES:
            self.examples.append(Refusal(row, reason, value[:80]))

    def keep(self, pairs: Collection[Pair]) -> None:
        """Counts `pairs` as the ones that are kept, in place of those before."""
        self.kept, self.splits = len(pairs), dict(Counter(pair.split for pair in pairs))

    def as_json(self) -> dict[str, Any]:
        """The report as validation.json has it."""
        return {
            "source": self.source,
            "rows": self.rows,
            "kept": self.kept,
            "left_out": self.dropped,
            "refused": self.refused,
            "splits": self.splits,
            "examples": [example._asdict() for example in self.examples],
            "notes": self.notes,
            # Left out where there are none, as it is in the runs of older versions.
            **({"sources": self.sources} if self.sources else {}),
        }


def load(config: TableConfig, seed: int) -> tuple[list[Pair], Report]:
    """All pairs of a user's table with their splits, and the report of its rows.

    Raises UserError where the file or a column is missing, or every row is skipped.
    """
    report = Report(source=config.path)
    pairs = list(stream(config, seed, report))
    if not pairs:
        raise UserError(
            f"expected at least one usable row in {config.path}; got none of {report.rows:,} "
            f"(skipped: {report.refused}, left out by the filter: {report.dropped:,}); "
            "look at the examples: "
            + "; ".join(f"row {e.row}: {e.reason}" for e in report.examples)
        )
    if config.split == "scaffold":
        names = scaffold_splits([p.smiles for p in pairs], config.fractions, seed)
        pairs = [p._replace(split=s) for p, s in zip(pairs, names, strict=True)]
    report.keep(pairs)
    _note_shared_molecules(pairs, report)
    return pairs, report


def stream(config: TableConfig, seed: int, report: Report) -> Iterator[Pair]:
    """Pairs of a table one by one, in file order; `report` counts the other rows by reason.

    Under `split="scaffold"` every pair is in "train": scaffold splits need all the molecules.
    """
    if config.split == "column" and not config.split_column:
        raise UserError(
            "expected the name of the column that holds train/validation/test; got none; "
            "set --data.table.split-column, or --data.table.split random"
        )
    fractions = check_fractions(config.fractions)
    columns = {"text": config.text, "smiles": config.smiles}
    columns |= {"id": config.id} if config.id else {}
    columns |= {"split": config.split_column} if config.split == "column" else {}
    columns |= {"drop": config.drop_column} if config.drop_column else {}
    drop = set(config.drop_values)
    seen: set[str] = set()
    for cells in read_table(config.path, list(columns.values())):
        report.rows += 1
        if cells.refused:
            report.refuse(cells.row, cells.refused, cells.value)
            continue
        row = dict(zip(columns, cells.values, strict=True))
        if drop and drop & flags(row["drop"]):
            report.dropped += 1
            continue
        split = SPLITS.get(row["split"].strip().lower(), "") if "split" in row else "train"
        name = row["id"].strip() if config.id else str(cells.row)
        reason, value = _reason(row, split, name, seen)
        if reason:
            report.refuse(cells.row, reason, value)
            continue
        if config.split == "random":
            split = random_split(name, fractions, seed)
        yield Pair(name, row["text"].strip(), row["smiles"].strip(), split)


def _reason(row: dict[str, str], split: str, name: str, seen: set[str]) -> tuple[str, str]:
    """The reason why a row is skipped and its invalid content, or two empty strings."""
    if not row["text"].strip():
        return "empty-text", ""
    if not split:
        return "unknown-split", row["split"]
    if not name:
        return "empty-id", ""
    try:
        parse_smiles(row["smiles"].strip())
    except BadMolecule as error:
        return error.reason, row["smiles"]
    if name in seen:
        return "duplicate-id", name
    seen.add(name)
    return "", ""


def flags(cell: str) -> set[str]:
    """The marks in a cell: 'cv,mt' holds cv, mt and cv,mt."""
    return {cell.strip(), *re.split(r"[,;|\s]+", cell.strip())}


def _note_shared_molecules(pairs: list[Pair], report: Report) -> None:
    """Notes how many evaluated molecules are in training too, which inflates scores."""
    trained = {p.smiles for p in pairs if p.split == "train"}
    for split in ("validation", "test"):
        shared = sum(p.smiles in trained for p in pairs if p.split == split)
        if shared:
            report.notes.append(
                f"{shared:,} {split} rows have a SMILES that is in training too; "
                "--data.table.split scaffold keeps them apart"
            )


def show_report(report: Report) -> None:
    """Prints the report as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    grid = Table(title=f"rows of {escape(report.source)}", title_justify="left")
    for column, justify in (("what", "left"), ("rows", "right"), ("first ones", "left")):
        grid.add_column(column, justify=justify)  # type: ignore[arg-type]
    splits = ", ".join(f"{name} {count:,}" for name, count in report.splits.items())
    grid.add_row("in", f"{report.rows:,}", "")
    grid.add_row("kept", f"{report.kept:,}", splits)
    if report.dropped:
        grid.add_row("left out by the filter", f"{report.dropped:,}", "")
    for reason, count in sorted(report.refused.items()):
        first = [e for e in report.examples if e.reason == reason][:3]
        shown = "; ".join(f"row {e.row}: {e.value}".rstrip(": ") for e in first)
        grid.add_row(f"skipped: {reason}", f"{count:,}", escape(shown))
    console.print(grid)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)


# Splits


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Three shares, none negative, that add up to 1. Raises UserError otherwise."""
    shares = tuple(float(f) for f in fractions)
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            "expected three fractions (train, validation, test), none negative, with the sum 1; "
            f"got {shares}; e.g. --data.table.fractions 0.8 0.1 0.1"
        )
    return shares  # type: ignore[return-value]


def random_split(name: str, fractions: Sequence[float], seed: int) -> str:
    """The split of the row called `name`, whatever the other rows are."""
    place = _hash(f"{seed}:{name}") / 2**64
    if place < fractions[0]:
        return "train"
    return "validation" if place < fractions[0] + fractions[1] else "test"


def _hash(word: str) -> int:
    """64 bits made of a string, the same on every machine."""
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def scaffold_splits(smiles: Sequence[str], fractions: Sequence[float], seed: int) -> list[str]:
    """A split for each molecule, no scaffold in two of them.

    The largest scaffolds are placed first, each into the split that lacks most; equal sizes in
    an order drawn from the seed. Molecules without rings share one (empty) scaffold.
    """
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(smiles):
        groups.setdefault(scaffold(one), []).append(index)
    lacking = [share * len(smiles) for share in check_fractions(fractions)]
    splits = [""] * len(smiles)
    for name in sorted(groups, key=lambda s: (-len(groups[s]), _hash(f"{seed}:{s}"))):
        place = lacking.index(max(lacking))
        lacking[place] -= len(groups[name])
        for index in groups[name]:
            splits[index] = NAMES[place]
    return splits
