"""Which texts say what a text of an evaluated molecule says; by hand, and on the real tables."""

from __future__ import annotations

import re

import pytest

from tmr_jax.data.overlap import Row, Texts, clean_of, evaluated, words

TEN = "one two three four five six seven eight nine ten"  # three runs of eight words


@pytest.mark.parametrize(
    "text, share",
    [
        (TEN, 1.0),
        ("One, two: (three) four-five six seven eight; nine TEN.", 1.0),
        ("one two three <em>four</em> five six seven eight and more", 1 / 3),
        ("one two three four five six seven eight nine and", 2 / 3),
        (f"zero {TEN} eleven twelve", 1.0),  # the shorter text is all in the longer one
        ("two three four five", 1.0),  # too short for a run: all of it is in the text
        ("two three five", 0.0),
        ("wo three four", 0.0),  # only whole words
        ("a b c d e f g h i j", 0.0),
        ("", 0.0),
    ],
)
def test_overlap_by_hand(text: str, share: float) -> None:
    assert Texts([TEN, "another text of more than eight words is not near"]).overlap(text) == (
        pytest.approx(share)
    )


def test_runs_of_two_texts_do_not_add_up() -> None:
    both = Texts(["a b c d e f g h x", "b c d e f g h i y"])
    assert both.overlap("a b c d e f g h i j") == pytest.approx(1 / 2)


def test_rows_are_kept_or_dropped_with_a_reason() -> None:
    rows = [
        Row("1", "a class", "Any molecule with nothing that anybody has ever evaluated in it."),
        Row("2", "another", TEN.upper()),
        Row("3", "α-D Glucose", "A sugar."),
        Row("4", "a third", f"{TEN} eleven twelve thirteen"),
        Row("5", "", "A sugar."),
        Row("6", "", "one two three four five six seven eight nine and"),
        Row("7", "", "one two three four five six seven eight and more"),
    ]
    kept, dropped = clean_of(rows, [TEN], ["alpha-d-glucose", ""])
    assert [row.id for row in kept] == ["1", "5", "7"]
    assert [(row.id, why) for row, why in dropped] == [
        ("2", "text"),
        ("3", "name"),
        ("4", "near text"),
        ("6", "near text"),
    ]
    assert clean_of(kept, [TEN], ["alpha-d-glucose"]) == (kept, [])


@pytest.mark.costly
@pytest.mark.real_data
def test_the_committed_lists_are_those_that_the_filter_finds() -> None:
    from tmr_jax.data.datasets import chebi, open_pairs
    from tools.make.dropped import definitions, texts

    assert texts() == (chebi.FOLDER / open_pairs.DROPPED).read_text("utf-8").split()
    found = definitions()
    listed = (chebi.FOLDER / chebi.DROPPED).read_text("utf-8").split()
    assert [row.id for row, _ in found] == listed
    clean = [*chebi.definitions()]
    assert len(clean) == 4157 - len(listed)
    assert not {d.chebi_id for d in clean} & set(listed)


@pytest.mark.costly
@pytest.mark.real_data
def test_no_first_sentence_of_a_test_text_is_left() -> None:
    """By another way: the first sentence without subject and article, compared as a whole."""
    from tmr_jax.data.datasets import chebi

    def core(text: str) -> str:
        first = re.split(r"(?<=[.])\s+(?=[A-Z])", text)[0].lower()
        bare = re.sub(r"^the molecule (is|are) ", "", first)
        return " ".join(words(re.sub(r"^(an?|the|any) ", "", bare)))

    cores = {core(text) for text in evaluated()[0] if text.startswith("The molecule")}
    same = {d.chebi_id for d in chebi.all_definitions() if core(d.definition) in cores}
    assert len(same) >= 48
    assert not same & {d.chebi_id for d in chebi.definitions()}
