"""What a score rests on: taking words and atoms out of what the model reads."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem

import tmr_jax
from tmr_jax.data.features.graph import atom_order, featurise, number_by_first
from tmr_jax.models.encode import Encoded, Encoder
from tmr_jax.search.explain import _atoms, explain, table_of, without_atoms, without_words
from tmr_jax.search.retriever import Retriever
from tmr_jax.types import EncodedCorpus

TEXT = "an aromatic  amine, with one ring"
SMILES = "Nc1ccccc1CC(=O)O"


@pytest.fixture(scope="module")
def retriever(tiny_run) -> Retriever:
    return tmr_jax.load(tiny_run)


@pytest.fixture(scope="module")
def found(retriever):
    return retriever.explain(TEXT, SMILES)


def test_words_by_hand():
    assert without_words("an acid, a salt", []) == "an acid, a salt"
    assert without_words("an acid, a salt", [0, 3]) == "acid, a"
    assert without_words("acid", [0]) == "[UNK]"


def test_atoms_by_hand():
    ethanol = featurise("CCO", "ogb", "none")
    order = atom_order("CCO", "ogb")[1]
    middle = int(np.flatnonzero(order == 1)[0])
    rest = without_atoms(ethanol, [middle])
    assert len(rest.nodes) == 2 and len(rest.senders) == 0 and rest.edges.shape == (0, 4)
    end = int(np.flatnonzero(order == 2)[0])
    rest = without_atoms(ethanol, [end])
    assert sorted(rest.senders.tolist()) == [0, 1] and sorted(rest.receivers.tolist()) == [0, 1]
    np.testing.assert_array_equal(rest.nodes, np.delete(ethanol.nodes, end, 0))
    np.testing.assert_array_equal(rest.motif, number_by_first(np.delete(ethanol.motif, end)))


@pytest.mark.parametrize("molecule", ["morgan1", "ogb", "ogb_morgan"])
@pytest.mark.parametrize("smiles", ["OCC", "C[C@H](N)C(=O)O", "[Na+].[Cl-]", "c1ccc2ncccc2c1"])
def test_rows_of_features_are_these_atoms(molecule, smiles):
    written, order = atom_order(smiles, molecule)
    mol = Chem.MolFromSmiles(written)
    assert sorted(order.tolist()) == list(range(mol.GetNumAtoms()))
    assert Chem.MolToSmiles(mol) == Chem.CanonSmiles(smiles)
    if molecule == "morgan1":
        return
    elements = featurise(smiles, molecule, "none").nodes[:, 0]
    assert [mol.GetAtomWithIdx(int(i)).GetAtomicNum() for i in order] == elements.tolist()


def test_drops_are_what_the_score_loses(retriever, found):
    text, mol = retriever.encode_text([TEXT])[0], retriever.encode_molecules([SMILES])[0]
    assert found.score == pytest.approx(float(text @ mol), abs=1e-6)
    assert [word.text for word in found.words] == [
        "an",
        "aromatic",
        "amine,",
        "with",
        "one",
        "ring",
    ]
    assert all(found.text[w.start : w.end] == w.text for w in found.words)
    for i, word in enumerate(found.words):
        other = retriever.encode_text([without_words(TEXT, [i])])[0]
        assert word.drop == pytest.approx(found.score - float(other @ mol), abs=1e-5)
    atoms = Chem.MolFromSmiles(found.smiles).GetNumAtoms()
    assert len(found.atoms) == len(found.drops) == atoms == 11
    assert max(w.weight for w in found.words) == 1 and max(found.atoms) == 1
    assert min(w.weight for w in found.words) >= 0 and min(found.atoms) >= 0


def test_parts_are_kept_of_the_pair_alone(retriever, found, monkeypatch):
    """Of every variant they would be gigabytes for a long text and a large molecule."""
    kept = []

    def counted(self, *told):
        encoded = as_it_was(self, *told)
        kept.append(0 if encoded.side is None else len(encoded.side.offsets) - 1)
        return encoded

    as_it_was = Encoder._encoded
    monkeypatch.setattr(Encoder, "_encoded", counted)
    again = retriever.explain(TEXT, SMILES)
    assert sorted(kept) == [0, 0, 1, 1]
    np.testing.assert_array_equal(again.heat, found.heat)


def test_an_atom_that_is_a_part_of_its_own_is_dropped_by_its_own_place(retriever):
    """A salt: without the sodium the rest is the molecule of the anion, as the features have it."""
    found = retriever.explain("a salt", "[Na+].CC(=O)[O-]")
    symbols = [a.GetSymbol() for a in Chem.MolFromSmiles(found.smiles).GetAtoms()]
    text = retriever.encode_text(["a salt"])[0]
    anion = retriever.encode_molecules(["CC(=O)[O-]"])[0]
    drop = found.drops[symbols.index("Na")]
    assert drop == pytest.approx(found.score - float(text @ anion), abs=1e-5)


def test_heat_is_of_words_and_atoms_in_their_places(retriever, found):
    assert found.heat.shape == (6, 11) and (np.abs(found.heat) <= 1 + 1e-6).all()
    # One atom: its row is the molecule's only part; twins in one ring have equal columns.
    single = retriever.explain("an acid", "C")
    assert single.heat.shape == (2, 1) and single.atoms == (1.0,)
    benzene = retriever.explain("an acid", "c1ccccc1")
    np.testing.assert_allclose(benzene.heat, benzene.heat[:, :1].repeat(6, 1), atol=1e-5)


def test_the_same_whatever_way_a_molecule_is_written(retriever, found):
    other = retriever.explain(TEXT, "OC(=O)Cc1ccccc1N")
    assert other.score == found.score
    np.testing.assert_allclose(sorted(other.drops), sorted(found.drops), atol=1e-6)


def test_motifs_stand_for_their_atoms(retriever):
    """Under brics the parts are motifs: each atom has the state of its own."""
    brics = featurise("CCOC(=O)CCN", "ogb_morgan", "brics")
    assert brics.motif.max() >= 1
    states = np.arange(2 * (brics.motif.max() + 1), dtype=np.float32).reshape(-1, 2)
    side = EncodedCorpus(states[:1], states, np.array([0, len(states)]), np.zeros(1, np.int64))
    found = _atoms(Encoded(states[:1], np.zeros(1, np.int64), side), brics)
    np.testing.assert_array_equal(found, states[brics.motif])
    brics = featurise(SMILES, retriever.config.features.molecule, "brics")
    np.testing.assert_array_equal(table_of(retriever._assembly, [brics]).motif, brics.motif)


def test_what_is_no_text_or_molecule_is_refused(retriever):
    with pytest.raises(ValueError, match="visible character"):
        retriever.explain(" ", "C")
    with pytest.raises(ValueError, match="expected a SMILES"):
        retriever.explain("an acid", "C1CC")


def test_long_texts_have_weights_for_what_is_read(retriever):
    tokens = retriever.config.features.max_tokens
    text = " ".join(f"word{i}" for i in range(tokens + 20))
    encoder = Encoder(retriever._assembly, retriever._params, parts=True)
    found = explain(retriever._assembly, encoder, text, "CCO")
    assert len(found.words) == tokens + 20
    assert found.words[-1].drop == pytest.approx(0, abs=1e-6) and not found.heat[-1].any()
