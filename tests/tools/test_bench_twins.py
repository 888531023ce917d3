"""Twins: which molecules are a pair, what their texts differ in, and how often one is nearer."""

from __future__ import annotations

import importlib
import json
from typing import ClassVar

import numpy as np
import pytest

from tmr_jax.data.features.facts import FACTS, PLACE
from tmr_jax.eval.facts import OVER, STATES, FactsTable
from tmr_jax.models.encode import Encoded

TOOL = importlib.import_module("tools.bench.twins")
L, D, PLAIN = "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)O"
ANION = "C[C@H](N)C(=O)[O-]"
BLOCK = "QNAYBMKLOCPYGJ"  # of alanine


def twins(*rows: tuple[str, str]):
    return TOOL.twins([TOOL.Row(text, smiles, True) for text, smiles in rows])


def kinds(*rows: tuple[str, str]) -> list[str]:
    return [pair.kind for pair in twins(*rows)]


def test_stereoisomers_by_what_their_texts_differ_in() -> None:
    assert kinds(("L-alanine", L), ("D-alanine", D)) == [TOOL.WORDS]
    assert kinds(("an L-amino acid", L), ("a D-amino acid of bacteria", D)) == [TOOL.STEREO]
    assert kinds(("an amino acid", L), ("an amino acid", D)) == [TOOL.SAME]
    assert kinds(("the (2E)-isomer", "C/C=C/C"), ("the (2Z)-isomer", "C/C=C\\C")) == [TOOL.WORDS]


def test_charge_states_share_their_stereo_marks() -> None:
    assert kinds(("an acid", L), ("an anion", ANION)) == [TOOL.CHARGE]
    assert kinds(("an acid", D), ("an anion", ANION)) == []
    assert kinds(("a zwitterion", "C[C@H]([NH3+])C(=O)[O-]"), ("an acid", L)) == []


def test_what_is_no_pair() -> None:
    assert kinds(("alanine", PLAIN), ("L-alanine", L)) == []  # the first text fits both
    assert kinds(("one", "CC=O"), ("other", "C=CO")) == []  # tautomers of one connectivity
    assert kinds(("one", "CC"), ("other", "CCC")) == []
    assert kinds(("the nuclide 201", "[201Po]"), ("the nuclide 210", "[210Po]")) == []  # isotopes
    assert kinds(("one", "*C"), ("other", "*C")) == []


def test_the_first_text_of_a_molecule_counts_however_it_is_written() -> None:
    (pair,) = twins(("a", L), ("b", D), ("c", "OC(=O)[C@H](C)N"), ("d", "C1CC"))
    assert (pair.one.text, pair.other.text, pair.block) == ("a", "b", BLOCK)


@pytest.mark.parametrize(
    "one, other, equal",
    [
        ("the (2R,3S)-diastereomer", "the (2S,3S)-isomer", True),
        ("5alpha-androstan-3beta-ol", "5beta-androstan-3alpha-ol", True),
        ("a D-hexose, (+)-form", "an L-hexose, (-)-form", False),  # "a" and "an"
        ("cis-but-2-ene", "trans-but-2-ene", True),
        ("a drug", "a toxin", False),
        ("substituted at position 2", "substituted at position 3", False),
        ("a beta blocker", "an alphabet", False),
    ],
)
def test_words_of_stereochemistry(one: str, other: str, equal: bool) -> None:
    assert (TOOL.without_stereo(one) == TOOL.without_stereo(other)) is equal


