"""Molecules a second and core, stage by stage: python -m tools.bench.features FILE

The file is a library as `tmr index` takes it, e.g. ZINC250k's zinc.txt.gz. One process, no cache.
Each stage runs on the same molecules three times and the fastest run counts; the machine may be
shared. What RDKit's own parser needs for the same strings is the bound that no featuriser on
RDKit can pass. At last, where the featuriser's time goes.
"""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tyro
from rdkit import Chem, rdBase

from tmr_jax.data.features.graph import featurise, parse_smiles
from tmr_jax.data.features.properties import group_mask, properties
from tmr_jax.data.molecules import read_rows
from tmr_jax.data.tables import pack_chunk
from tmr_jax.index.entries import describe_chunk

RUNS = 3
SHOWN = 14  # functions of the profile


@dataclass(frozen=True)
class Arguments:
    file: tyro.conf.Positional[Path]
    """A library file."""
    molecules: int = 5000


def rate(work: Callable[[], object], count: int) -> float:
    """Molecules a second of the fastest run."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return count / min(times)


def main() -> None:
    told = tyro.cli(Arguments)
    rows = islice((r for r in read_rows(told.file) if not r.refused), told.molecules)
    smiles = [row.content for row in rows]
    mols = [parse_smiles(s) for s in smiles]
    count = len(smiles)
    print(f"{count:,} molecules of {told.file.name}, RDKit {rdBase.rdkitVersion}, one process")
    stages: dict[str, Callable[[], object]] = {
        "RDKit's parser alone": lambda: [Chem.MolFromSmiles(s) for s in smiles],
        "parsed and checked": lambda: [parse_smiles(s) for s in smiles],
        "features, ogb": lambda: [featurise(s, "ogb", "none") for s in smiles],
        "features, morgan1": lambda: [featurise(s, "morgan1", "none") for s in smiles],
        "features, ogb, as packed arrays": lambda: pack_chunk(smiles, "ogb", "none"),
        "properties": lambda: [properties(mol) for mol in mols],
        "functional groups": lambda: [group_mask(mol) for mol in mols],
        "all that a library keeps, ogb": lambda: describe_chunk(smiles, "ogb", "none"),
    }
    for name, work in stages.items():
        print(f"{name}: {rate(work, count):,.0f} a second", flush=True)
    profile = cProfile.Profile()
    profile.runcall(pack_chunk, smiles, "ogb", "none")
    pstats.Stats(profile).sort_stats("tottime").print_stats(SHOWN)


if __name__ == "__main__":
    main()
