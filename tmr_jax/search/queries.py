"""Queries to rows: texts and SMILES to encode, and whether texts resemble the validated ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from tmr_jax.data.features.graph import parse_smiles
from tmr_jax.eval.ood import OodDetector
from tmr_jax.models.encode import Encoder
from tmr_jax.models.run import TrainedModel
from tmr_jax.search.hits import EncodedQuery, Query
from tmr_jax.types import UserError


class QueryEncoder:
    """Encodes queries of both kinds; `detector` knows the validation texts of the run."""

    def __init__(
        self, assembly: TrainedModel, encoder: Encoder, detector: OodDetector | None
    ) -> None:
        self._assembly, self._encoder, self._detector = assembly, encoder, detector

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n D"]:
        return self._encoder.texts(strings(texts)).rows

    def molecules(self, smiles: Sequence[str]) -> Float[np.ndarray, "n D"]:
        encoded, _, refused = self._encoder.molecules(strings(smiles))
        if refused:
            shown = "; ".join(f"row {r.index}: {r.reason} ({r.value!r})" for r in refused[:5])
            raise UserError(
                f"expected every string to be the SMILES of a molecule, got {len(refused):,} of "
                f"{len(smiles):,} that are not: {shown}; correct or remove them"
            )
        return encoded.rows

    def is_cut(self, text: str) -> bool:
        a = self._assembly
        return bool(a.tokenizer.encode([text], a.config.features.max_tokens)[1][0])

    def are_ood(self, texts: Float[np.ndarray, "Q D"]) -> Bool[np.ndarray, " Q"] | None:
        if self._detector is None:
            return None
        return self._detector.ood_score(texts) > self._detector.threshold

    def encode(self, queries: Sequence[Query]) -> list[EncodedQuery | ValueError]:
        """What the model makes of each query, or the error that the query is refused with."""
        encoded: list[EncodedQuery | ValueError] = [ValueError()] * len(queries)
        for of in ("text", "molecule"):
            places = [i for i, query in enumerate(queries) if query.of == of]
            if places:
                rows = self._encoded(of, [queries[i].content for i in places])
                for place, row in zip(places, rows, strict=True):
                    encoded[place] = row
        return encoded

    def _encoded(self, of: str, contents: list[str]) -> list[EncodedQuery | ValueError]:
        """All in one call; where one of them is refused, one by one."""
        try:
            if of == "molecule":
                for smiles in contents:
                    parse_smiles(smiles)  # says more about what is wrong with one
                return [EncodedQuery(row) for row in self.molecules(contents)[:, None]]
            rows = self.texts(contents)
        except ValueError as error:
            if len(contents) == 1:
                return [error]
            return [self._encoded(of, [content])[0] for content in contents]
        ood = self.are_ood(rows)
        flags = np.zeros(len(rows), bool) if ood is None else ood
        cut = map(self.is_cut, contents)
        return [EncodedQuery(*one) for one in zip(rows[:, None], cut, flags.tolist(), strict=True)]


def strings(given: Sequence[str]) -> list[str]:
    """The strings as a list; ValueError for a single string, and for none."""
    if isinstance(given, str):
        raise UserError(f"expected a list of strings, got one string; write [{given[:40]!r}]")
    if not len(given):
        raise UserError("expected at least one string, got an empty list; give one or more")
    return list(given)
