"""A retriever without a model: it encodes by a hash and searches a list. For the service."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np

from tmr_jax.data.features.graph import parse_smiles
from tmr_jax.data.features.properties import MASKS, masks, properties
from tmr_jax.index.index import Summary
from tmr_jax.index.schema import COMPARE, DESCRIPTIONS, FLAGS
from tmr_jax.models.run import Checkpoint
from tmr_jax.search.explain import Explanation, Word
from tmr_jax.search.retriever import Hit, Query, Retriever
from tmr_jax.serve.engine import SearchEngine
from tmr_jax.types import UserError

MOLECULES = (
    ("CCO", "ethanol"),
    ("Nc1ccccc1", "aniline"),
    ("CC(=O)O", "acetic acid"),
    ("C[N+](=O)[O-]", "nitromethane"),
    ("Nc1ccc(Cl)cc1", "<script>alert(1)</script>"),
    ("CC#N", '=HYPERLINK("http://x")'),
)


TEXTS = (
    ("An acid.", "row 1"),
    ("An <b>aromatic</b> amine.", '"><script>alert(1)</script>'),
    ("A salt. " * 300, "long"),
)


SLOW = "aa"  # the substructure for which time runs out


class Fake(Retriever):
    """A retriever whose model, index and matcher are not real."""

    texts = False
    pattern_delay = 0.0

    def __init__(
        self,
        molecules: Sequence[tuple[str, str]] = MOLECULES,
        delay: float = 0,
        damage: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self.run = "secret/runs/fake"
        self.checkpoint, self.delay = Checkpoint("best", 7, "ab" * 32), delay
        self.check = damage  # type: ignore[method-assign]
        self.fails: BaseException | None = None
        self.encoded: list[list[str]] = []
        self._second_stage = self._detector = None
        self._holds(Summary("secret/folder/my.smi", len(molecules), len(molecules), {}))
        self.gate = threading.Event()  # closed: searches wait
        self.gate.set()
        self._items = []
        for smiles, name in molecules:
            mol = parse_smiles(smiles)
            columns = properties(mol)._asdict() | dict(zip(MASKS, masks(mol), strict=True))
            columns |= dict.fromkeys(FLAGS, False)
            self._items.append((smiles, name, columns))

    def _holds(self, account: Summary) -> None:
        library = SimpleNamespace(
            account=account,
            partial=False,
            called=lambda name: None,
            with_columns=list,
            count=lambda where: sum(where is None or _meets(i[2], where) for i in self._items),
        )
        self._library = library  # type: ignore[assignment]

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Draws rows by the hashes of the queries."""
        self.encoded.append(list(texts))
        if any(not text.strip() for text in texts):
            raise UserError("expected a text with a visible character, got none; write one")
        return np.stack([_row(text) for text in texts])

    encode_molecules = encode_text

    def is_cut(self, text: str) -> bool:
        return len(text) > 1000

    def _are_ood(self, texts: np.ndarray) -> np.ndarray:
        assert len(texts) == len(self.encoded[-1])
        return np.array(["football" in text for text in self.encoded[-1]])

    def _holding(self, query: Query, row: np.ndarray) -> tuple[list[Hit], int | None]:
        if self.texts:
            return super()._holding(query, row)  # refuses
        time.sleep(self.pattern_delay)
        if "(" in query.substructure:
            raise UserError(f"expected a SMARTS, got {query.substructure!r}; correct it")
        hits = [h for h in self.nearest(row, query.k, query.where)[0] if "c1" in h.content]
        return hits, 128 if query.substructure == SLOW and len(hits) < query.k else None

    def nearest(self, vectors, k, where=None) -> list[list[Hit]]:
        self.gate.wait(10)
        time.sleep(self.delay)
        if self.fails:
            raise self.fails
        return [self._found(row, k, where) for row in vectors]

    def _found(self, row, k, where) -> list[Hit]:
        kept = [item for item in self._items if where is None or _meets(item[2], where)]
        scored = [(float(row @ _row(item[0])), i, item) for i, item in enumerate(kept)]
        best = sorted(scored, key=lambda found: (-found[0], found[1]))[:k]
        return [
            Hit(rank, score, smiles, name, None, i, columns, self.texts)
            for rank, (score, i, (smiles, name, columns)) in enumerate(best, 1)
        ]

    def explain(self, text: str, smiles: str) -> Explanation:
        words = (Word(text[:2], 0, 2, 0.2, 1.0), Word(text[3:8], 3, 8, 0.08, 0.4))
        atoms = tuple(1.0 for _ in parse_smiles(smiles).GetAtoms())
        heat = np.ones((2, len(atoms)), np.float32)
        return Explanation(0.5, text, words, smiles, atoms, atoms, heat)


class FakeOfTexts(Fake):
    """One whose library is of descriptions."""

    texts = True

    def __init__(self) -> None:
        super().__init__(())
        self._holds(Summary("folder/corpus.txt", 4, 3, {"empty-text": 1}, DESCRIPTIONS))
        self._items = [(text, name, {"duplicate": name == "long"}) for text, name in TEXTS]


def _meets(columns, where) -> bool:
    told = all(COMPARE[c.sign](columns[c.column], c.number) for c in where.conditions)
    told &= all(COMPARE[c.sign](columns[c.column], c.value) for c in where.own)
    mask = columns["groups"]
    return told and mask & where.groups == where.groups and not mask & where.without


def _row(text: str) -> np.ndarray:
    drawn = np.random.default_rng(zlib.crc32(text.encode())).normal(size=8)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def engine(fake: Fake | None = None, room: int = 64, damage=dict) -> SearchEngine:
    """The answers of a fake, which opening gives again and again."""
    fake = fake or Fake()
    fake.check = damage
    return SearchEngine(lambda: fake, room)
