"""Substructures in a process of their own: what is found, what is refused, what is killed."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from tmr_jax.index.schema import Hit
from tmr_jax.search.substructure import CHUNK, LIMIT, Matcher, TooSlow

SMILES = ["CCO", "c1ccccc1N", "CC(=O)O", "Nc1ccccc1C"]
# A path through a cage, to an atom that it does not have: RDKit tries every path.
BOMB = "*~" * 30 + "[U]"
CAGE = (
    "c12c3c4c5c1c6c7c8c2c9c1c3c2c3c4c4c%10c5c5c6c6c7c7c%11c8c9c8c9c1c2c1c2c3c4c3c4c%10c5c5c6c6c7c7"
    "c%11c8c8c9c1c1c2c3c2c4c5c6c3c7c8c1c23"
)


@pytest.fixture(scope="module")
def matcher():
    made = Matcher()
    yield made
    made.close()


def test_which_hold_it(matcher):
    looked = matcher.check("c1ccccc1N", SMILES)
    assert looked.matches.tolist() == [False, True, False, True] and looked.all
    assert matcher.check("[OH]", SMILES).matches.tolist() == [True, False, True, False]


def test_the_atoms_of_every_match_are_marked(matcher):
    hits = [Hit(1, 0.9, "Nc1ccccc1N", "two"), Hit(2, 0.8, "NCC", "one")]
    two, one = matcher.mark("[NH2]", hits)
    assert two.held == (True, *[False] * 6, True) and one.held == (True, False, False)
    assert [two._replace(held=()), one._replace(held=())] == hits


def test_hits_stay_unmarked_where_there_is_no_time():
    matcher = Matcher(limit=0.5)
    cage = [Hit(1, 0.9, CAGE, "cage")]
    assert matcher.mark(BOMB, cage) == cage
    matcher.close()


def test_stereo_of_a_pattern_counts(matcher):
    both = ["F/C=C/F", "F/C=C\\F", "FC=CF"]
    assert matcher.check("F/C=C/F", both).matches.tolist() == [True, False, False]
    assert matcher.check("FC=CF", both).matches.all()
    hands = ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)O"]
    assert matcher.check("C[C@H](N)C(=O)O", hands).matches.tolist() == [True, False, False]


@pytest.mark.parametrize("pattern", ["C1=CC=CC=C1", "C1=CC=CC=C1Cl", "ClC1=CC=CC=C1"])
def test_a_ring_drawn_with_double_bonds_is_aromatic(matcher, pattern):
    assert matcher.check(pattern, ["Clc1ccccc1", "ClC1CCCCC1"]).matches.tolist() == [True, False]
    assert matcher.check("C=CC=C", ["c1ccccc1", "C=CC=CC"]).matches.tolist() == [False, True]


def test_a_molecule_that_cannot_be_read_holds_nothing(matcher):
    assert matcher.check("C", ["C1CC", "CC"]).matches.tolist() == [False, True]


@pytest.mark.parametrize("smarts", ["c1ccccc", "C(", "[C", " ", "", "C" * 1001, "C\x00"])
def test_no_pattern_is_refused(matcher, smarts):
    with pytest.raises(ValueError, match="expected a SMARTS"):
        matcher.check(smarts, SMILES)
    with pytest.raises(ValueError, match="expected a SMARTS"):
        matcher.check(smarts, [])


def test_what_takes_too_long_is_killed_and_the_next_question_answered():
    matcher = Matcher(limit=0.5)
    matcher.check("C", [])
    begun = time.monotonic()
    with pytest.raises(TooSlow, match="takes longer"):
        matcher.check(BOMB, [CAGE])
    assert time.monotonic() - begun < LIMIT
    assert matcher.check("c1ccccc1N", SMILES).matches.sum() == 2
    matcher.close()


def test_what_was_looked_at_in_time_is_told():
    matcher = Matcher(limit=0.5)
    looked = matcher.check(BOMB, ["CCO"] * CHUNK + [CAGE])
    assert len(looked.matches) == CHUNK and not looked.all and not looked.matches.any()
    looked = matcher.check("C", SMILES, spent=0.6)
    assert len(looked.matches) == 0 and not looked.all
    matcher.close()


def test_the_start_of_the_process_is_not_counted(monkeypatch):
    matcher = Matcher(limit=0.2)
    nothing = {"is_pattern": np.array(True), "matches": np.zeros(1, bool)}
    monkeypatch.setattr(matcher._worker, "be_ready", lambda task: time.sleep(0.4))
    monkeypatch.setattr(matcher._worker, "ask", lambda task, job, limit: nothing)
    looked = matcher.check("C", ["C"])
    assert looked.all and looked.seconds < 0.2


def test_a_process_that_is_ready_has_rdkit():
    code = "import sys; from tmr_jax.data.workers import ready; from tmr_jax.search.substructure "
    code += "import TASK; ready(TASK); sys.exit('rdkit.Chem' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_the_process_ends_with_its_owner():
    matcher = Matcher()
    matcher.check("C", SMILES)
    process = matcher._worker._process
    del matcher
    assert process.wait(10) is not None
