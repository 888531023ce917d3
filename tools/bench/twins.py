"""Twins that only stereo marks or a charge tell apart: python -m tools.bench.twins --run RUN

Takes all pairs of stereoisomers and of charge states whose molecules have a text and are in no
training data (docs/data.md#twins), and prints how often a text is nearer to its own molecule than
to the twin: by the cosine alone (det), and by the facts too where the run has learned to rerank by
them. Each text of a pair asks once, a tie is right half of the time. The first three lines of each
are of whole texts; the others have the terms of `chebi` too whose text only names classes, which
often fit both twins. The interval resamples connectivities, since one of them may have many pairs.
Writes RUN/twins.json, unless RUN is a folder of exported weights.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from jaxtyping import Float
from rdkit import Chem

from tmr_jax import cli
from tmr_jax.data.datasets import chebi20
from tmr_jax.data.datasets.open_pairs import EVALUATED
from tmr_jax.data.datasets.table import flags
from tmr_jax.data.features.facts import facts_of, molecule_facts, text_facts
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.features.similarity import molecule_keys
from tmr_jax.data.files import cache_folder
from tmr_jax.eval.evaluate import read_config
from tmr_jax.eval.facts import FactsTable, read_facts
from tmr_jax.eval.leakage import trained_on
from tmr_jax.eval.pools import Restored, encode_pools, open_run
from tmr_jax.models.runtime import use_compile_cache
from tmr_jax.types import Pool, UserError
from tools.bench.common import keep

WORDS = "stereoisomers whose texts differ in stereo words only"
STEREO = "stereoisomers whose texts differ in more"
CHARGE = "charge states"
SAME = "one text"  # which cannot choose
KINDS = (WORDS, STEREO, CHARGE)
SHARED = 25  # characters of the InChIKeys of charge states: all but the one for protonation
RESAMPLES, SEED = 1000, 0

_LOCATED = r"\d+[a-z]?'*(?:[rsez]|alpha|beta)\b|\([+-]{1,2}\)"  # 2R, 5alpha, 3a'S, (+)
_NAMED = (
    r"[dlrsez]|dl|alpha|beta|cis|trans|ent|epi|rac|meso|threo|erythro|exo|endo|syn|anti|racemate"
    r"|enantiomer|(?:dia)?(?:stereo)?isomer|diastereomer|epimer"
)
_STEREO_WORD = re.compile(rf"{_LOCATED}|(?<![a-z])(?:{_NAMED})(?![a-z])")


@dataclass(frozen=True)
class Arguments:
    run: Path
    which: Literal["best", "newest"] = "best"


class Row(NamedTuple):
    """A molecule with its text."""

    text: str
    smiles: str
    is_whole: bool  # not only the names of its classes, which often fit the twin as well


class Molecule(NamedTuple):
    text: str
    smiles: str  # canonical
    is_whole: bool
    key: str  # InChIKey
    flat: str  # the SMILES without stereo marks, and the isotopes
    marks: int  # stereo centres and double bonds that are specified
    charge: int


class Twins(NamedTuple):
    """Two molecules of one connectivity."""

    kind: str  # one of KINDS, or SAME
    one: Molecule
    other: Molecule

    @property
    def block(self) -> str:
        return self.one.key[:14]

    @property
    def are_whole(self) -> bool:
        return self.one.is_whole and self.other.is_whole


def described() -> list[Row]:
    """ChEBI-20's validation and test, then the flagged terms of `chebi`, whole texts first."""
    splits = [chebi20.load_split("molt5", split) for split in ("validation", "test")]
    terms = importlib.import_module("tmr_jax.data.datasets.chebi").terms()
    marked = [term for term in terms if flags(term.eval_skeletons) & {*EVALUATED}]
    rows = [Row(term.caption, term.smiles, term.kind != "classes") for term in marked]
    rows.sort(key=lambda row: not row.is_whole)
    return [Row(pair.text, pair.smiles, True) for split in splits for pair in split] + rows


def twins(rows: Iterable[Row]) -> list[Twins]:
    """All pairs, in order; the first text of a molecule counts.

    A molecule that RDKit refuses, or that has no InChIKey, has no twin.
    """
    first: dict[str, Row] = {}
    for row in rows:
        try:
            first.setdefault(Chem.MolToSmiles(parse_smiles(row.smiles)), row)
        except BadMolecule:
            continue
    groups: dict[str, list[Molecule]] = {}
    keys = molecule_keys([*first], "twins")
    for (smiles, row), key in zip(first.items(), keys, strict=True):
        if not key.startswith("SMI:"):
            groups.setdefault(key[:14], []).append(molecule(row, smiles, key))
    pairs = [pair for group in groups.values() for pair in combinations(group, 2)]
    return [Twins(kind, *pair) for pair in pairs if (kind := kind_of(*pair))]


def molecule(row: Row, smiles: str, key: str) -> Molecule:
    mol = parse_smiles(smiles)
    atoms = [*mol.GetAtoms()]
    centres = sum(a.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED for a in atoms)
    bonds = sum(b.GetStereo() > Chem.BondStereo.STEREOANY for b in mol.GetBonds())
    flat = Chem.MolToSmiles(mol, isomericSmiles=False) + str(sorted(a.GetIsotope() for a in atoms))
    marks, charge = centres + bonds, Chem.GetFormalCharge(mol)
    return Molecule(row.text, smiles, row.is_whole, key, flat, marks, charge)


