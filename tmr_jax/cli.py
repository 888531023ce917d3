"""The console script `tmr`: one word for what to do, the rest as for `python -m tmr_jax.WORD`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from tmr_jax import __version__
from tmr_jax.config import did_you_mean

VERBS = {
    "train": ("tmr_jax.train.__main__", "train an experiment: tmr train --exp quickstart"),
    "eval": ("tmr_jax.eval.__main__", "rank the pools of a run: tmr eval --run runs/quickstart"),
    "search": (
        "tmr_jax.search.__main__",
        'ask a run: tmr search --run runs/quickstart --library my.smi "an aromatic amine"',
    ),
    "index": (
        "tmr_jax.index.__main__",
        "make a library: tmr index --run runs/quickstart --library my.smi --out lib",
    ),
    "serve": (
        "tmr_jax.serve.__main__",
        "a page and an API: tmr serve --run runs/quickstart --library my.smi",
    ),
    "table": (
        "tmr_jax.table.__main__",
        "run what a table of results lacks: tmr table --name smoke",
    ),
    "data": ("tmr_jax.data.__main__", "fetch a public data set and verify it: tmr data chebi20"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status of the program that the first word names; 2 where it names none."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--version"]:
        print(f"tmr_jax {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb, *rest = words
    if verb not in VERBS:
        hint = did_you_mean(verb, list(VERBS))
        print(f"error: expected a verb, got {verb!r}; {hint}", file=sys.stderr)
        return 2
    return importlib.import_module(VERBS[verb][0]).main(rest)


def usage() -> str:
    lines = [f"  tmr {verb:<7} {about}" for verb, (_, about) in VERBS.items()]
    return "\n".join(
        ["Text-molecule retrieval in JAX", "", *lines, "", "tmr VERB --help says more"]
    )


if __name__ == "__main__":
    sys.exit(main())
