"""Tables of features: packing, keys, skipped rows, and cache files that cannot be trusted."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from tmr_jax.data import files, tables
from tmr_jax.data.features.graph import featurise
from tmr_jax.data.features.text import load_tokenizer
from tmr_jax.data.files import read_arrays
from tmr_jax.data.tables import (
    MolTable,
    Vocabulary,
    apply_vocabulary,
    build_vocabulary,
    load_vocabulary,
    molecule_table,
    passing_text_table,
    save_vocabulary,
    table_get,
    table_size,
    table_take,
    text_table,
    text_take,
)

SMILES = ["CCO", "C", "broken(", "[Na+].[Cl-]", "OCC", "CCO", "", "C[C@H](N)O", "C[C@@H](N)O"]


@pytest.fixture
def tokenizer(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "an", "acid"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    return load_tokenizer(tmp_path)


def same(one, other) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_kept_and_refused_rows_by_hand():
    table, kept, refused = molecule_table(SMILES, "ogb", "none")
    assert kept.tolist() == [0, 1, 3, 4, 5, 7, 8]
    assert [tuple(r) for r in refused] == [(2, "unparsable", "broken("), (6, "empty", "")]
    assert table_size(table) == 7
    assert np.diff(table.node_offsets).tolist() == [3, 1, 2, 3, 3, 4, 4]
    assert np.diff(table.edge_offsets).tolist() == [4, 0, 0, 4, 4, 6, 6]


@pytest.mark.parametrize("molecule", ["ogb", "morgan1"])
@pytest.mark.parametrize("motif", ["none", "brics"])
def test_a_row_is_what_the_featuriser_gave(molecule, motif):
    table, kept, _ = molecule_table(SMILES, molecule, motif)
    for i, row in enumerate(kept):
        assert same(table_get(table, i), featurise(SMILES[row], molecule, motif))


def test_keys_are_equal_exactly_where_the_inputs_are():
    def keys(molecule):
        return [k.tobytes() for k in molecule_table(SMILES, molecule, "none")[0].key]

    ogb, morgan1 = keys("ogb"), keys("morgan1")
    assert ogb[0] == ogb[3] == ogb[4] and len(set(ogb)) == 5  # CCO, OCC, CCO
    assert morgan1[0] == morgan1[3] and morgan1[5] == morgan1[6] and len(set(morgan1)) == 4


def test_equal_smiles_are_featurised_once(monkeypatch):
    asked = []
    monkeypatch.setattr(
        tables, "featurise", lambda s, *rest: asked.append(s) or featurise(s, *rest)
    )
    molecule_table(["CCO"] * 50 + ["CO"], "ogb", "none")
    assert asked.count("CCO") == 1 and asked.count("CO") == 1


@pytest.mark.parametrize("smiles", [[], ["broken("], ["C"], ["[Na+].[Cl-]"]])
def test_tables_without_molecules_or_bonds_have_their_columns(smiles):
    table, kept, _ = molecule_table(smiles, "ogb", "brics")
    assert table_size(table) == len(kept)
    assert table.nodes.shape[1] == 12 and table.edges.shape == (0, 4)
    assert table.nodes.dtype == table.edges.dtype == np.uint8


def test_taking_rows_repeats_and_reorders():
    table, _, _ = molecule_table(SMILES, "ogb", "brics")
    taken = table_take(table, np.array([5, 0, 5]))
    assert table_size(taken) == 3
    for i, row in enumerate([5, 0, 5]):
        assert same(table_get(taken, i), table_get(table, row))
        assert (taken.key[i] == table.key[row]).all()
    assert table_size(table_take(table, np.zeros(0, int))) == 0


def test_processes_give_the_same_table_as_one(monkeypatch):
    smiles = ["C" * i + "O" for i in range(1, 40)] + ["bad(", *SMILES]
    alone = molecule_table(smiles, "ogb", "brics")
    monkeypatch.setattr(tables, "PARALLEL_FROM", 1)
    monkeypatch.setattr(tables, "CHUNK", 7)
    shared = molecule_table(smiles, "ogb", "brics")
    assert same(alone[0], shared[0]) and same([alone[1]], [shared[1]]) and alone[2] == shared[2]


# The cache


def test_the_second_call_reads_what_the_first_wrote(tmp_path, monkeypatch):
    first = molecule_table(SMILES, "ogb", "brics", tmp_path)
    monkeypatch.setattr(tables, "featurise", None)  # any use of it would raise
    second = molecule_table(SMILES, "ogb", "brics", tmp_path)
    assert same(first[0], second[0]) and same([first[1]], [second[1]]) and first[2] == second[2]
    assert [p.suffix for p in tmp_path.iterdir()] == [".npz"]


def test_rows_settings_and_version_each_have_a_file_of_their_own(tmp_path, monkeypatch):
    molecule_table(["C", "CO"], "ogb", "none", tmp_path)
    molecule_table(["CC", "O"], "ogb", "none", tmp_path)  # the same letters, cut elsewhere
    molecule_table(["C", "CO"], "ogb", "brics", tmp_path)
    molecule_table(["C", "CO"], "morgan1", "none", tmp_path)
    monkeypatch.setattr(files, "VERSION", files.VERSION + 1)
    molecule_table(["C", "CO"], "ogb", "none", tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_few_rows_are_kept_only_in_a_named_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "default"))
    molecule_table(SMILES, "ogb", "none")
    assert not (tmp_path / "default").exists()
    monkeypatch.setattr(tables, "CACHE_FROM", 2)
    molecule_table(SMILES, "ogb", "none")
    assert len(list((tmp_path / "default").iterdir())) == 1


def damaged_by_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        damaged_by_bit,
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"version https://git-lfs.github.com/spec/v1\n",
    ],
    ids=["one bit", "truncated", "empty", "pointer"],
)
def test_a_damaged_cache_file_is_computed_again_and_says_so(damage, tmp_path, capfd):
    good = molecule_table(SMILES, "ogb", "none", tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    again = molecule_table(SMILES, "ogb", "none", tmp_path)
    assert same(good[0], again[0])
    assert "computing it again" in capfd.readouterr().err
    molecule_table(SMILES, "ogb", "none", tmp_path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("field", ["node_offsets", "senders", "key", "kept"])
def test_arrays_that_do_not_belong_together_are_computed_again(field, tmp_path, capfd):
    good = molecule_table(SMILES, "ogb", "none", tmp_path)
    (path,) = tmp_path.iterdir()
    arrays = read_arrays(path)
    np.savez(path, **(arrays | {field: arrays[field][:-1]}))
    assert same(good[0], molecule_table(SMILES, "ogb", "none", tmp_path)[0])
    assert "computing it again" in capfd.readouterr().err


def test_indices_that_leave_their_molecule_are_computed_again(tmp_path, capfd):
    good = molecule_table(SMILES, "ogb", "none", tmp_path)
    (path,) = tmp_path.iterdir()
    arrays = read_arrays(path)
    arrays["senders"][0] = 10**6
    np.savez(path, **arrays)
    assert same(good[0], molecule_table(SMILES, "ogb", "none", tmp_path)[0])
    assert "computing it again" in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, capfd):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    table, _, _ = molecule_table(SMILES, "ogb", "none", blocked / "cache")
    assert table_size(table) == 7
    assert "is not cached" in capfd.readouterr().err


def test_a_folder_with_spaces_and_accents(tmp_path):
    # The bytes of the name, as a program gets them in a locale that cannot spell it.
    folder = tmp_path / os.fsdecode("Ünïcode und Leerzeichen".encode())
    first = molecule_table(SMILES, "ogb", "none", folder)
    assert same(first[0], molecule_table(SMILES, "ogb", "none", folder)[0])


# Texts


def test_text_table_by_hand(tokenizer, tmp_path):
    table = text_table(["an acid", "acid", "an an an"], tokenizer, 4, tmp_path / "c")
    assert table.tokens.tolist() == [2, 4, 5, 3, 2, 5, 3, 2, 4, 4, 3]
    assert table.offsets.tolist() == [0, 4, 7, 11]
    assert table.truncated.tolist() == [False, False, True]
    assert same(table, text_table(["an acid", "acid", "an an an"], tokenizer, 4, tmp_path / "c"))
    taken = text_take(table, np.array([2, 1]))
    assert taken.tokens.tolist() == [2, 4, 4, 3, 2, 5, 3] and taken.truncated.tolist() == [
        True,
        False,
    ]
    assert table_size(taken) == 2


def test_text_cache_depends_on_length_and_tokenizer(tokenizer, tmp_path):
    folder = tmp_path / "c"
    text_table(["an acid"], tokenizer, 4, folder)
    text_table(["an acid"], tokenizer, 3, folder)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nacid\nan")
    other = text_table(["an acid"], load_tokenizer(tmp_path / "vocab.txt"), 4, folder)
    assert other.tokens.tolist() == [2, 5, 4, 3]
    assert len(list(folder.iterdir())) == 3


def test_an_empty_list_of_texts_is_an_empty_table(tokenizer):
    assert table_size(text_table([], tokenizer, 8)) == 0
    assert table_size(passing_text_table([], tokenizer, 8)) == 0


def test_texts_that_pass_are_the_same_table_and_leave_no_file(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "c"))
    monkeypatch.setattr(tables, "CHUNK", 3)
    texts = ["an acid", "an " * 20, "acid"] * files.CACHE_FROM
    passing = passing_text_table(texts, tokenizer, 8)
    assert not (tmp_path / "c").exists()
    assert same(passing, text_table(texts, tokenizer, 8)) and passing.truncated.sum() == 1000


# Vocabulary


def test_vocabulary_maps_known_identifiers_and_counts_the_rest(tmp_path):
    train, _, _ = molecule_table(["CC", "C"], "morgan1", "none")
    vocabulary = build_vocabulary(train)
    assert vocabulary.identifiers.tolist() == [2246728737, 2246733040, 3545175291]
    ids, unknown = apply_vocabulary(train, vocabulary)
    assert sorted(ids.nodes.ravel().tolist()) == [1, 2, 3] and unknown == 0
    other, _, _ = molecule_table(["C", "[Na+].[Cl-]"], "morgan1", "none")
    ids, unknown = apply_vocabulary(other, vocabulary)
    assert ids.nodes.ravel().tolist() == [2, 0, 0] and unknown == 2
    assert ids.nodes.dtype == np.int32
    save_vocabulary(tmp_path / "vocab.npz", vocabulary)
    assert same(load_vocabulary(tmp_path / "vocab.npz"), vocabulary)


def test_an_identifier_between_two_known_ones_is_unknown():
    table, _, _ = molecule_table(["C"], "morgan1", "none")
    around = Vocabulary(np.array([2246733039, 2246733041]))
    ids, unknown = apply_vocabulary(table, around)
    assert ids.nodes.tolist() == [[0]] and unknown == 1


def test_molecules_that_differ_in_unknown_atoms_only_become_one_input():
    known, _, _ = molecule_table(["CCCC", "CCO", "CCl"], "morgan1", "none")
    smiles = ["CCCC[Se]C", "C[Te]CCCC", "CCCC[Te]C", "CCCCC"]
    table, _, _ = molecule_table(smiles, "morgan1", "brics")
    before = MolTable(*(array.copy() for array in table))
    ids, _ = apply_vocabulary(table, build_vocabulary(known))
    keys = [k.tobytes() for k in ids.key]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert len({k.tobytes() for k in table.key}) == 3 and same(table, before)
    assert same(table_get(ids, 0), table_get(ids, 1))
    # Every atom keeps its neighbours: the multiset of (own id, ids around it) is that of the table.
    lookup = dict(zip([0, *build_vocabulary(known).identifiers.tolist()], range(99), strict=False))
    for i in range(4):
        own, new = table_get(table, i), table_get(ids, i)
        renamed = np.array([lookup.get(v, 0) for v in own.nodes[:, 0].tolist()])
        bonds = sorted(zip(renamed[own.senders], renamed[own.receivers], strict=True))
        assert bonds == sorted(
            zip(new.nodes[new.senders, 0], new.nodes[new.receivers, 0], strict=True)
        )


def test_a_file_that_is_no_vocabulary_is_refused(tmp_path):
    np.savez(tmp_path / "vocab.npz", identifiers=np.array([3, 2, 1]))
    with pytest.raises(ValueError, match="expected sorted int64 identifiers"):
        load_vocabulary(tmp_path / "vocab.npz")


# Real molecules


def chebi20_test() -> list[str]:
    path = Path(os.environ["TMR_JAX_DATA"]) / "chebi20" / "test.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()[1:]
    return [line.split("\t")[1].replace("\\\\", "\\") for line in lines]


@pytest.mark.real_data
def test_unknown_atoms_of_chebi20_are_as_many_as_published():
    """Of the test molecules 12.3 % have an atom that the mol2vec table lacks."""
    path = Path(os.environ["TMR_JAX_DATA"]) / "mol2vec" / "text2mol_token_embeddings.npz"
    with np.load(path, allow_pickle=False) as arrays:
        known = sorted(int(token) for token in arrays["tokens"].tolist() if token != "UNK")
    table, _, refused = molecule_table(chebi20_test(), "morgan1", "none")
    ids, unknown = apply_vocabulary(table, Vocabulary(np.array(known)))
    touched = [(table_get(ids, i).nodes == 0).any() for i in range(table_size(ids))]
    assert not refused and len(touched) == 3300
    assert np.mean(touched) == pytest.approx(0.123, abs=0.0005)
    assert unknown / len(ids.nodes) == pytest.approx(0.006, abs=0.001)


@pytest.mark.real_data
def test_real_molecules_keep_their_keys_when_written_otherwise():
    smiles = chebi20_test()[::11]
    for molecule in ("ogb", "morgan1"):
        for seed in range(2):
            written = [
                Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(s), 1, randomSeed=seed + 1)[0]
                for s in smiles
            ]
            keys = [molecule_table(w, molecule, "none")[0].key for w in (smiles, written)]
            assert np.array_equal(*keys)
