"""Hits as a notebook shows them."""

from __future__ import annotations

from pathlib import Path

import tmr_jax
from tmr_jax.index.schema import Hit
from tmr_jax.search.hits import DRAWN, Hits


def test_a_notebook_draws_hits_and_escapes_names() -> None:
    hits = Hits([Hit(1, 0.25, "CCO", "<script>alert(1)</script>", 0.75), Hit(2, 0.5, "CCN", "b")])
    html = hits._repr_html_()
    assert html.count("<svg") == 2 and "<script" not in html and "&lt;script&gt;" in html
    assert "0.7500 (0.2500)" in html and "0.5000" in html
    assert "<html" not in html and "body{" not in html  # a part of somebody's page


def test_texts_are_shown_as_text() -> None:
    html = Hits([Hit(1, 0.5, "An <b>acid</b>.", "row 1", is_text=True)])._repr_html_()
    assert "<svg" not in html and "An &lt;b&gt;acid&lt;/b&gt;." in html


def test_a_long_list_says_what_is_not_drawn() -> None:
    hit = Hit(1, 0.5, "C", "methane")
    assert "not drawn" not in Hits([hit] * DRAWN)._repr_html_()
    html = Hits([hit] * (DRAWN + 2))._repr_html_()
    assert html.count("<svg") == DRAWN and "2 more hits" in html


def test_searches_of_the_python_api_give_them(tiny_run: Path) -> None:
    library = tmr_jax.load(tiny_run).with_library(["CCO", "CCN"])
    for hits in (library.search("an amine"), library.search_molecule("CCO")):
        assert isinstance(hits, Hits) and hits == list(hits) and len(hits) == 2
