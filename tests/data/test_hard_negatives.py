import numpy as np

from tmr_jax.data.features.fingerprint import fingerprints
from tmr_jax.data.hard_negatives import structure_place


def test_molecules_of_a_kind_are_neighbours():
    chains = [f"{'C' * n}O" for n in range(3, 43)]
    rings = [f"c1ccccc1{'C' * n}N(C)C" for n in range(3, 43)]
    smiles = [s for pair in zip(chains, rings, strict=True) for s in pair]
    place = structure_place(fingerprints(smiles))
    assert sorted(place) == list(range(80))
    halves = [set(place[i::2] < 40) for i in (0, 1)]
    assert halves in ([{True}, {False}], [{False}, {True}])
    assert np.array_equal(place, structure_place(fingerprints(smiles)))


def test_molecules_without_a_difference_keep_their_order():
    assert structure_place(np.ones((40, 8), np.float32)).tolist() == list(range(40))
