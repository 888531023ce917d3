"""python -m tmr_jax.data SET: fetches a public data set and verifies it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tmr_jax import cli
from tmr_jax.data import DEFAULT_VERSIONS
from tmr_jax.data.datasets import chebi20, open_pairs, pcdes
from tmr_jax.data.download import Part, locate
from tmr_jax.types import UserError, did_you_mean


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("data", _fetch, arguments, resumable=True, expected=(OSError,))


def _fetch(args: list[str]) -> int:
    """Downloads a public data set and prints where its files are."""
    parser = argparse.ArgumentParser(
        prog="python -m tmr_jax.data", description="fetch a public data set and verify it"
    )
    parser.add_argument("set", help="chebi20, pcdes or open")
    parser.add_argument("--version", default="", help="chebi20: text2mol or molt5; pcdes: scaffold")
    chosen = parser.parse_args(args)
    for part in parts_to_fetch(chosen.set, chosen.version):
        print(f"{part.set}/{part.name}: {locate(part)}")
    return 0


def parts_to_fetch(name: str, version: str) -> list[Part]:
    if name in ("open", open_pairs.PAIRS.set):
        return [open_pairs.PAIRS]
    if name == "chebi":
        raise UserError(
            "expected a data set to fetch; got chebi, which is in the package; "
            "use --data.name chebi as it is"
        )
    if name not in DEFAULT_VERSIONS:
        hint = did_you_mean(name, [*DEFAULT_VERSIONS, "open"])
        raise UserError(f"expected a data set to fetch; got {name!r}; {hint}")
    dataset = {"chebi20": chebi20, "pcdes": pcdes}[name]
    return dataset.parts(version or DEFAULT_VERSIONS[name])


if __name__ == "__main__":
    sys.exit(main())
