"""The structure that a query names: by the package's ChEBI terms, else by OPSIN where it is there.

Only searches look names up. No evaluation does, or its scores would be those of a dictionary.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.features.text import normal_name
from tmr_jax.search.opsin import LONGEST, Opsin

OPSIN = Opsin()  # of this program; its process starts with the first name that ChEBI lacks


class Match(NamedTuple):
    """A name and its structure."""

    name: str  # as the source writes it
    smiles: str
    source: str  # a ChEBI id, or "OPSIN"


def structure_of(name: str) -> Match | None:
    """The structure of a common or systematic chemical name; None for any other text.

    Case, Greek letters, hyphens and white space do not count. Without py2opsin or Java only the
    names of ChEBI's terms are known. A plural names no structure: "indoles" is a class.
    """
    if len(name) > LONGEST:
        return None
    name = " ".join(name.split())
    if match := _terms().get(name.casefold()) or _terms().get(normal_name(name)):
        return match
    smiles = OPSIN.smiles(name)
    try:
        return Match(name, smiles, "OPSIN") if smiles and parse_smiles(smiles) else None
    except BadMolecule:
        return None


@cache
def _terms() -> dict[str, Match]:
    """ChEBI's terms by name, and by `normal_name` where that is the name of one structure."""
    from tmr_jax.data.datasets import chebi

    exact: dict[str, Match] = {}
    normal: dict[str, list[Match]] = {}
    for term in chebi.terms():
        match = Match(term.name, term.smiles, term.chebi_id)
        exact.setdefault(term.name.casefold(), match)
        normal.setdefault(normal_name(term.name), []).append(match)
    alone = {key: found[0] for key, found in normal.items() if len({m.smiles for m in found}) == 1}
    return alone | exact
