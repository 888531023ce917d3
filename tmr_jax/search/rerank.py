"""The second stage at search time: it reorders the shortlist of one query.

A model with a denoiser scores a pair by more than the cosine of two embeddings (docs/papers.md),
and so does a run that has learned to read facts. Scoring every item of an index so would take
hours, so only the nearest ones are scored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tmr_jax.data.features.facts import FACTS, molecule_facts, text_facts
from tmr_jax.eval.facts import SHORTLIST, FactsTable
from tmr_jax.eval.rerank import PoolReranker, levels, settings_of
from tmr_jax.index.index import Index
from tmr_jax.index.schema import Hit, ranked
from tmr_jax.models.encode import Encoded, Encoder
from tmr_jax.models.run import TrainedModel
from tmr_jax.types import Direction


class FactsStage(NamedTuple):
    """Reorders by facts that the query and what it finds agree or disagree on."""

    facts: FactsTable
    shortlist: int = SHORTLIST

    def reorder(
        self, query: str, hits: list[Hit], direction: Direction, alpha: float, library: Index
    ) -> list[Hit]:
        """As `SecondStage.reorder`; its weight is that of the table, which was learned with it."""
        short, rest = hits[: self.shortlist], hits[self.shortlist :]
        own, other = (text_facts, molecule_facts)[:: 1 if direction == "t2m" else -1]
        # One shape, however many hits there are: a new one would be compiled.
        cosine = np.zeros(self.shortlist, np.float32)
        found = np.zeros((self.shortlist, len(FACTS)), np.float32)
        cosine[: len(short)] = [hit.score for hit in short]
        found[: len(short)] = [other(hit.content) for hit in short]
        pair = (own(query)[None], found) if direction == "t2m" else (found, own(query)[None])
        scores = self.facts.scores(cosine, *pair)[: len(short)]
        order = np.argsort(-scores, kind="stable")  # equal scores keep the order of the cosine
        return ranked([*(short[i]._replace(refined=float(scores[i])) for i in order), *rest])


class SecondStage:
    """The second stage of a model. `encoder` keeps the words and atoms of what it encodes."""

    def __init__(self, assembly: TrainedModel, params: Any, encoder: Encoder) -> None:
        self._encoder = encoder
        self.reranker = PoolReranker(assembly, params, settings_of(assembly.config))
        self.shortlist = self.reranker.settings.shortlist  # how many hits it reorders

    def reorder(
        self, query: str, hits: list[Hit], direction: Direction, alpha: float, library: Index
    ) -> list[Hit]:
        """The hits of the first stage with the shortlist reordered.

        `query` is a text, or with "m2t" a SMILES whose hits are texts. `alpha` weighs the score of
        the denoiser against the cosine.
        """
        short, rest = hits[: self.shortlist], hits[self.shortlist :]
        if direction == "t2m":
            return ranked([*self._molecules(query, short, alpha, library), *rest])
        return ranked([*self._texts(query, short, alpha), *rest])

    def _molecules(self, text: str, short: list[Hit], alpha: float, library: Index) -> list[Hit]:
        """Encodes only the molecules to denoise: the index holds the embeddings of all of them.

        Equal molecules compete once.
        """
        query = self._encoder.texts([text])
        s1 = self.reranker.perturbed(query, library.embeddings([hit.id for hit in short]))
        same = [hit.columns.get("identity", hit.content) for hit in short]
        _, first, group = np.unique(same, return_index=True, return_inverse=True)
        value, level = s1[first], np.full(len(first), -1)  # -1: below everything denoised
        head = np.lexsort((first, -value))[: self.reranker.settings.candidates]
        mol, parsed, _ = self._encoder.molecules([short[i].content for i in first[head]])
        head, score = head[parsed], value.copy()
        score[head], level[head] = self._scored(query, mol, "t2m", mol.group, alpha)
        value[head] = 0  # equal levels keep the order of the cosine
        order = np.lexsort((-value[group], -level[group]))
        return [short[i]._replace(refined=float(score[group[i]])) for i in order]

    def _texts(self, smiles: str, short: list[Hit], alpha: float) -> list[Hit]:
        text = self._encoder.texts([hit.content for hit in short])
        mol = self._encoder.molecules([smiles])[0]
        score, level = self._scored(text, mol, "m2t", text.group, alpha)
        order = np.argsort(-level, kind="stable")  # equal levels keep the order of the cosine
        return [short[i]._replace(refined=float(score[i])) for i in order]

    def _scored(
        self, text: Encoded, mol: Encoded, direction: Direction, group: np.ndarray, alpha: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score and level (higher is better) of the candidates of one query, [n] each."""
        refined = self.reranker.lists(text, mol, direction, np.zeros(1, np.int64)).reranked
        score = refined.perturbed[0].copy()
        score[: refined.clean.shape[1]] += alpha * refined.clean[0]
        place = np.argsort(refined.item[0])  # of the distinct inputs 0, 1, ...
        return score[place][group], levels(refined, "fused", alpha)[0][place][group]
