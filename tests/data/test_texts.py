"""Which files are of texts, and their rows with what is refused."""

from __future__ import annotations

import gzip

import pytest

from tmr_jax.data.readers import MAX_TEXT, holds_texts, read_texts

FILES = {
    "corpus.txt": ("An acid.\nNO is a gas.\n", True),
    "chance.txt": ("NO is a gas.\nAn acid.\n", True),
    "quoted.txt": ('"An acid.\n\nA salt.\n', True),
    "empty.txt": ("", True),
    "long.txt": ("x" * 200_000 + "\nAn acid.\n", True),
    "zinc.txt": ("CCO\nCCN amine\n", False),
    "bad_first.txt": ("C1CC\nCCO\nCCN\n", False),
    "column.txt": ("SMILES\nCCO\n", False),
    "table.txt": ("CID\tSMILES\n7\tCCO\n", False),
    "other.txt": ("CID\tdescription\n7\tAn acid.\n", False),  # whose column is to be named
    "my.csv": ("SMILES,description\nCCO,An alcohol.\n", False),
    "my.smi": ("An acid.\n", False),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_txt_without_molecules_or_columns_is_a_corpus(tmp_path, name, packed):
    content, right = FILES[name]
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    assert holds_texts(path) is right
    assert holds_texts(path, text_column="description")
    assert not holds_texts(path, smiles_column="SMILES")
    with pytest.raises(ValueError, match="'SMILES' and 'description' for both; name one"):
        holds_texts(path, "SMILES", "", "description")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_the_encoding_is_recognised(tmp_path, encoding):
    path = tmp_path / "corpus.txt"
    path.write_text("An acid.\nA β-sugar.\n", encoding)
    assert holds_texts(path)
    assert [row.content for row in read_texts(path)] == ["An acid.", "A β-sugar."]


def test_every_line_is_a_row_under_its_number(tmp_path):
    path = tmp_path / "corpus.txt"
    lines = [b"\xef\xbb\xbfAn acid. ", b"", b"\xff\xfe", b"x" * 3 * MAX_TEXT, "\u200b".encode()]
    path.write_bytes(b"\r\n".join([*lines, "A  β-sugar.".encode()]))
    rows = list(read_texts(path))
    assert [row.refused for row in rows] == [
        *["", "empty-text", "not-utf-8", "too-long", "empty-text", ""]
    ]
    assert rows[0] == ("An acid.", "line 1", "", 1, ())
    assert rows[5] == ("A  β-sugar.", "line 6", "", 6, ())


def test_a_column_of_a_table_under_the_names_of_another(tmp_path):
    path = tmp_path / "my.csv"
    long = "x" * MAX_TEXT
    path.write_text(f'CID,text\n7,"An acid,\nof two lines."\n8,\n9,{long}\n', "utf-8")
    rows = list(read_texts(path, "text", "CID"))
    assert rows[0] == ("An acid,\nof two lines.", "7", "", 2, ())
    assert [row.refused for row in rows] == ["", "empty-text", "too-long"]
    with pytest.raises(ValueError, match="expected a column 'texts' in the header"):
        list(read_texts(path, "texts"))