def kind_of(a: Molecule, b: Molecule) -> str:
    """What tells two molecules of one connectivity apart.

    "" for tautomers and isotopes, and if only one of them specifies a stereo centre: then the text
    of the other one fits both.
    """
    are_isomers = a.flat == b.flat and a.marks == b.marks
    are_charged = a.key[:SHARED] == b.key[:SHARED] and a.charge != b.charge
    if not (are_isomers or are_charged):
        return ""
    if a.text == b.text:
        return SAME
    if are_charged:
        return CHARGE
    return WORDS if without_stereo(a.text) == without_stereo(b.text) else STEREO


def without_stereo(text: str) -> list[str]:
    """The words and numbers of a text that say nothing of stereochemistry.

    >>> without_stereo("The molecule is (2R)-2beta-X, the (+)-enantiomer.")
    ['the', 'molecule', 'is', 'x', 'the']
    """
    return re.findall("[a-z0-9]+", _STEREO_WORD.sub(" ", text.lower()))


def nearer(
    model: Restored, pairs: Sequence[Twins], facts: FactsTable | None = None
) -> Float[np.ndarray, "P 2"]:
    """1 where a text of a pair is nearer to its own molecule than to the other one, else 0.

    Molecules that are one input of the model tie: 1/2, but for what the facts say.
    """
    both = [molecule for pair in pairs for molecule in pair[1:]]
    texts, smiles = tuple(m.text for m in both), tuple(m.smiles for m in both)
    index = np.arange(len(both))
    [(_, text, mol)], _ = encode_pools(model, [Pool("twins", texts, smiles, index, index)])
    twin = index ^ 1  # 0 and 1, 2 and 3, ...
    margin = ((mol.rows - mol.rows[twin]) * text.rows).sum(1)
    margin[mol.group == mol.group[twin]] = 0.0
    if facts is not None:
        stated, shown = facts_of(text_facts, texts, ""), facts_of(molecule_facts, smiles, "")
        none = np.zeros(len(both), np.float32)
        margin += facts.scores(none, stated, shown) - facts.scores(none, stated, shown[twin])
    return ((np.sign(margin) + 1) / 2).reshape(-1, 2)


def interval(values: Float[np.ndarray, " P"], groups: Sequence[str]) -> list[float]:
    """95 % bootstrap interval of the mean over resampled groups."""
    number = np.unique(list(groups), return_inverse=True)[1]
    sums, sizes = np.bincount(number, values), np.bincount(number)
    drawn = np.random.default_rng(SEED).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    return np.percentile(means, [2.5, 97.5]).tolist()


def measure(
    model: Restored,
    pairs: Sequence[Twins],
    blocks: frozenset[str],
    facts: FactsTable | None = None,
) -> dict[str, Any]:
    """The record of the pairs whose connectivity is not one of `blocks`, those of training."""
    kept = [pair for pair in pairs if pair.block not in blocks and pair.kind != SAME]
    if not kept:
        raise UserError(
            f"expected twins that the run was not trained on; got none of {len(pairs):,} pairs; "
            "train without the molecules of the evaluation sets"
        )
    stages = {"det": nearer(model, kept).mean(1)}
    if facts is not None:
        stages["facts"] = nearer(model, kept, facts).mean(1)
    kinds = [
        {"stage": stage} | rates(kept, right, kind, whole)
        for stage, right in stages.items()
        for whole in (True, False)
        for kind in KINDS
    ]
    trained = sum(pair.block in blocks for pair in pairs)
    same = sum(pair.kind == SAME for pair in pairs)
    return {"kinds": [kind for kind in kinds if kind["pairs"]], "trained": trained, "same": same}


def rates(
    pairs: Sequence[Twins], right: Float[np.ndarray, " P"], kind: str, whole: bool
) -> dict[str, Any]:
    """The record of the pairs of a kind; `whole`: only those of two whole texts."""
    chosen = [i for i, pair in enumerate(pairs) if pair.kind == kind and whole <= pair.are_whole]
    names = [pairs[i].block for i in chosen]
    record: dict[str, Any] = {"kind": kind, "texts": "whole" if whole else "all"}
    record |= {"pairs": len(chosen), "connectivities": len({*names})}
    if chosen:
        record |= {"right": float(right[chosen].mean()), "interval": interval(right[chosen], names)}
    return record


def lines(record: dict[str, Any]) -> list[str]:
    shown = [
        f"{record['run']}: {record['checkpoint']['which']} checkpoint, step "
        f"{record['checkpoint']['step']}; a tie is right half of the time"
    ]
    for one in record["kinds"]:
        low, high = one["interval"]
        shown.append(
            f"{one['right']:.3f} ({low:.3f} to {high:.3f})  {one['stage']}, {one['kind']}, "
            f"{one['texts']} texts: "
            f"{one['pairs']:,} pairs of {one['connectivities']:,} connectivities"
        )
    return [
        *shown,
        f"pairs left out: {record['trained']:,} in training, {record['same']:,} of one text; "
        f"{RESAMPLES:,} resamples of the connectivities, seed {SEED}",
    ]


def main(words: list[str]) -> int:
    args = tyro.cli(Arguments, args=words, description=__doc__)
    use_compile_cache(cache_folder())
    blocks = trained_on(args.run, read_config(args.run).data).blocks
    model = open_run(args.run, args.which)
    record = {"run": str(args.run), "checkpoint": model.checkpoint, "seed": SEED}
    facts = read_facts(args.run, model.checkpoint["sha256"])
    record |= {"resamples": RESAMPLES} | measure(model, twins(described()), blocks, facts)
    keep(args.run, "twins.json", record)
    print("\n".join(lines(record)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("twins", main, None, expected=(OSError,)))
