"""open: real pairs from public sources, without the molecules of the test sets.

1       16,872 rows of pairs.tsv
2       these, `chebi`'s definitions, classes and roles, and captions of ChEBI-20's training
        molecules in MolT5's wording; a pair of canonical SMILES and text counts once
        and texts that a pool of an evaluation holds word for word are left out
public  version 2 with the part of pairs.tsv that open_build.py can rebuild from public files
licensed  version 2 of ChEBI's text, all kinds of it, and of sources with a stated licence
None has a pair whose molecule shares its connectivity with validation or test of ChEBI-20 or PCdes,
so that one run may be tested on both. For a second stage:
unseen  1,410 more rows of pairs.tsv, which only PCdes's validation keeps out of the others
Scores trained on them are labelled "open-pairs training": not comparable with published ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tmr_jax.config import TableConfig
from tmr_jax.data.datasets import chebi, open_build, table
from tmr_jax.data.datasets.open_build import EVALUATED, PAIRS, PUBLIC, canonical
from tmr_jax.data.download import MissingPart, check_version, locate
from tmr_jax.data.overlap import digest
from tmr_jax.data.readers import read_table
from tmr_jax.types import Pair

VERSIONS = ("1", "2", "public", "licensed", "unseen")
KINDS = ("definition", "classes+roles")  # of chebi's text: classes alone name many molecules
REPEATED = "pair-of-another-source"
DROPPED = "open_dropped.txt"  # digests of texts, as tools/make/dropped.py writes them
CHEBI, CAPTIONS = "chebi", "chebi20 training captions"
UNSTATED = "none stated (3M-Diffusion; the text is PubChem's)"
LICENCES = {
    "pcdes": "Apache-2.0 (MolBridge; the text is PubChem's)",
    "pubchem324k_valid": UNSTATED,
    "pubchem324k_test": UNSTATED,
    "pubchem_desc10k": "MIT (the text is PubChem's)",
    "gitmol_toy": "MIT (GIT-Mol; the text is PubChem's)",
    CHEBI: "CC BY 4.0 (ChEBI)",
    CAPTIONS: "none stated (ChemLLMBench; the text is ChEBI's, CC BY 4.0)",
}
SECOND = ("mv", "mt")  # flags: validation and test of PubChem324k
LICENSED = ("pubchem_desc10k", "gitmol_toy", CHEBI, CAPTIONS)


def load(version: str) -> tuple[list[Pair], table.Report]:
    """The training pairs and the report of all rows.

    The id of a pair is its row in the table, its ChEBI id, or "chebi20-" and its CID. Errors:
    MissingPart where a file cannot be had, UserError for an unknown version.
    """
    check_version("open", VERSIONS, version)
    if version == "unseen":
        return _unseen()
    if version == "1":
        pairs, report = _without(EVALUATED, table_of(version))
    else:
        licensed = version == "licensed"
        pairs, report = joined(version, chebi.KINDS if licensed else KINDS)
        evaluated = set((chebi.FOLDER / DROPPED).read_text("utf-8").split())
        pairs = [pair for pair in pairs if digest(pair.text) not in evaluated]
        if licensed:
            named = zip(pairs, sources(pairs, version), strict=True)
            pairs = [pair for pair, source in named if source in LICENSED]
        report.dropped += report.kept - len(pairs)
        report.keep(pairs)
    rows = Counter(sources(pairs, version))
    report.sources = [
        {"source": name, "licence": LICENCES.get(name, "not recorded"), "rows": count}
        for name, count in rows.items()
    ]
    return pairs, report


def joined(version: str, kinds: Collection[str]) -> tuple[list[Pair], table.Report]:
    """Every source of a version, with these kinds of `chebi`'s text, and the report of all rows."""
    flags = (*EVALUATED, *SECOND) if version == "licensed" else EVALUATED
    pairs, report = _without(flags, table_of(version))
    _add([*chebi.train_pairs(kinds), *captions(flags)], pairs, report)
    return pairs, report


def sources(pairs: Sequence[Pair], version: str) -> list[str]:
    """Where each pair comes from, by its id."""
    rows = {str(cells.row): cells.values[0] for cells in read_table(table_of(version), ["source"])}
    others = {"CHEBI:": CHEBI, "chebi20-": CAPTIONS}
    starts = (next((s for s in others if pair.id.startswith(s)), "") for pair in pairs)
    return [others[s] if s else rows[p.id] for s, p in zip(starts, pairs, strict=True)]


def table_of(version: str) -> Path:
    """The table with the rows of a version that are neither chebi's nor captions of ChEBI-20."""
    if version == "public":
        return open_build.locate_built(PUBLIC)
    try:
        return locate(PAIRS)
    except MissingPart as error:
        raise MissingPart(
            f"{error}; or train on what can be rebuilt of it: --data.version public"
        ) from error


def captions(flags: tuple[str, ...] = EVALUATED) -> Iterator[Pair]:
    """Captions of ChEBI-20's training molecules in MolT5's wording, those without these flags."""
    columns = ["CID", "SMILES", "eval_skeletons", "text_version", "description"]
    for cells in read_table(open_build.locate_captions(), columns):
        cid, smiles, marks, wording, text = cells.values
        if wording == "molt5" and not table.flags(marks) & {*flags}:
            yield Pair(f"chebi20-{cid}", text.strip(), canonical(smiles), "train")


def _add(more: list[Pair], pairs: list[Pair], report: table.Report) -> None:
    """Appends pairs of other sources; those that are already there are counted as skipped."""
    known: dict[str, list[str]] = {}
    for pair in pairs:
        known.setdefault(pair.text, []).append(pair.smiles)
    for pair in more:
        report.rows += 1
        same_text = known.setdefault(pair.text, [])
        # Few texts are in two sources, so that few molecules are compared.
        if same_text and canonical(pair.smiles) in map(canonical, same_text):
            report.refuse(report.rows, REPEATED, pair.smiles)
            continue
        same_text.append(pair.smiles)
        pairs.append(pair)
    report.keep(pairs)


def _unseen() -> tuple[list[Pair], table.Report]:
    path = table_of("1")
    seen = {pair.id for pair in _without(EVALUATED, path)[0]}
    more, report = _without(tuple(flag for flag in EVALUATED if flag != "pv"), path)
    unseen = [pair for pair in more if pair.id not in seen]
    report.dropped += report.kept - len(unseen)
    report.keep(unseen)
    return unseen, report


def _without(flags: tuple[str, ...], path: Path) -> tuple[list[Pair], table.Report]:
    config = TableConfig(
        path=str(path),
        text="description",
        smiles="SMILES",
        fractions=(1.0, 0.0, 0.0),
        drop_column="eval_skeletons",
        drop_values=flags,
    )
    return table.load(config, seed=0)
