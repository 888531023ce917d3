"""Addresses to questions and back."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest

from tmr_jax.index.schema import DESCRIPTIONS, parse_filter
from tmr_jax.serve.page import Form, form_of


def read(address: str) -> Form:
    return form_of(parse_qsl(urlsplit(address).query, keep_blank_values=True))


def test_an_address_is_a_question_and_the_question_an_address() -> None:
    full = (
        "/?q=an+acid&k=24&spread=0.5&substructure=c1ccccc1&mw_min=100&mw_max=500&charge_max=0"
        "&with=nitrile&with=ester&without=nitro&unsalted=on"
    )
    form = read(full)
    question = form.question()
    assert question.content == "an acid" and question.k == 24 and question.diversity == 0.5
    words = ["mw>=100", "mw<=500", "charge<=0", "nitrile", "ester", "!nitro", "unsalted"]
    assert form.filters == words and question.where == parse_filter(words)
    assert form.address() == full and read(form.address()) == form


def test_a_page_is_a_part_of_the_hits() -> None:
    form = read("/?q=x&k=24&page=3")
    assert form.place() == (3, 48, 72) and form.question().k == 72
    assert read(form.address()) == form and read("/?q=x&page=1").address() == "/?q=x"
    assert read("/?q=x&k=96&page=11").place() == (11, 960, 1000)
    # Another search starts at its first page.
    assert "page" not in form.like(q="y") + form.narrowed("nitrile") + form.bare.address()
    filtered = read("/?q=x&page=2&with=nitrile")
    assert filtered.address(dropped="nitrile") == "/?q=x"


def test_empty_fields_are_no_filters() -> None:
    form = read("/?q=x&mw_min=&mw_max=&with=&without=&k=&spread=0&by=text&molecule=")
    assert form.address() == "/?q=x" and form.question().where is None


def test_groups_may_be_listed_in_one_field() -> None:
    assert read("/?with=nitrile,+ester,nitrile").groups == ("nitrile", "ester")


@pytest.mark.parametrize("word", ["mw>=100", "mw<=500", "nitrile", "!nitro", "unsalted"])
def test_a_filter_is_dropped_by_its_word(word: str) -> None:
    form = read("/?q=x&mw_min=100&mw_max=500&with=nitrile&without=nitro&unsalted=on")
    rest = read(form.address(dropped=word))
    assert rest.filters == [w for w in form.filters if w != word] and rest.q == "x"


def test_the_like_of_a_hit_is_looked_for_under_the_same_filters() -> None:
    form = read(read("/?q=an+acid&with=nitrile").like(by="molecule", molecule="CC#N"))
    question = form.question()
    assert (question.of, question.content) == ("molecule", "CC#N") and question.where
    assert form.q == "an acid"  # and the text is there to go back to


@pytest.mark.parametrize(
    ("address", "by"),
    [
        ("/", "molecule"),
        ("/?q=", "molecule"),
        ("/?molecule=CCO", "molecule"),
        ("/?q=an+acid", "text"),
        ("/?q=an+acid&by=molecule&molecule=C", "molecule"),
        ("/?by=text&q=", "text"),
    ],
)
def test_descriptions_are_asked_for_by_structure_unless_told(address: str, by: str) -> None:
    pairs = parse_qsl(urlsplit(address).query, keep_blank_values=True)
    form = form_of(pairs, DESCRIPTIONS)
    assert form.by == by
    # What it is written as means the same.
    assert form_of(form.pairs(), DESCRIPTIONS) == form or address == "/?by=text&q="
    assert form_of(pairs).by == ("molecule" if "by=molecule" in address else "text")


def test_the_like_of_a_text_is_looked_for() -> None:
    form = form_of([("by", "molecule"), ("molecule", "CCO"), ("k", "24")], DESCRIPTIONS)
    again = read(form.like(q="an acid & more"))
    assert (again.by, again.q, again.molecule, again.k) == ("text", "an acid & more", "CCO", "24")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/?q=x&mw_max=heavy", "mw<=heavy"),
        ("/?q=x&with=nitril", "nitrile"),
        ("/?q=x&k=0", "from 1 to 1000"),
        ("/?q=x&k=nan", "nan"),
        ("/?q=x&spread=2", "from 0 to 1"),
        ("/?q=x&page=0", "from 1 to 84"),
        ("/?q=x&k=96&page=next", "from 1 to 11"),
        ("/?q=" + "x" * 10_001, "10,000"),
    ],
)
def test_what_cannot_be_asked_is_said(address: str, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        read(address).question()
    assert message in str(error.value)


@pytest.mark.parametrize(
    "stated, filters",
    [
        ("nitrile", ["nitrile"]),
        ("!nitro", ["!nitro"]),
        ("unsalted", ["unsalted"]),
        ("mw<300", ["mw<=300"]),
        ("rings>=2", ["rings>=2"]),
        ("charge=-1", ["charge>=-1", "charge<=-1"]),
    ],
)
def test_what_a_text_states_becomes_a_filter(stated: str, filters: list[str]) -> None:
    form = read(read("/?q=x&with=ester").narrowed(stated))
    assert form.q == "x" and sorted(form.filters) == sorted(["ester", *filters])
