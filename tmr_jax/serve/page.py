"""The page: an address as a query, and the answers of the API rendered by templates.

The address holds the whole search, so it can be shared, bookmarked and revisited. It leaves out
empty fields. Every address works without scripts. htmx requests the same addresses (HX-Request) and
gets only the part that changes. The templates escape all data; only drawings, which are made here
from parsed molecules, are inserted unescaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tmr_jax.data.drawing import heat_svg
from tmr_jax.data.features.properties import NAMED, names_of
from tmr_jax.index.schema import (
    DESCRIPTIONS,
    FLAGS,
    MOLECULES,
    SWITCHES,
    Hit,
    own_cells,
    parse_filter,
)
from tmr_jax.search.explain import Explanation
from tmr_jax.search.retriever import Answer, Query
from tmr_jax.serve import schemas
from tmr_jax.serve.engine import Drawing, SearchEngine
from tmr_jax.types import UserError

# The drawing board is a page of its own: its program writes scripts and styles into itself.
SKETCH_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
CARD, LARGE = (300, 210), (460, 320)  # pixels of drawings
MARK = 0.6  # weight of the atoms of a substructure, by which they are coloured


# The form


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
OWN = 6  # columns of the file on a card; a click shows the others
ABOUT_SWITCHES = {
    "unsalted": "single parts only, no salts",
    "distinct": "each molecule once",
    "parents": "once whatever its salt and charge",
}
assert set(ABOUT_SWITCHES) == set(SWITCHES)
SMARTS = "substructure"  # the field of an address


class AppliedFilter(NamedTuple):
    text: str  # as tmr_jax.index.schema reads it, or SMARTS
    label: str  # on the page
    field: str  # its name in an address
    value: str


class Place(NamedTuple):
    """A page of hits."""

    page: int  # from 1
    start: int  # hits before it
    end: int  # hits up to its last


@dataclass(frozen=True)
class Form:
    """The fields as typed."""

    q: str = ""
    molecule: str = ""
    by: str = "text"
    k: str = ""
    page: str = ""
    spread: str = ""
    substructure: str = ""
    least: tuple[tuple[str, str], ...] = ()  # property, number
    most: tuple[tuple[str, str], ...] = ()
    groups: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    where: tuple[str, ...] = ()  # conditions on columns of the file

    @property
    def asked(self) -> str:
        return self.molecule if self.by == "molecule" else self.q

    @property
    def applied(self) -> list[AppliedFilter]:
        """All filters, each with what removes it; the substructure comes first."""
        pattern = self.substructure
        labels = {p.name: p.label for p in PROPERTIES}
        bounds = [("min", ">=", "≥", self.least), ("max", "<=", "≤", self.most)]
        return [
            *([AppliedFilter(SMARTS, pattern, SMARTS, pattern)] if pattern else ()),
            *(
                AppliedFilter(f"{n}{sign}{x}", f"{labels[n]} {shown} {x}", f"{n}_{side}", x)
                for side, sign, shown, numbers in bounds
                for n, x in numbers
            ),
            *(AppliedFilter(name, name, "with", name) for name in self.groups),
            *(AppliedFilter(f"!{name}", f"no {name}", "without", name) for name in self.without),
            *(AppliedFilter(name, name, name, "on") for name in self.switches),
            *(AppliedFilter(word, word, "where", word) for word in self.where),
        ]

    @property
    def filters(self) -> list[str]:
        """As tmr_jax.index.schema reads them."""
        return [applied.text for applied in self.applied if applied.field != SMARTS]

    def pairs(self, dropped: str = "") -> list[tuple[str, str]]:
        """Names and values of the address, without empty fields, defaults and a dropped filter.

        Fewer filters are another search, which starts at its first page.
        """
        plain = [
            ("by", "" if self.by == "text" else self.by),
            ("q", self.q),
            ("molecule", self.molecule),
            ("k", self.k),
            ("page", "" if dropped or self.page == "1" else self.page),
            ("spread", "" if self.spread == "0" else self.spread),
            *((x.field, x.value) for x in self.applied if x.text != dropped),
        ]
        return [(name, value) for name, value in plain if value]

    def address(self, path: str = "/", dropped: str = "") -> str:
        """The address of this search, without one of its filters where `dropped` names one."""
        return f"{path}?{urlencode(self.pairs(dropped))}"

    @property
    def bare(self) -> Form:
        """The same query without any filter."""
        return Form(self.q, self.molecule, self.by, self.k, spread=self.spread)

    def narrowed(self, where: str) -> str:
        """The address of this search with one more filter, as parse_filter takes it."""
        condition = next(iter(parse_filter([where]).conditions), None)
        if condition is None:
            absent = where.startswith("!")
            name = where.removeprefix("!")
            extra = [(name, "on") if name in SWITCHES else ("without" if absent else "with", name)]
        else:  # the form has the ends of ranges only
            sides = [("min", ">="), ("max", "<=")]
            bound = f"{condition.number:g}"
            extra = [
                (f"{condition.column}_{side}", bound)
                for side, sign in sides
                if condition.sign[0] in (sign[0], "=")
            ]
        return "/?" + urlencode([*replace(self, page="").pairs(), *extra])

    def like(self, **query: str) -> str:
        """The address of a search for similar items with the same filters."""
        rest = [(name, value) for name, value in self.pairs() if name not in ("by", "page", *query)]
        return "/?" + urlencode([*query.items(), *rest])

    def place(self, most: int = schemas.MAX_K) -> Place:
        """Which page this is; UserError for one that is not shown."""
        k = int(_number("how many to show", self.k or str(SHOWN[0]), 1, most))
        # Hits that differ from each other are chosen together, for each number of them again.
        pages = 1 if self.variety else math.ceil(schemas.MAX_K / k)
        page = int(_number("a page", self.page or "1", 1, pages))
        return Place(page, (page - 1) * k, min(page * k, schemas.MAX_K))

    @property
    def variety(self) -> float:
        return _number("a spread", self.spread or "0", 0, 1)

    def question(
        self, most: int = schemas.MAX_K, columns: Mapping[str, str] = MappingProxyType({})
    ) -> Query:
        """The query for the hits of this page, at most `most`, and for all before them.

        `columns` are those of the file, see `parse_filter`. UserError in the terms of the page if
        invalid.
        """
        _check_length("a description or SMILES", self.asked, schemas.MAX_TEXT)
        _check_length("a pattern", self.substructure, schemas.MAX_SMARTS)
        for word in self.where:
            _check_length("a filter", word, schemas.MAX_WORD)
        if len(self.filters) > schemas.MAX_WORDS:
            raise UserError(f"expected at most {schemas.MAX_WORDS} filters, got more; drop some")
        for name in (*self.groups, *self.without):
            if name not in NAMED:  # parse_filter takes switches there, too
                parse_filter([name, f"!{name}"])
        where = parse_filter(self.filters, columns) if self.filters else None
        k, spread = self.place(most).end, self.variety
        schemas.check_spread(k, spread)
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
        page=last.get("page", ""),
        spread=last.get("spread", ""),
        substructure=last.get("substructure", ""),
        least=numbers("min"),
        most=numbers("max"),
        groups=every("with"),
        without=every("without"),
        switches=tuple(name for name in SWITCHES if last.get(name)),
        where=tuple(dict.fromkeys(word for name, word in pairs if name == "where" and word)),
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


# The page


class Card(NamedTuple):
    """A hit as the page shows it."""

    hit: Hit
    svg: Markup | None  # None for a text
    chips: list[tuple[str, str, str]]  # label, value, explanation
    groups: list[str]
    flags: list[str]
    similar: str  # an address, or "" without one
    explain: str  # likewise
    own: list[tuple[str, str]]  # columns of the file and their cells, without empty ones


class Shown(NamedTuple):
    """Which hits a page shows, and what is known of the others."""

    first: int  # rank of the first
    passing: int  # items that meet the filters
    is_exact: bool  # False: at most so many
    before: str  # address of the page before, or ""
    after: str  # likewise
    is_end: bool  # more may pass, but no page shows them


class Page:
    """Renders answers."""

    def __init__(self, engine: SearchEngine, seconds: float) -> None:
        self._engine, self._seconds = engine, seconds
        self._templates = Environment(
            loader=PackageLoader("tmr_jax.serve"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {
            "PROPERTIES": PROPERTIES,
            "GROUPS": sorted(NAMED),
            "SWITCHES": ABOUT_SWITCHES,
            "SHOWN": SHOWN,
            "MAX_TEXT": schemas.MAX_TEXT,
            "MAX_WORD": schemas.MAX_WORD,
            "OWN": OWN,
            "large": _large,
        }

    def render(self, name: str, **values: Any) -> str:
        library = self._engine.library
        template = self._templates.get_template(name)
        shared = {"of": library.of, "of_texts": library.of_texts, "columns": library.columns}
        return template.render(**shared, **values)

    async def search(self, request: Request) -> Response:
        """The page of a form or, for htmx, only its results."""
        form = form_of(request.query_params.multi_items(), self._engine.library.of)
        # htmx needs the whole page after a step back that is not in its history.
        headers = request.headers
        part = "hx-request" in headers and "hx-history-restore-request" not in headers
        values: dict[str, Any] = {"form": form, "answer": None, "cards": [], "error": None}
        values |= {"drawing": None, "partial": self._engine.partial, "shown": None}
        status = 200
        try:
            if form.molecule and not part:
                values["drawing"] = await self._drawn_query(form.molecule)
            columns = self._engine.library.columns
            question = form.question(SHOWN[-1], columns)  # every hit is drawn
            if form.asked:
                (answer,) = await self._engine.search([question], self._seconds)
                values["shown"] = await self._shown(form, answer)
                answer = answer._replace(hits=answer.hits[form.place().start :])
                values["answer"], values["partial"] = answer, answer.partial
                values["cards"] = await self._cards(form, answer)
        except (ValueError, schemas.Refusal) as error:
            refusal = schemas.refusal_of(error)
            if refusal is None:
                raise
            values["error"], status = refusal, refusal.status
            if form.by == "molecule":  # it shows the same error
                values["drawing"] = None
        library, checkpoint = self._engine.library, self._engine.retriever.checkpoint
        values |= {"count": library.kept, "part": part}
        values["examples"] = self._engine.examples
        values["library"] = library._replace(source=Path(library.source).name)
        values["model"] = {"name": self._engine.retriever.name, **checkpoint._asdict()}
        text = self.render("results.html" if part else "page.html", **values)
        extra = {"vary": "HX-Request"} | ({"hx-push-url": form.address()} if part else {})
        if values["error"] is not None:
            extra |= values["error"].headers
        return HTMLResponse(text, status, extra)

    async def _shown(self, form: Form, answer: Answer) -> Shown:
        """The place of a page among all hits of `answer`, which end with those of the page."""
        place, query, found = form.place(), answer.query, len(answer.hits)
        where, is_all = query.where, found < query.k and answer.looked is None
        is_exact = not query.substructure and not (where and where.repeats)
        if is_all and not is_exact:
            passing, is_exact = found, True
        else:
            passing = await self._engine.count(where, self._seconds)
        more = found == place.end < passing
        is_end = more and (place.end == schemas.MAX_K or bool(query.diversity))
        turned = [replace(form, page=str(place.page + step)).address() for step in (-1, 1)]
        return Shown(
            place.start + 1,
            passing,
            is_exact,
            turned[0] if place.start else "",
            turned[1] if more and not is_end else "",
            is_end,
        )

    async def _cards(self, form: Form, answer: Answer) -> list[Card]:
        drawings = [
            Drawing(hit.content, *CARD, tuple(MARK * held for held in hit.held) or None)
            for hit in answer.hits
            if not hit.is_text
        ]
        drawn = iter(await self._engine.draw(drawings, self._seconds) if drawings else ())
        return [
            _card(form, answer.query, hit, None if hit.is_text else Markup(next(drawn)))
            for hit in answer.hits
        ]

    async def explanation(self, request: Request) -> Response:
        """The words and atoms that a score comes from."""
        text, smiles = (request.query_params.get(name, "") for name in ("q", "smiles"))
        if not text or not smiles:
            raise UserError("expected a description and a SMILES, got less; give both")
        if len(text) > schemas.MAX_EXPLAINED or len(smiles) > schemas.MAX_TEXT:
            raise UserError(
                f"expected a description of at most {schemas.MAX_EXPLAINED:,} characters to "
                f"explain, got {len(text):,}; shorten it"
            )
        explained = await self._engine.explain(text, smiles, self._seconds)
        drawings = [
            Drawing(explained.smiles, *LARGE, explained.atoms),
            Drawing(explained.smiles, *LARGE, numbered=True),
        ]
        coloured, numbered = await self._engine.draw(drawings, self._seconds)
        heat = heat_svg([word.text for word in explained.words], explained.smiles, explained.heat)
        of_texts = self._engine.library.of_texts
        query = Form(molecule=smiles, by="molecule") if of_texts else Form(q=text)
        name = "explanation.html" if "hx-request" in request.headers else "explanation_page.html"
        page = self.render(
            name,
            explanation=explained,
            pieces=_pieces(explained),
            svg=Markup(coloured),
            numbered=Markup(numbered),
            heat=Markup(heat),
            back=query.address(),
        )
        return HTMLResponse(page, headers={"vary": "HX-Request"})

    async def sketch(self) -> Response:
        headers = {"content-security-policy": SKETCH_POLICY}
        return HTMLResponse(self.render("sketch.html"), headers=headers)

    async def drawing(self, request: Request) -> Response:
        """The SMILES as it is typed, drawn; a message while it is invalid."""
        smiles = request.query_params.get("molecule", "")
        drawing = await self._drawn_query(smiles) if smiles else None
        return HTMLResponse(self.render("drawing.html", drawing=drawing))

    async def _drawn_query(self, smiles: str) -> Markup | str:
        """A drawing, or what is wrong with the SMILES."""
        if len(smiles) > schemas.MAX_TEXT:
            return f"expected a SMILES of at most {schemas.MAX_TEXT:,} characters"
        try:
            await self._engine.check(smiles, self._seconds)
        except ValueError as error:
            return str(error)
        return Markup((await self._engine.draw([Drawing(smiles, *CARD)], self._seconds))[0])

    def error(self, refusal: schemas.Refusal, part: bool) -> bytes:
        """An error as HTML: a message in place, or a page of its own."""
        name = "error.html" if part else "error_page.html"
        return self.render(name, error=refusal).encode()


def _card(form: Form, query: Query, hit: Hit, svg: Markup | None) -> Card:
    chips = [
        (p.label, f"{value:.2f}" if p.name == "logp" else f"{value:.0f}", p.about)
        for p in PROPERTIES
        if (value := hit.columns.get(p.name)) is not None and (value or p.name != "charge")
    ]
    named = () if hit.is_text or not hit.columns else names_of(hit.columns).values()
    flags = [name for name in FLAGS if hit.columns.get(name)]
    if hit.is_text:
        similar = form.like(q=hit.content) if len(hit.content) <= schemas.MAX_EXPLAINED else ""
    else:
        similar = form.like(by="molecule", molecule=hit.content)
    explain = ""
    if hit.is_text != (query.of == "text"):
        pair = (hit.content, query.content) if hit.is_text else (query.content, hit.content)
        explain = _explanation(*pair)
    own = [(name, str(cell)) for name, cell in own_cells(hit).items() if cell is not None]
    return Card(hit, svg, chips, [*chain(*named)], flags, similar, explain, own)


def _large(smiles: str) -> str:
    """The address of a large drawing."""
    width, height = (2 * side for side in LARGE)
    return "/api/molecule.svg?" + urlencode({"smiles": smiles, "width": width, "height": height})


def _explanation(text: str, smiles: str) -> str:
    """The address of an explanation; "" where the text is too long for one."""
    if len(text) > schemas.MAX_EXPLAINED or len(text.split()) > schemas.MAX_EXPLAINED_WORDS:
        return ""
    return "/explain?" + urlencode({"q": text, "smiles": smiles})


def _pieces(explanation: Explanation) -> list[tuple[str, int]]:
    """The text in pieces, each with a shade from 0 to 4."""
    pieces: list[tuple[str, int]] = []
    at = 0
    for word in explanation.words:
        pieces.append((explanation.text[at : word.start], 0))
        pieces.append((explanation.text[word.start : word.end], round(4 * word.weight)))
        at = word.end
    pieces.append((explanation.text[at:], 0))
    return [piece for piece in pieces if piece[0]]
