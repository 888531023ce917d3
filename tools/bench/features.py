"""Molecules a second on one core, stage by stage: python -m tools.bench.features FILE

FILE is what `tmr index` reads, e.g. ZINC250k's zinc.txt.gz. One process, no cache. Each stage runs
on the same molecules; the fastest of three runs counts. RDKit's own parser is the upper bound of
any featuriser that uses RDKit. The profile of the featuriser comes last.
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tyro
from rdkit import Chem, rdBase

from tmr_jax.data.features.graph import featurise, parse_smiles
from tmr_jax.data.features.properties import group_mask, properties
from tmr_jax.data.readers import read_rows
from tmr_jax.data.tables import pack_chunk
from tmr_jax.index.entries import describe_chunk
from tools.bench.common import fastest

SHOWN = 14  # functions of the profile


@dataclass(frozen=True)
class Arguments:
    file: tyro.conf.Positional[Path]
    """Molecules."""
    molecules: int = 5000


def main() -> None:
    args = tyro.cli(Arguments, description=__doc__)
    rows = islice((r for r in read_rows(args.file) if not r.refused), args.molecules)
    smiles = [row.content for row in rows]
    mols = [parse_smiles(s) for s in smiles]
    count = len(smiles)
    print(f"{count:,} molecules of {args.file.name}, RDKit {rdBase.rdkitVersion}, one process")
    stages: dict[str, Callable[[], object]] = {
        "RDKit's parser alone": lambda: [Chem.MolFromSmiles(s) for s in smiles],
        "parsed and checked": lambda: [parse_smiles(s) for s in smiles],
        "features, ogb": lambda: [featurise(s, "ogb", "none") for s in smiles],
        "features, morgan1": lambda: [featurise(s, "morgan1", "none") for s in smiles],
        "features, ogb, as packed arrays": lambda: pack_chunk(smiles, "ogb", "none"),
        "properties": lambda: [properties(mol) for mol in mols],
        "functional groups": lambda: [group_mask(mol) for mol in mols],
        "everything that an index stores, ogb": lambda: describe_chunk(smiles, "ogb", "none"),
    }
    for name, work in stages.items():
        print(f"{name}: {count / fastest(work):,.0f} a second", flush=True)
    profile = cProfile.Profile()
    profile.runcall(pack_chunk, smiles, "ogb", "none")
    pstats.Stats(profile).sort_stats("tottime").print_stats(SHOWN)


if __name__ == "__main__":
    main()
