"""Does the page find what `eval` finds? python tools/check_search.py --run RUN zinc.txt.gz

In: a run, and files of molecules that fill the library beside those of the run's first test pool.
They become one file, `tmr index` makes a library of it, `tmr serve` serves it, and sentences of the
pool, drawn by the seed, are asked over HTTP as a user asks them. Out: how many right molecules (by
InChIKey) stand among the first ten, on the page and in the API, and how many have a rank of ten or
better where `eval` encodes and ranks the same sentences and molecules, which shares with a search
neither the library nor what orders its hits. Exit status 1 where the page finds fewer.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import tmr_jax
from tmr_jax.data.identity import molecule_key
from tmr_jax.data.molecules import read_rows
from tmr_jax.data.pools import load_pool
from tmr_jax.eval.evaluate import chosen_alpha, default_protocols, read_config
from tmr_jax.eval.metrics import per_query
from tmr_jax.eval.pools import encode_pools
from tmr_jax.eval.rank import rank, top
from tmr_jax.eval.restore import open_run
from tmr_jax.types import Pool

K = 10
NEAR = 1_000  # molecules that compete for a sentence's first places


@dataclass(frozen=True)
class Arguments:
    files: tyro.conf.Positional[tuple[Path, ...]]
    """Molecules to hide the right ones among: .smi, .csv, .txt, gzipped or not."""
    run: Path
    sentences: int = 20
    seed: int = 0
    folder: Path | None = None
    """Where the library is made, and found again; without it a temporary folder."""


def main() -> int:
    told = tyro.cli(Arguments, description=__doc__)
    with contextlib.ExitStack() as stack:
        folder = told.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return check(told, folder)


def check(told: Arguments, folder: Path) -> int:
    config = tmr_jax.load(told.run).config
    pool = load_pool(default_protocols(config)[0], config.data)
    molecules = written(told.files, pool, folder)
    index = ["-m", "tmr_jax.index", "--run", str(told.run), "--library", str(folder / "all.smi")]
    subprocess.run([sys.executable, *index, "--out", str(folder / "library")], check=True)
    asks = np.flatnonzero(pool.text_target >= 0)
    drawn = np.random.default_rng(told.seed).permutation(asks)[: told.sentences]
    texts = [pool.texts[i] for i in drawn]
    right = [molecule_key(pool.smiles[pool.text_target[i]]) for i in drawn]
    # First: a second stage that has no weight yet gets it here, and the service reads it.
    ranked = by_eval(told.run, small_pool(told.run, pool, drawn, molecules))
    with served(told.run, folder / "library") as address:
        api = [by_api(address, text) for text in texts]
        page = [by_page(address, text) for text in texts]
    counts = {
        name: sum(key in keys_of(found) for key, found in zip(right, lists, strict=True))
        for name, lists in {"page": page, "API": api}.items()
    } | {"ranking of eval": ranked}
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(
        f"{len(texts)} sentences of {pool.protocol}, seed {told.seed}, {len(molecules):,} "
        f"molecules; right ones among the first {K}: {said}"
    )
    return int(min(counts["page"], counts["API"]) < counts["ranking of eval"])


def written(files: tuple[Path, ...], pool: Pool, folder: Path) -> list[str]:
    """Every molecule as a line of folder/all.smi, those of the pool last."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row.content for path in files for row in read_rows(path) if not row.refused]
    rows += pool.smiles
    (folder / "all.smi").write_text("".join(f"{smiles}\n" for smiles in rows), "utf-8")
    return rows


@contextlib.contextmanager
def served(run: Path, library: Path) -> Iterator[str]:
    words = ["-m", "tmr_jax.serve", "--run", str(run), "--library", str(library)]
    command = [sys.executable, *words, "--port", "0", "--rate", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            yield service.stdout.readline().split()[2].rstrip("/")
        finally:
            service.terminate()


def by_api(address: str, text: str) -> list[str]:
    body = json.dumps({"queries": [text], "k": K}).encode()
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/api/search", body, kind)
    with urllib.request.urlopen(request) as answer:
        (found,) = json.load(answer)["answers"]
    return [hit["smiles"] for hit in found["hits"]]


def by_page(address: str, text: str) -> list[str]:
    """What the cards of the page copy."""
    query = urllib.parse.urlencode({"q": text, "k": K})
    with urllib.request.urlopen(f"{address}/?{query}") as answer:
        content = answer.read().decode()
    return [html.unescape(smiles) for smiles in re.findall(r'data-smiles="([^"]*)"', content)][:K]


def small_pool(run: Path, pool: Pool, drawn: np.ndarray, molecules: list[str]) -> Pool:
    """The drawn sentences with those molecules that are near to one of them.

    No other could stand among the first, and the atoms of all fill the memory.
    """
    retriever = tmr_jax.load(run)
    encoded, kept, _ = retriever.model.encoder.molecules(molecules)
    rows = retriever.encode_text([pool.texts[i] for i in drawn])
    near = kept[top(rows, encoded.rows, max(NEAR, retriever.shortlist))[0]]
    right = len(molecules) - len(pool.smiles) + pool.text_target[drawn]  # they come last
    chosen = np.union1d(near, right)
    target, back = np.searchsorted(chosen, right), np.full(len(chosen), -1)
    back[target] = np.arange(len(drawn))
    texts = tuple(pool.texts[i] for i in drawn)
    return Pool(pool.protocol, texts, tuple(molecules[i] for i in chosen), target, back)


def by_eval(run: Path, pool: Pool) -> int:
    """How many right molecules have an expected rank of K or better."""
    model = open_run(run, "best")
    alpha = chosen_alpha(run, read_config(run), model)
    [(pool, text, mol)], _ = encode_pools(model, [pool])
    if model.refiner is None:
        ranking = rank(text.rows, mol.rows, pool.text_target, mol.group)
    else:
        lists = model.refiner.lists(text, mol, "t2m", pool.text_target)
        ranking = lists.ranking("fused", alpha)
    return int((per_query(ranking)["mr"] <= K).sum())


def keys_of(smiles: list[str]) -> set[str]:
    return {molecule_key(one) for one in smiles}


if __name__ == "__main__":
    sys.exit(main())
