"""tmr embed FILE --out OUT: the vectors of a file's molecules or descriptions.

In: what `tmr index` takes. Out: OUT.parquet with the columns row (of the file, from 0), name,
smiles or text, norm and vector; or OUT.npy, float32 [n, D], with the same columns but the vector in
OUT.tsv, line by line. Vectors have length one: their products are cosines. Invalid rows are counted
on standard error. The vectors are kept in the cache folder, from where a search of the file takes
them, and an interrupted run resumes.
"""

# Heavy imports are inside the functions, so that a wrong argument is reported at once.
from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from tmr_jax import cli
from tmr_jax.types import UserError

if TYPE_CHECKING:
    from tmr_jax.index.index import DiskIndex


@dataclass(frozen=True)
class Arguments:
    """Write the vectors of a file's molecules or descriptions."""

    file: tyro.conf.Positional[Path]
    """Molecules: .smi, .csv, .tsv, .parquet or .sdf, gzipped or not. Or descriptions: .txt, one on
    each line, or a table with --text-column. - for standard input."""
    out: Path
    """A .parquet or .npy file; the latter gets a .tsv of the rows next to it."""
    run: Path | None = None
    """A run, or exported weights; default: the weights that come with tmr_jax."""
    smiles_column: str = ""
    """Column of the SMILES in a table; by default the one called so, or that holds some."""
    text_column: str = ""
    """Column of the descriptions in a table, for their vectors."""
    name_column: str = ""
    """Column of the names in a table; by default the titles of an SDF, or line numbers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 3 while another process indexes the same file; else see `cli`."""
    return cli.run("embed", _embed, arguments, resumable=True, expected=(OSError,))


def _embed(words: list[str]) -> int:
    chosen = cli.parse(Arguments, "embed", words)
    kinds = {".parquet": write_parquet, ".npy": write_npy}
    if chosen.out.suffix not in kinds:
        raise UserError(f"expected --out with .parquet or .npy; got {chosen.out}; give one of them")
    if not chosen.out.parent.is_dir():
        raise UserError(
            f"expected a folder for {chosen.out}; got {chosen.out.parent}, which does not exist; "
            "create it"
        )
    from tmr_jax.data.readers import or_standard_input
    from tmr_jax.index.build import Source, model_of_run, open_file
    from tmr_jax.index.exact import ExactEngine

    columns = chosen.smiles_column, chosen.name_column, chosen.text_column
    source = Source(or_standard_input(chosen.file), *columns)
    library = open_file(source, model_of_run(chosen.run))
    kinds[chosen.out.suffix](library, chosen.out)
    account = library.account
    print(f"{account.kept:,} of {account.rows:,} rows in {chosen.out}", file=sys.stderr)
    if account.refused:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(account.refused.items()))
        assert isinstance(library.engine, ExactEngine)  # as every index of a file
        listed = library.engine.folder / "refused.tsv"
        print(f"skipped: {reasons}; each row is in {listed}", file=sys.stderr)
    return 0


def write_parquet(library: DiskIndex, path: Path) -> None:
    """The vectors with what belongs to them, a row group for each part of the index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tmr_jax.data.files import replaced

    vector = pa.list_(pa.float32(), library.engine.width)
    kinds = {"row": pa.int64(), "name": pa.string(), _content(library): pa.string()}
    schema = pa.schema({**kinds, "norm": pa.float32(), "vector": vector})
    with replaced(path) as partial, pq.ParquetWriter(partial, schema) as file:
        for batch in library.engine.batches():
            flat = pa.array(batch.vectors.reshape(-1))
            vectors = pa.FixedSizeListArray.from_arrays(flat, library.engine.width)
            columns = batch.columns
            arrays = [batch.ids, columns["name"], columns["smiles"], columns["norm"]]
            file.write_batch(pa.record_batch([*map(pa.array, arrays), vectors], schema=schema))


def write_npy(library: DiskIndex, path: Path) -> None:
    """The vectors as one array, and the rows they belong to, in two files."""
    import numpy as np

    from tmr_jax.data.files import replaced

    shape, done = (library.engine.count(), library.engine.width), 0
    with replaced(path) as partial, replaced(path.with_suffix(".tsv")) as rows:
        array = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
        with rows.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t", lineterminator="\n")
            table.writerow(["row", "name", _content(library), "norm"])
            for batch in library.engine.batches():
                array[done : done + len(batch.ids)] = batch.vectors
                done += len(batch.ids)
                parts = [batch.columns[name] for name in ("name", "smiles", "norm")]
                table.writerows(zip(batch.ids, *parts, strict=True))
        array.flush()


def _content(library: DiskIndex) -> str:
    return "text" if library.account.of_texts else "smiles"


if __name__ == "__main__":
    sys.exit(main())
