"""The page's form: from an address to a query, and back.

The address holds the whole search, so it can be shared, bookmarked and revisited. It leaves out
empty fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlencode

from tmr_jax.data.features.properties import GROUPS
from tmr_jax.index.schema import DESCRIPTIONS, MOLECULES
from tmr_jax.search.filters import SWITCHES, parse_filter
from tmr_jax.search.hits import Query
from tmr_jax.serve.schemas import MAX_K, MAX_SMARTS, MAX_TEXT, MAX_WORDS, check_spread
from tmr_jax.types import UserError


class Property(NamedTuple):
    name: str  # as filters call it
    label: str
    about: str


PROPERTIES = (
    Property("mw", "MW", "molecular weight, g/mol"),
    Property("logp", "logP", "Crippen's estimate"),
    Property("tpsa", "TPSA", "polar surface area, Å²"),
    Property("hbd", "HBD", "donors of hydrogen bonds"),
    Property("hba", "HBA", "acceptors of hydrogen bonds"),
    Property("rings", "Rings", "rings"),
    Property("charge", "Charge", "formal charge"),
)
SHOWN = (12, 24, 48, 96)
ABOUT_SWITCHES = {
    "unsalted": "single parts only, no salts",
    "distinct": "each molecule once",
    "parents": "once whatever its salt and charge",
}
assert set(ABOUT_SWITCHES) == set(SWITCHES)


class AppliedFilter(NamedTuple):
    text: str  # as tmr_jax.search.filters reads it
    label: str  # on the page
    field: str  # its name in an address
    value: str


@dataclass(frozen=True)
class Form:
    """The fields as typed."""

    q: str = ""
    molecule: str = ""
    by: str = "text"
    k: str = ""
    spread: str = ""
    substructure: str = ""
    least: tuple[tuple[str, str], ...] = ()  # property, number
    most: tuple[tuple[str, str], ...] = ()
    groups: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        return self.molecule if self.by == "molecule" else self.q

    @property
    def applied(self) -> list[AppliedFilter]:
        labels = {p.name: p.label for p in PROPERTIES}
        return [
            *(
                AppliedFilter(f"{n}>={x}", f"{labels[n]} ≥ {x}", f"{n}_min", x)
                for n, x in self.least
            ),
            *(
                AppliedFilter(f"{n}<={x}", f"{labels[n]} ≤ {x}", f"{n}_max", x)
                for n, x in self.most
            ),
            *(AppliedFilter(name, name, "with", name) for name in self.groups),
            *(AppliedFilter(f"!{name}", f"no {name}", "without", name) for name in self.without),
            *(AppliedFilter(name, name, name, "on") for name in self.switches),
        ]

    @property
    def filters(self) -> list[str]:
        """As tmr_jax.search.filters reads them."""
        return [applied.text for applied in self.applied]

    def pairs(self, dropped: str = "") -> list[tuple[str, str]]:
        """Names and values of the address, without empty fields, defaults and a dropped filter."""
        plain = [
            ("by", "" if self.by == "text" else self.by),
            ("q", self.q),
            ("molecule", self.molecule),
            ("k", self.k),
            ("spread", "" if self.spread == "0" else self.spread),
            ("substructure", self.substructure),
            *((x.field, x.value) for x in self.applied if x.text != dropped),
        ]
        return [(name, value) for name, value in plain if value]

    def address(self, path: str = "/") -> str:
        return f"{path}?{urlencode(self.pairs())}"

    def like(self, smiles: str) -> str:
        """The address of a search for similar molecules with the same filters."""
        kept = [(n, v) for n, v in self.pairs() if n not in ("by", "molecule")]
        return "/?" + urlencode([("by", "molecule"), ("molecule", smiles), *kept])

    def like_text(self, text: str) -> str:
        """The address of a search for similar descriptions."""
        kept = [(n, v) for n, v in self.pairs() if n not in ("by", "q")]
        return "/?" + urlencode([("q", text), *kept])

    def without_filter(self, text: str) -> str:
        """The address without one filter."""
        return "/?" + urlencode(self.pairs(text))

    def question(self, most: int = MAX_K) -> Query:
        """The query, for at most `most` hits; ValueError in the terms of the page if invalid."""
        _check_length("a description or SMILES", self.asked, MAX_TEXT)
        _check_length("a pattern", self.substructure, MAX_SMARTS)
        if len(self.filters) > MAX_WORDS:
            raise UserError(f"expected at most {MAX_WORDS} filters, got more; drop some")
        for name in (*self.groups, *self.without):
            if name not in GROUPS:  # parse_filter takes switches there, too
                parse_filter([name, f"!{name}"])
        where = parse_filter(self.filters) if self.filters else None
        k = int(_number("how many to show", self.k or str(SHOWN[0]), 1, most))
        spread = _number("a spread", self.spread or "0", 0, 1)
        check_spread(k, spread)
        of = "molecule" if self.by == "molecule" else "text"
        return Query(self.asked, of, k, where, self.substructure, spread)


def form_of(query: Iterable[tuple[str, str]], of: str = MOLECULES) -> Form:
    """The form of an address, without unknown names.

    Without `by` in the address, the query is the text; in a library `of` descriptions, where the
    address has no text, the structure.
    """
    pairs = [(name, value.strip()) for name, value in query]
    last = dict(pairs)
    by = last.get("by") or ("molecule" if of == DESCRIPTIONS and not last.get("q") else "text")

    def every(name: str) -> tuple[str, ...]:
        listed = (part.strip() for n, v in pairs if n == name for part in v.split(","))
        return tuple(dict.fromkeys(part for part in listed if part))

    def numbers(side: str) -> tuple[tuple[str, str], ...]:
        typed = ((p.name, last.get(f"{p.name}_{side}", "")) for p in PROPERTIES)
        return tuple((name, number) for name, number in typed if number)

    return Form(
        q=last.get("q", ""),
        molecule=last.get("molecule", ""),
        by="molecule" if by == "molecule" else "text",
        k=last.get("k", ""),
        spread=last.get("spread", ""),
        substructure=last.get("substructure", ""),
        least=numbers("min"),
        most=numbers("max"),
        groups=every("with"),
        without=every("without"),
        switches=tuple(name for name in SWITCHES if last.get(name)),
    )


def _check_length(what: str, text: str, most: int) -> None:
    if len(text) > most:
        raise UserError(f"expected {what} of at most {most:,} characters, got {len(text):,}")


def _number(what: str, text: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise UserError(
            f"expected {what} from {least:g} to {most:g}, got {text[:40]!r}; correct it"
        )
    return number
