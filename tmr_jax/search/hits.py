"""Hits drawn: in a notebook, and on the pages of `tmr_jax.search.export`."""

from __future__ import annotations

from functools import cache

import jinja2
from markupsafe import Markup

from tmr_jax.cli import printable
from tmr_jax.data.drawing import molecule_svg
from tmr_jax.index.schema import Hit, own_cells

DRAWN = 100  # hits of a list that a notebook draws: more are slow to show
PART = """{% import "grid.jinja" as grid %}
<style>{{ grid.style() }}</style>
{{ grid.figures(hits) }}
{% if rest %}<p>{{ rest }} more hits are in the list, but not drawn.</p>{% endif %}"""


class Hits(list[Hit]):
    """A list of hits, best first, which a notebook shows as drawings."""

    def _repr_html_(self) -> str:
        template = templates().from_string(PART)
        return template.render(hits=self[:DRAWN], rest=len(self[DRAWN:]))


@cache
def templates() -> jinja2.Environment:
    """The templates of hits; all data is escaped."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("tmr_jax.search", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    found.filters |= {"printable": printable, "own": own_cells}
    found.filters["drawing"] = lambda smiles: Markup(molecule_svg(smiles, 260, 200))
    return found
