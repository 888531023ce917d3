"""The part of `open` that can be rebuilt from public files.

In: files of MolT5, KV-PLM, MolBridge and 3M-Diffusion, verified by hash. Out, verified by hash too:
public.tsv   3,870 of the 16,872 training rows of pairs.tsv, as they are there
captions.tsv 1,041 captions of MolT5's train.txt: those that version 2 adds

pairs.tsv joined its sources one after the other, with doubled backslashes undone, white space
collapsed, and without rows whose canonical SMILES and text an earlier row has. Flags are the
evaluation sets with a molecule of the same connectivity (InChIKey block 1).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from rdkit import Chem

from tmr_jax.data.datasets import chebi20, pcdes
from tmr_jax.data.download import Part, find, locate, parts_of, store
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.features.similarity import molecule_key, skeleton_key
from tmr_jax.data.files import open_binary
from tmr_jax.data.readers import read_table
from tmr_jax.data.workers import track

PARTS = parts_of("open_pairs")
PAIRS, PUBLIC, CAPTIONS = (PARTS[f"{name}.tsv"] for name in ("pairs", "public", "captions"))
RECOVERED = parts_of("chebi")["chebi20_train_part.tsv"]  # captions of both wordings
PUBCHEM = parts_of("pubchem324k")
# Flags of ChEBI-20's validation and test, of PCdes's; mv and mt (PubChem324k) do not exclude.
EVALUATED = ("cv", "ct", "pv", "pt")
COLUMNS = ("source", "source_id", "CID", "SMILES", "inchikey")
COLUMNS += ("chebi20_split", "pcdes_split", "eval_skeletons", "description")
MISSING = """\
pairs.tsv, of versions 1 and 2, cannot be rebuilt whole. public.tsv has 3,870 of its 16,872 training
rows. It lacks 9,257 of pubchem_desc10k, whose address is not known, and 3,745 of gitmol_toy, which
github.com/AI-HPC-Research-Team/GIT-Mol has as pickled files, not read here. To train on what there
is: --data.name open --data.version public"""


def locate_built(part: Part) -> Path:
    """PUBLIC or CAPTIONS, built from public files unless it is there. Errors: as of `locate`."""
    return find(part) or store(part, {PUBLIC: public, CAPTIONS: captions}[part]())


def locate_captions() -> Path:
    """The recovered table where it is local, else CAPTIONS."""
    return find(RECOVERED) or locate_built(CAPTIONS)


def public() -> str:
    """The content of public.tsv; takes a minute."""
    rows, (of_chebi20, of_pcdes) = list(_upstream()), _splits()
    flags, lines, seen = _flags(), ["\t".join(COLUMNS)], set()
    for source, number, cid, smiles, text in rows:
        name, text = canonical(smiles), " ".join(text.split())
        marks = flags.get(skeleton_key(smiles), set())
        if marks & {*EVALUATED} or (name, text) in seen:
            continue
        seen.add((name, text))
        splits = (of_chebi20.get(cid) or of_chebi20.get(name, ""), of_pcdes.get(name, ""))
        cells = (source, number, cid, smiles, molecule_key(smiles), *splits)
        lines.append("\t".join((*cells, ",".join(sorted(marks)), text)))
    return "\n".join(lines) + "\n"


def captions() -> str:
    """The content of captions.tsv: of the molecules whose CIDs the package lists, in that order."""
    listed = resources.files("tmr_jax.data.datasets").joinpath("open_captions.txt")
    pairs = {pair.id: pair for pair in chebi20.load_split("molt5", "train")}
    found = (pairs[cid] for cid in listed.read_text("utf-8").split() if cid in pairs)
    lines = [f"{p.id}\t{p.smiles}\t\tmolt5\t{p.text}" for p in found]
    return "\n".join(["CID\tSMILES\teval_skeletons\ttext_version\tdescription", *lines]) + "\n"


def _upstream() -> Iterator[tuple[str, str, str, str, str]]:
    """Source, row, CID, SMILES and text in the order of pairs.tsv; some are flagged or repeated."""
    with open_binary(locate(pcdes.SCAFFOLD_TEST)) as file:
        entries: dict[str, list[dict]] = {}
        for entry in json.load(file):
            entries.setdefault(entry["smiles"], []).append(entry)
    for line, smiles in enumerate(_pcdes_smiles()):
        if texts := entries.get(smiles):  # two lines of one SMILES have their entries in order
            entry = texts.pop(0)
            yield "pcdes", str(line), str(entry["cid"]), smiles, entry["caption"]
    for name in ("valid", "test"):
        for cid, smiles, text in _pubchem(name):
            yield f"pubchem324k_{name}", cid, cid, smiles, text


def _pcdes_smiles() -> list[str]:
    return pcdes._read_lines(locate(pcdes.SMILES))[: pcdes.LINES]


def _pubchem(name: str) -> Iterator[tuple[str, ...]]:
    table = read_table(locate(PUBCHEM[f"{name}.txt"]), ["CID", "SMILES", "description"])
    return (cells.values for cells in table)


def _splits() -> tuple[dict[str, str], dict[str, str]]:
    """Splits of ChEBI-20, by CID and by canonical SMILES, and of PCdes, by canonical SMILES."""
    rows = [(s, *row) for s in chebi20.SPLITS for row in chebi20.molecules("molt5", s)]
    of_chebi20, of_pcdes = {cid: split for split, cid, _ in rows}, {}
    for split, _, smiles in track(rows, "ChEBI-20's molecules"):
        of_chebi20[canonical(smiles)] = split  # no molecule is in two
    for line, smiles in enumerate(track(_pcdes_smiles(), "PCdes's molecules")):
        of_pcdes.setdefault(canonical(smiles), pcdes.split_of(line))
    return of_chebi20, of_pcdes


def _flags() -> dict[str, set[str]]:
    """Evaluation sets by the connectivity of their molecules; invalid molecules have none."""
    lines = _pcdes_smiles()
    molecules = {
        "cv": [smiles for _, smiles in chebi20.molecules("molt5", "validation")],
        "ct": [smiles for _, smiles in chebi20.molecules("molt5", "test")],
        "pv": lines[pcdes.VALIDATION : pcdes.TEST],
        "pt": lines[pcdes.TEST :],
        "mv": [smiles for _, smiles, _ in _pubchem("valid")],
        "mt": [smiles for _, smiles, _ in _pubchem("test")],
    }
    flags: dict[str, set[str]] = {}
    named = [(flag, smiles) for flag, rows in molecules.items() for smiles in rows]
    for flag, smiles in track(named, "evaluated molecules"):
        try:
            flags.setdefault(skeleton_key(smiles), set()).add(flag)
        except BadMolecule:
            continue
    return flags


def canonical(smiles: str) -> str:
    """The canonical SMILES; an invalid one stays as it is."""
    try:
        return Chem.MolToSmiles(parse_smiles(smiles))
    except BadMolecule:
        return smiles
