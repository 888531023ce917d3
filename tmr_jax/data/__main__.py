"""tmr data SET: fetches a public data set and verifies it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tmr_jax import cli
from tmr_jax.data import DEFAULT_VERSIONS, DataConfig
from tmr_jax.data.datasets import chebi20, open_build, open_pairs, pcdes
from tmr_jax.data.download import Part, check_version, find, locate
from tmr_jax.types import UserError, did_you_mean


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("data", _fetch, arguments, resumable=True, expected=(OSError,))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tmr data", description="fetch a public data set and verify it"
    )
    parser.add_argument("set", help="chebi20, pcdes or open")
    versions = (
        "chebi20: text2mol or molt5; pcdes: file-order or scaffold; open: 2, 1, public or licensed"
    )
    parser.add_argument("--version", default="", help=versions)
    card = "of open: print its sources, licences, lengths and leakage"
    parser.add_argument("--card", action="store_true", help=card)
    return parser


def _fetch(args: list[str]) -> int:
    """Downloads a public data set, or builds it, and prints where its files are."""
    chosen = parser().parse_args(args)
    if chosen.set in ("open", open_build.PAIRS.set):
        return _open(chosen.version or DataConfig(name="open").version, chosen.card)
    if chosen.card:
        raise UserError(f"expected --card of open; got {chosen.set!r}; leave it out")
    for part in parts_to_fetch(chosen.set, chosen.version):
        print(f"{part.set}/{part.name}: {locate(part)}")
    return 0


def _open(version: str, card: bool) -> int:
    """The files of a version of open; without pairs.tsv, what can be rebuilt of it."""
    if card:
        from tmr_jax.data.datasets import open_card

        print(open_card.card(version))
        return 0
    check_version("open", open_pairs.VERSIONS, version)
    whole = find(open_build.PAIRS) if version != "public" else None
    print(f"pairs: {whole or open_build.locate_built(open_build.PUBLIC)}")
    if version in ("2", "public", "licensed"):
        print(f"captions: {open_build.locate_captions()}")
    if not whole:
        print(open_build.MISSING)
    return 0


def parts_to_fetch(name: str, version: str) -> list[Part]:
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
