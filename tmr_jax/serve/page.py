"""The page: the answers of the API, rendered by templates.

Every address works without scripts. htmx requests the same addresses (HX-Request) and gets only the
part that changes. The templates escape all data; only drawings, which are made here from parsed
molecules, are inserted unescaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from tmr_jax.data.drawing import heat_svg
from tmr_jax.data.features.properties import GROUPS, group_names
from tmr_jax.index.schema import DESCRIPTIONS, FLAGS, MASK, MOLECULES
from tmr_jax.search.explain import Explanation
from tmr_jax.search.hits import Answer, Hit, Query
from tmr_jax.serve.engine import Drawing, SearchEngine
from tmr_jax.serve.errors import Refusal, refusal_of
from tmr_jax.serve.form import ABOUT_SWITCHES, PROPERTIES, SHOWN, Form
from tmr_jax.serve.schemas import MAX_EXPLAINED, MAX_EXPLAINED_WORDS, MAX_TEXT
from tmr_jax.types import UserError

EXAMPLES = (
    "an aromatic amine with chlorine",
    "a steroid with a ketone",
    "a dipeptide",
    "a sugar with a phosphate group",
    "a fatty acid",
)
STRUCTURES = (
    ("aspirin", "CC(=O)Oc1ccccc1C(=O)O"),
    ("caffeine", "Cn1cnc2c1c(=O)n(C)c(=O)n2C"),
    ("glucose", "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O"),
    ("testosterone", "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O"),
    ("palmitic acid", "CCCCCCCCCCCCCCCC(=O)O"),
)
PURPOSE = {
    MOLECULES: "molecules that fit a description",
    DESCRIPTIONS: "descriptions that fit a molecule",
}
CARD, LARGE = (300, 210), (460, 320)  # pixels of drawings


class Card(NamedTuple):
    """A hit as the page shows it."""

    hit: Hit
    svg: Markup | None  # None for a text
    chips: list[tuple[str, str, str]]  # label, value, explanation
    groups: list[str]
    flags: list[str]
    similar: str  # an address, or "" without one
    explain: str  # likewise


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
            "GROUPS": sorted(GROUPS),
            "SWITCHES": ABOUT_SWITCHES,
            "SHOWN": SHOWN,
            "EXAMPLES": EXAMPLES,
            "STRUCTURES": STRUCTURES,
            "MAX_TEXT": MAX_TEXT,
        }

    def render(self, name: str, **values: Any) -> str:
        of = self._engine.of
        common = {"of": of, "of_texts": of == DESCRIPTIONS, "purpose": PURPOSE[of]}
        return self._templates.get_template(name).render(**common, **values)

    async def search(self, form: Form, headers: Mapping[str, str]) -> Response:
        """The page of a form or, for htmx, only its results."""
        # htmx needs the whole page after a step back that is not in its history.
        part = "hx-request" in headers and "hx-history-restore-request" not in headers
        values: dict[str, Any] = {"form": form, "answer": None, "cards": [], "error": None}
        values |= {"drawing": None, "partial": self._engine.partial}
        status = 200
        try:
            if form.molecule and not part:
                values["drawing"] = await self._drawn_query(form.molecule)
            question = form.question(SHOWN[-1])  # every hit is drawn
            if form.asked:
                (answer,) = await self._engine.search([question], self._seconds)
                values["answer"], values["partial"] = answer, answer.partial
                values["cards"] = await self._cards(form, answer)
        except (ValueError, Refusal) as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            values["error"], status = refusal, refusal.status
            if form.by == "molecule":  # it shows the same error
                values["drawing"] = None
        library = self._engine.retriever.library
        assert library is not None
        values["count"] = library.kept
        text = self.render("results.html" if part else "page.html", **values)
        extra = {"vary": "HX-Request"} | ({"hx-push-url": form.address()} if part else {})
        if values["error"] is not None:
            extra |= values["error"].headers
        return HTMLResponse(text, status, extra)

    async def _cards(self, form: Form, answer: Answer) -> list[Card]:
        drawings = [Drawing(hit.content, *CARD) for hit in answer.hits if not hit.is_text]
        drawn = iter(await self._engine.draw(drawings, self._seconds) if drawings else ())
        return [
            _text_card(form, answer.query, hit)
            if hit.is_text
            else _molecule_card(form, answer.query, hit, Markup(next(drawn)))
            for hit in answer.hits
        ]

    async def explanation(self, text: str, smiles: str, headers: Mapping[str, str]) -> Response:
        """The words and atoms that a score comes from."""
        if not text or not smiles:
            raise UserError("expected a description and a SMILES, got less; give both")
        if len(text) > MAX_EXPLAINED or len(smiles) > MAX_TEXT:
            raise UserError(
                f"expected a description of at most {MAX_EXPLAINED:,} characters to explain, got "
                f"{len(text):,}; shorten it"
            )
        explained = await self._engine.explain(text, smiles, self._seconds)
        drawings = [
            Drawing(explained.smiles, *LARGE, explained.atoms),
            Drawing(explained.smiles, *LARGE, numbered=True),
        ]
        coloured, numbered = await self._engine.draw(drawings, self._seconds)
        heat = heat_svg([word.text for word in explained.words], explained.smiles, explained.heat)
        of_texts = self._engine.of == DESCRIPTIONS
        query = Form(molecule=smiles, by="molecule") if of_texts else Form(q=text)
        name = "explanation.html" if "hx-request" in headers else "explanation_page.html"
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

    async def drawing(self, smiles: str) -> Response:
        """The SMILES as it is typed, drawn; a message while it is invalid."""
        drawing = await self._drawn_query(smiles) if smiles else None
        return HTMLResponse(self.render("drawing.html", drawing=drawing))

    async def _drawn_query(self, smiles: str) -> Markup | str:
        """A drawing, or what is wrong with the SMILES."""
        if len(smiles) > MAX_TEXT:
            return f"expected a SMILES of at most {MAX_TEXT:,} characters"
        try:
            await self._engine.check(smiles, self._seconds)
        except ValueError as error:
            return str(error)
        return Markup((await self._engine.draw([Drawing(smiles, *CARD)], self._seconds))[0])

    def error(self, refusal: Refusal, part: bool) -> bytes:
        """An error as HTML: a message in place, or a page of its own."""
        name = "error.html" if part else "error_page.html"
        return self.render(name, error=refusal).encode()


def _molecule_card(form: Form, query: Query, hit: Hit, svg: Markup) -> Card:
    explain = _explanation(query.content, hit.content) if query.of == "text" else ""
    return Card(hit, svg, *_facts(hit), form.like(hit.content), explain)


def _text_card(form: Form, query: Query, hit: Hit) -> Card:
    explain = _explanation(hit.content, query.content) if query.of == "molecule" else ""
    similar = form.like_text(hit.content) if len(hit.content) <= MAX_EXPLAINED else ""
    return Card(hit, None, *_facts(hit), similar, explain)


def _facts(hit: Hit) -> tuple[list[tuple[str, str, str]], list[str], list[str]]:
    """Chips, groups and flags of a hit."""
    chips = [
        (p.label, f"{value:.2f}" if p.name == "logp" else f"{value:.0f}", p.about)
        for p in PROPERTIES
        if (value := hit.columns.get(p.name)) is not None and (value or p.name != "charge")
    ]
    groups = group_names(int(hit.columns[MASK])) if MASK in hit.columns else []
    return chips, groups, [name for name in FLAGS if hit.columns.get(name)]


def _explanation(text: str, smiles: str) -> str:
    """The address of an explanation; "" where the text is too long for one."""
    if len(text) > MAX_EXPLAINED or len(text.split()) > MAX_EXPLAINED_WORDS:
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
