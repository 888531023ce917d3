"""chebi: molecules with ChEBI's own text, inside the package: no download.

In: chebi_terms.tsv.gz, which tools/make/chebi.py writes. Out: Pairs of the composed caption and
the canonical SMILES. Training pairs share their connectivity (InChIKey block 1) with no molecule
in validation or test of ChEBI-20 or PCdes, so a run on them may be tested there, too. The text is
ChEBI's, CC BY 4.0 (CHEBI_LICENSE.md).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tmr_jax.data.download import WrongContent, parts_of
from tmr_jax.data.files import open_binary
from tmr_jax.data.readers import read_table
from tmr_jax.types import Pair, UserError

if TYPE_CHECKING:
    from tmr_jax.data.datasets.table import Report

FOLDER = Path(str(resources.files("tmr_jax.data.datasets")))
KINDS = ("definition", "classes+roles", "classes")  # what the text of a term is made of
LEFT_OUT = "left_out"  # of the column `part`: in no split
TERMS, DEFINITIONS = "chebi_terms.tsv", "chebi_definitions.tsv"
DROPPED = "chebi_dropped.txt"  # ids of definitions, as tools/make/dropped.py writes them
SEPARATOR = "; "  # between the classes, and between the roles, of a cell


class Term(NamedTuple):
    """A ChEBI term with a structure; the fields are the columns of chebi_terms.tsv."""

    chebi_id: str  # CHEBI:7
    name: str
    smiles: str  # canonical
    kind: str  # one of KINDS
    part: str  # train, validation, test or left_out
    eval_skeletons: str  # evaluation sets with a molecule of its connectivity, e.g. "ct pv"
    structure_source: str  # where the SMILES comes from: a code of CHEBI_LICENSE.md
    text_source: str  # where the text comes from: a code of CHEBI_LICENSE.md
    classes: str  # what it is (is_a), between "; "
    roles: str  # between "; "
    caption: str  # the text of the pair


class Definition(NamedTuple):
    """A ChEBI term without a known structure: a class, a role or a molecule."""

    chebi_id: str
    name: str
    definition: str


def load() -> tuple[list[Pair], Report]:
    """All pairs in file order, and the report of all rows. Errors: WrongContent."""
    from tmr_jax.data.datasets.table import Report  # a search looks names up and does without

    found = list(terms())
    kept = [term for term in found if term.part != LEFT_OUT]
    report = Report(source="chebi", rows=len(found), dropped=len(found) - len(kept))
    pairs = [_pair(term) for term in kept]
    kinds = Counter(f"{term.part} {term.kind}" for term in kept)
    report.keep(pairs)
    report.notes = [f"{count:,} rows: {what}" for what, count in sorted(kinds.items())]
    trained = report.splits.get("train", 0)
    report.sources = [{"source": "chebi", "licence": "CC BY 4.0 (ChEBI)", "rows": trained}]
    return pairs, report


def train_pairs(kinds: Collection[str] = ("definition", "classes+roles")) -> list[Pair]:
    """The training pairs whose text is of these kinds. Errors: UserError for an unknown kind."""
    if unknown := set(kinds) - {*KINDS}:
        raise UserError(
            f"expected kinds of text out of {', '.join(KINDS)}; got {sorted(unknown)}; correct them"
        )
    return [_pair(term) for term in terms() if term.part == "train" and term.kind in kinds]


def terms() -> Iterator[Term]:
    """Every row with a structure, those in no split too. Errors: WrongContent."""
    return (Term(*cells) for cells in _rows(TERMS, Term._fields))


def definitions() -> Iterator[Definition]:
    """Every definition without a structure that may be trained on. Errors: WrongContent.

    Those that say what a text of an evaluated molecule says are left out (tmr_jax.data.overlap);
    `DROPPED` names them, since those texts are not in the package.
    """
    dropped = set((FOLDER / DROPPED).read_text("utf-8").split())
    return (one for one in all_definitions() if one.chebi_id not in dropped)


def all_definitions() -> Iterator[Definition]:
    """Those that must not be trained on, too. Errors: WrongContent."""
    return (Definition(*cells) for cells in _rows(DEFINITIONS, Definition._fields))


def _pair(term: Term) -> Pair:
    return Pair(term.chebi_id, term.caption, term.smiles, term.part)


def _rows(name: str, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The cells of a file of the package, whose content is verified first."""
    path = FOLDER / f"{name}.gz"
    with open_binary(path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    pinned = parts_of("chebi")[name].sha256
    if found != pinned:
        raise WrongContent(
            f"expected {path} with SHA-256 {pinned}; got {found}; install tmr_jax again"
        )
    return (cells.values for cells in read_table(path, columns))
