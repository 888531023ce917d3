"""Descriptions in, token ids out: text hygiene and the tokenizer of the text encoder."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from tmr_jax.data.files import write_json, write_text
from tmr_jax.types import UserError

# Descriptions of ChEBI-20, PCdes and PubChem end below 10,000 characters; a megabyte need not be
# tokenised to be cut to 512 tokens.
MAX_CHARACTERS = 20_000
CLEANING = 2  # raise it whenever `clean_text` changes: kept token ids are then others
# As names spell them: α is alpha.
_LETTERS = "αβγδεζηθικμνξοπρστυφχψω"
GREEK = {ord(c): unicodedata.name(c).split()[-1].lower() for c in _LETTERS + _LETTERS.upper()}
GREEK |= {ord("λ"): "lambda", ord("Λ"): "lambda", ord("′"): "'", ord("’"): "'"}
BREAKS = re.compile("[\\s\u00ad\u200b-\u200f\u2010-\u2015\u2212\ufeff-]")  # white space and dashes
T = TypeVar("T")


def clean_text(text: str) -> str:
    """The text as the tokenizer gets it: one space between words, nothing invisible in them.

    Ligatures, superscripts and full-width letters, as PDFs have them, become plain ones (NFKC).
    Control characters become spaces; format characters (zero-width, right-to-left marks) and lone
    surrogates vanish; what follows the first `MAX_CHARACTERS` characters is dropped. Raises
    UserError where nothing is left.
    """
    text = text[:MAX_CHARACTERS]
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if not text.isprintable():
        text = "".join(_visible(c) for c in text)
    text = " ".join(text.split())
    if not text:
        raise UserError(
            "expected a description with at least one visible character, got an empty text; "
            "write what the molecule is or leave the row out"
        )
    return text


def normal_name(name: str) -> str:
    """A chemical name without what writers vary: case, Greek letters, dashes and white space.

    >>> normal_name("α-D-Glucose 6-phosphate"), normal_name("alpha-d-glucose-6-phosphate")
    ('alphadglucose6phosphate', 'alphadglucose6phosphate')
    """
    plain = unicodedata.normalize("NFKC", name).translate(GREEK)
    return BREAKS.sub("", plain).casefold()


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cc":
        return " "
    return "" if category in ("Cf", "Cs") else character


class Tokenizer:
    """Word pieces between the special tokens of a BERT, cut to a length asked for per call."""

    def __init__(self, inner: tokenizers.Tokenizer):
        # A tokenizer.json may carry a truncation and a padding of its own (MiniLM: both 128).
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # [SEP] in a text is text
        self._inner = inner
        self._special = inner.num_special_tokens_to_add(is_pair=False)
        self._pad = inner.token_to_id("[PAD]")

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Ids of each text, int32 [T_i] with T_i <= max_tokens, and whether it was cut, bool [n].

        The closing special token survives the cut. Raises UserError for an empty text.
        """
        if max_tokens <= self._special:
            raise UserError(
                f"expected max_tokens above the {self._special} special tokens, "
                f"got {max_tokens}; give 64 or more"
            )
        rows, cut = [], []
        cleaned = [_row(text, i) for i, text in enumerate(texts)]
        for text, encoding in zip(texts, self._inner.encode_batch(cleaned), strict=True):
            ids = encoding.ids
            rows.append(np.array(_cut(ids, max_tokens), np.int32))
            cut.append(len(text) > MAX_CHARACTERS or len(ids) > max_tokens)
        return rows, np.array(cut, bool)

    def pieces(self, text: str, max_tokens: int) -> list[str]:
        """The word pieces that `encode` gives the ids of."""
        ids = self.encode([text], max_tokens)[0][0]
        return [self._inner.id_to_token(int(i)) or "" for i in ids]

    def spans(self, text: str, max_tokens: int) -> list[tuple[int, int]]:
        """Where in `clean_text(text)` each of the `pieces` is; (0, 0) for special tokens."""
        return _cut(self._inner.encode(clean_text(text)).offsets, max_tokens)

    @property
    def vocab_size(self) -> int:
        return self._inner.get_vocab_size()

    @property
    def pad_token(self) -> int:
        return 0 if self._pad is None else self._pad

    @property
    def mask_token(self) -> int | None:
        """[MASK], or <mask> as MPNet has it; None where the vocabulary has neither."""
        found = (self._inner.token_to_id(token) for token in ("[MASK]", "<mask>"))
        return next((token for token in found if token is not None), None)

    @cached_property
    def sha256(self) -> str:
        """Of the vocabulary and the rules around it; the same for a copy that `save` wrote."""
        rules = json.loads(self._inner.to_str())
        vocabulary = sorted(self._inner.get_vocab().items(), key=lambda item: item[1])
        seen = [vocabulary, rules["normalizer"], rules["pre_tokenizer"], rules["post_processor"]]
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes a tokenizer.json that `load_tokenizer` reads back."""
        write_text(Path(path), self._inner.to_str())

    def save_folder(self, folder: Path, max_tokens: int) -> None:
        """Writes tokenizer.json, and the tokenizer_config.json that `transformers` reads it by."""
        self.save(folder / "tokenizer.json")
        mpnet = self._inner.token_to_id("<mask>") is not None  # with BERT's [UNK]
        pairs = {"pad": ("[PAD]", "<pad>"), "cls": ("[CLS]", "<s>"), "sep": ("[SEP]", "</s>")}
        pairs |= {"mask": ("[MASK]", "<mask>"), "unk": ("[UNK]", "[UNK]")}
        named = {f"{name}_token": pair[mpnet] for name, pair in pairs.items()}
        known = {k: t for k, t in named.items() if self._inner.token_to_id(t) is not None}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_tokens}
        config |= {"split_special_tokens": True}  # [SEP] in a text is text
        write_json(folder / "tokenizer_config.json", config | known, indent=2)


def _cut(items: list[T], most: int) -> list[T]:
    """The first items and the last one, which is the closing special token."""
    return items if len(items) <= most else items[: most - 1] + items[-1:]


def _row(text: str, i: int) -> str:
    try:
        return clean_text(text)
    except UserError as error:
        raise UserError(f"text {i}: {error}") from None


def load_tokenizer(path: str | Path) -> Tokenizer:
    """From a folder that holds tokenizer.json or vocab.txt (or vocab.txt.gz), or from such a file.

    Whether a vocab.txt is lower-case is read from tokenizer_config.json next to it; without one,
    it is unless the vocabulary has pieces with capitals. Raises UserError where nothing is found.
    """
    path = Path(path)
    names = ("tokenizer.json", "vocab.txt", "vocab.txt.gz")
    files = [path / name for name in names] if path.is_dir() else [path]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(
            f"expected {' or '.join(names)} in {path}, found none; "
            "give the folder of a BERT's tokenizer or the file itself"
        )
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    try:
        text = content.decode("utf-8")
        if ".json" in file.suffixes:
            return Tokenizer(tokenizers.Tokenizer.from_str(text))
        return Tokenizer(_word_pieces(text.split("\n"), file.parent / "tokenizer_config.json"))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise UserError(
            f"expected a tokenizer.json or a list of word pieces in {file}, got {error}; "
            "download the file again"
        ) from error


def _word_pieces(lines: list[str], config: Path) -> tokenizers.Tokenizer:
    """A BERT tokenizer from one piece a line; the line number is the id."""
    lines = [line.rstrip("\r") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    vocabulary = {piece: i for i, piece in enumerate(lines)}
    missing = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if t not in vocabulary]
    if missing:
        raise ValueError(f"no piece {', '.join(missing)}")
    capitals = any(p != p.lower() for p in vocabulary if not p.startswith("["))
    lower = not capitals
    if config.is_file():
        lower = bool(json.loads(config.read_text(encoding="utf-8")).get("do_lower_case", lower))
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=lower)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(t, vocabulary[t]) for t in ("[CLS]", "[SEP]")],
    )
    return inner
