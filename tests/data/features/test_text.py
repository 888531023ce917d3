"""Text hygiene and tokenizers: hand-made vocabularies, hostile texts."""

from __future__ import annotations

import gzip
import json
import time

import pytest

from tmr_jax.data.features.text import MAX_CHARACTERS, clean_text, load_tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "an", "acid", "##ic", "oxo", "salt", "a"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return tmp_path


def ids(tokenizer, text, max_tokens=64):
    rows, truncated = tokenizer.encode([text], max_tokens)
    return rows[0].tolist(), bool(truncated[0])


def test_word_pieces_by_hand(folder):
    tokenizer = load_tokenizer(folder)
    assert ids(tokenizer, "An acidic salt") == ([2, 5, 6, 7, 9, 3], False)
    assert tokenizer.vocab_size == len(PIECES) and tokenizer.pad_token == 0


def test_file_folder_gzip_and_saved_copy_are_one_tokenizer(folder, tmp_path):
    plain = load_tokenizer(folder)
    packed = tmp_path / "other" / "vocab.txt.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress((folder / "vocab.txt").read_bytes()))
    saved = tmp_path / "tokenizer.json"
    plain.save(saved)
    copies = [load_tokenizer(p) for p in (folder / "vocab.txt", packed, packed.parent, saved)]
    assert {t.sha256 for t in copies} == {plain.sha256}
    assert {tuple(ids(t, "oxo acid")[0]) for t in copies} == {(2, 8, 6, 3)}


def test_another_vocabulary_has_another_hash(folder):
    before = load_tokenizer(folder).sha256
    (folder / "vocab.txt").write_text("\n".join([*PIECES, "new"]), encoding="utf-8")
    assert load_tokenizer(folder).sha256 != before


def test_baked_in_truncation_and_padding_are_removed(folder):
    load_tokenizer(folder).save(folder / "tokenizer.json")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    content["padding"] = {
        "strategy": {"Fixed": 12},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert ids(load_tokenizer(folder), "an an an an")[0] == [2, 5, 5, 5, 5, 3]


def test_a_cut_keeps_the_closing_token_and_says_so(folder):
    tokenizer = load_tokenizer(folder)
    assert ids(tokenizer, "an acid salt oxo", 5) == ([2, 5, 6, 9, 3], True)
    assert ids(tokenizer, "an acid salt", 5) == ([2, 5, 6, 9, 3], False)


def test_a_cased_vocabulary_keeps_capitals(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*PIECES, "An"]), encoding="utf-8")
    assert ids(load_tokenizer(tmp_path), "An an")[0] == [2, 11, 5, 3]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert ids(load_tokenizer(tmp_path), "An an")[0] == [2, 5, 5, 3]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  an\tacid\r\n salt ", "an acid salt"),
        ("an\0acid", "an acid"),
        ("\ufeffan \u202eacid\u200b", "an acid"),
        ("an \ud800acid", "an acid"),
        ("β-D-glucose 🧪", "β-D-glucose 🧪"),
        ("the of and", "the of and"),
        ("a \ufb02uorinated ac\u0131d, H₂SO₄ m²", "a fluorinated ac\u0131d, H2SO4 m2"),
        ("ＡＣＩＤ salt", "ACID salt"),
    ],
)
def test_clean_text(text, cleaned):
    assert clean_text(text) == cleaned


def test_special_tokens_in_a_text_are_text(folder):
    tokenizer = load_tokenizer(folder)
    assert 3 not in ids(tokenizer, "an [SEP] acid")[0][:-1]
    saved = folder / "tokenizer.json"
    tokenizer.save(saved)
    assert 3 not in ids(load_tokenizer(saved), "an [SEP] acid")[0][:-1]


@pytest.mark.parametrize("text", ["", " \n\t", "\0\0", "\u200b\u202e"])
def test_an_empty_text_is_the_users_error(text, folder):
    with pytest.raises(ValueError, match="at least one visible character"):
        clean_text(text)
    with pytest.raises(ValueError, match="text 1: expected"):
        load_tokenizer(folder).encode(["an acid", text], 64)


@pytest.mark.parametrize(
    "text",
    ["acid " * 200_000, "a" * 10**6, "\u202ea" * 500_000, "🧪" * 10**6, "e\u0301" * 500_000],
    ids=["words", "one-word", "marks", "emoji", "accents"],
)
def test_a_megabyte_of_text_is_cut_in_a_tenth_of_a_second(text, folder):
    tokenizer = load_tokenizer(folder)
    fastest = 1.0
    for _ in range(3):
        start = time.perf_counter()
        rows, truncated = tokenizer.encode([text], 256)
        fastest = min(fastest, time.perf_counter() - start)
    assert truncated[0] and len(rows[0]) <= 256 and fastest < 0.1
    assert len(clean_text(text)) <= MAX_CHARACTERS


def test_odd_texts_become_unknown_pieces(folder):
    tokenizer = load_tokenizer(folder)
    assert ids(tokenizer, "🧪")[0] == [2, 1, 3]
    assert ids(tokenizer, "an \ud800acid")[0] == [2, 5, 6, 3]


def test_no_tokenizer_names_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"expected tokenizer\.json or vocab\.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("<html>")
    with pytest.raises(ValueError, match="download the file again"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("only\nwords\n")
    with pytest.raises(ValueError, match=r"no piece \[PAD\]"):
        load_tokenizer(tmp_path / "vocab.txt")


def test_max_tokens_must_leave_room(folder):
    with pytest.raises(ValueError, match="max_tokens above the 2 special tokens"):
        load_tokenizer(folder).encode(["an acid"], 2)


MPNET = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}


@pytest.mark.parametrize("renamed", [{}, MPNET], ids=["bert", "mpnet"])
def test_transformers_reads_a_saved_folder_and_gives_the_same_ids(folder, renamed):
    from transformers import AutoTokenizer

    file, out = folder / "tokenizer.json", folder / "out"
    load_tokenizer(folder).save(file)
    for old, new in renamed.items():
        file.write_text(file.read_text().replace(old, new))
    tokenizer = load_tokenizer(file)
    out.mkdir()
    tokenizer.save_folder(out, 6)
    (out / "config.json").write_text('{"model_type": "bert"}')
    theirs = AutoTokenizer.from_pretrained(out)
    found = [theirs.pad_token, theirs.cls_token, theirs.sep_token, theirs.mask_token]
    assert found == [renamed.get(name, name) for name in MPNET] and theirs.unk_token == "[UNK]"
    for text in ("An acidic salt", "oxo [SEP] </s> acid", "an " * 9):
        assert theirs(text, truncation=True)["input_ids"] == ids(tokenizer, text, 6)[0]