def test_the_interval_resamples_groups_not_pairs() -> None:
    values = np.array([1.0, 1.0, 1.0, 0.0])
    assert TOOL.interval(values, ["a", "a", "a", "b"]) == [0.0, 1.0]
    low, high = TOOL.interval(np.tile([1.0, 0.0], 200), [str(i // 2) for i in range(400)])
    assert low == high == 0.5


class Model:
    """Knows L from D by an axis, has no eye for charge, and is wrong about cis and trans."""

    checkpoint: ClassVar = {"which": "best", "step": 7, "sha256": "0"}
    texts_on_first = ("L", "C", "Z")  # first letters
    on_first = (L, ANION, "C/C=C/C")

    def texts(self, texts):
        return self.encoded([text[0] in self.texts_on_first for text in texts])

    def molecules(self, smiles):
        return self.encoded([one in self.on_first for one in smiles]), np.arange(len(smiles))

    def encoded(self, first):
        first = np.array(first)
        return Encoded(np.float32(np.stack([first, ~first], 1)), first.astype(int))


ROWS = [
    TOOL.Row("L-alanine", L, True),
    TOOL.Row("D-alanine", D, True),
    TOOL.Row("Charged", ANION, False),
    TOOL.Row("E-butene", "C/C=C/C", True),
    TOOL.Row("Z-butene", "C/C=C\\C", True),
]


def test_each_text_of_a_pair_asks_and_one_input_is_a_tie() -> None:
    record = TOOL.measure(Model(), TOOL.twins(ROWS), frozenset())
    whole, *more = record["kinds"]
    assert (whole["kind"], whole["texts"], whole["pairs"]) == (TOOL.WORDS, "whole", 2)
    assert (whole["right"], whole["interval"]) == (0.5, [0.0, 1.0])  # one all right, one all wrong
    charged = {one["kind"]: one for one in more}[TOOL.CHARGE]
    assert (charged["pairs"], charged["right"], charged["texts"]) == (1, 0.5, "all")


def test_facts_tell_apart_what_the_model_cannot() -> None:
    """The text of the anion states its charge; cis and trans are read from E and Z."""
    worth = np.zeros((len(FACTS), STATES), np.float32)
    worth[[PLACE["negative"], PLACE["E bonds"], PLACE["Z bonds"]], len(OVER)] = 10.0  # as stated
    rows = [
        TOOL.Row("Charged, an anion", ANION, True),
        TOOL.Row("L, a zwitterion", L, True),
        TOOL.Row("E, trans-butene", "C/C=C/C", True),
        TOOL.Row("Z, cis-butene", "C/C=C\\C", True),
    ]
    pairs = TOOL.twins(rows)
    record = TOOL.measure(Model(), pairs, frozenset(), FactsTable(worth, 1.0))
    right = {(one["stage"], one["kind"]): one["right"] for one in record["kinds"]}
    assert right["det", TOOL.CHARGE] == 0.5 and right["facts", TOOL.CHARGE] == 1.0
    assert right["det", TOOL.WORDS] == 0.0 and right["facts", TOOL.WORDS] == 1.0


def test_pairs_of_a_connectivity_in_training_are_left_out_and_counted() -> None:
    pairs = TOOL.twins(ROWS)
    record = TOOL.measure(Model(), pairs, frozenset([BLOCK]))
    assert (record["trained"], [one["right"] for one in record["kinds"]]) == (2, [0.0, 0.0])
    with pytest.raises(ValueError, match="not trained on; got none of 3 pairs"):
        TOOL.measure(Model(), pairs, frozenset(pair.block for pair in pairs))


def test_the_command_prints_and_writes_the_figures(tmp_path, monkeypatch, capsys) -> None:
    class Trained:
        blocks = frozenset()
        data = None

    monkeypatch.setattr(TOOL, "open_run", lambda run, which: Model())
    monkeypatch.setattr(TOOL, "read_config", lambda run: Trained)
    monkeypatch.setattr(TOOL, "trained_on", lambda run, data: Trained)
    monkeypatch.setattr(TOOL, "described", lambda: ROWS)
    assert TOOL.main(["--run", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert (
        shown[1]
        == f"0.500 (0.000 to 1.000)  det, {TOOL.WORDS}, whole texts: 2 pairs of 2 connectivities"
    )
    assert shown[-1].startswith("pairs left out: 0 in training, 0 of one text; 1,000 resamples")
    assert len(json.loads((tmp_path / "twins.json").read_text())["kinds"]) == len(shown) - 2


@pytest.mark.real_data
@pytest.mark.slow
def test_the_evaluation_sets_have_enough_pairs() -> None:
    pairs = TOOL.twins(TOOL.described())
    whole = {kind: sum(p.kind == kind and p.are_whole for p in pairs) for kind in TOOL.KINDS}
    assert whole[TOOL.WORDS] >= 60 and whole[TOOL.STEREO] >= 300 and whole[TOOL.CHARGE] >= 200
