"""The second of two stages: a generator on the features of a finished encoder.

In: the run that trained the encoder. Its token and atom embeddings of every training pair are
computed once and stay in memory; batches are cut out of them, and only the generator's parameters
are trained. The new run holds the encoder's parameters too and is self-contained.
See docs/papers.md#two-stages.
"""

# pyright: reportArgumentType=false
# (numpy arrays stand in for jax.Array in a batch until the step moves them to the device)

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.config import Experiment, from_json
from tmr_jax.data.batching import Composition, Shapes, declare_shapes
from tmr_jax.data.features.similarity import molecule_groups, structure_place
from tmr_jax.data.tables import Refused, text_table
from tmr_jax.eval.rerank import take
from tmr_jax.eval.rerank_steps import padded
from tmr_jax.models.checkpoint import restore_params
from tmr_jax.models.encode import Encoder, l2_normalize
from tmr_jax.models.run import TrainedModel, load_run, with_config
from tmr_jax.models.runtime import CONFIG, FITTED, VALIDATION
from tmr_jax.types import EncodedBatch, EncodedCorpus, MolOut, Pair, TextOut, UserError


class FeatureSet(NamedTuple):
    """Training pairs as an encoder's features; row i of each belongs to pair `ids[i]`."""

    ids: tuple[str, ...]
    text: EncodedCorpus
    mol: EncodedCorpus
    text_group: np.ndarray  # int32 [n]
    mol_group: np.ndarray
    composition: Composition  # its `place`: what is near in it is near in the shared space
    shapes: Shapes
    refused: list[Refused]
    texts_cut: int
    encodes_text: bool = False  # in a training step

    @property
    def pairs(self) -> int:
        return len(self.ids)

    def batch(self, rows: np.ndarray, pad_token: int) -> EncodedBatch:
        """The pairs `rows`, tokens padded to a text bucket, atoms to a level of atoms."""
        del pad_token  # tokens are vectors already
        lengths = np.diff(self.text.offsets)[rows]
        size = min(b for b in self.shapes.text if b >= lengths.max())
        index, mask = padded(self.text.offsets, rows, size)
        tokens = np.where(mask[..., None], self.text.token_embeddings[index], 0)
        counts = np.diff(self.mol.offsets)[rows]
        budget = min(n for n in self.shapes.nodes if n >= counts.sum())
        atoms, real = padded(self.mol.offsets, rows)
        nodes = np.zeros((budget, tokens.shape[-1]), np.float32)
        nodes[: counts.sum()] = self.mol.token_embeddings[atoms[real]]
        graph = np.full(budget, len(rows), np.int32)
        graph[: counts.sum()] = np.repeat(np.arange(len(rows)), counts)
        text = TextOut(self.text.pooled[rows], tokens, mask)
        mol = MolOut(self.mol.pooled[rows], nodes, graph)
        return EncodedBatch(text, mol, self.text_group[rows], self.mol_group[rows])


def finished(run: Path) -> bool:
    """Whether the run has a checkpoint of its last step, and has fitted what follows it."""
    try:
        config = from_json((run / CONFIG).read_text(encoding="utf-8"))
        pairs = json.loads((run / VALIDATION).read_text())["training"]["pairs"]
        step = restore_params(run, "newest")[1]
    except (OSError, ValueError):
        return False
    fits = config.train.lexical or config.train.facts
    if fits and not (run / FITTED).is_file():
        return False
    return step >= config.train.epochs * (pairs // config.train.batch_size)


def model_and_features(
    config: Experiment, pairs: Sequence[Pair], start: Path
) -> tuple[TrainedModel, FeatureSet, dict[str, Any]]:
    """The model with the encoder of `start`, the features of its pairs, the encoder's parameters.

    Raises UserError where the encoder that the experiment describes is not the one in `start`.
    """
    if config.train.texts == "packed":
        raise UserError(
            "expected --train.texts buckets in the second of two stages, which reads token "
            "embeddings; got packed; set it in the experiment of the first stage alone"
        )
    before, params, checkpoint = load_run(start)
    _check_same_encoder(config, before.config, start)
    origin = {"start": f"{start}, step {checkpoint.step}", "start_sha256": checkpoint.sha256}
    model = with_config(before, config, before.weights | origin)
    if not model.reranks:
        raise UserError(
            f"expected a model with a generator for --train.start; got {config.model.name}; "
            "set --model.name difftmr"
        )
    return model, _features(model, params, [p for p in pairs if p.split == "train"]), params


def _features(model: TrainedModel, params: Any, pairs: list[Pair]) -> FeatureSet:
    train = model.config.train
    encoder = Encoder(model, params, parts=True)
    mol_table, valid, refused = encoder.molecule_table([p.smiles for p in pairs])
    pairs = [pairs[i] for i in valid]
    texts = [p.text for p in pairs]
    seen = with_dropout(texts, train.word_dropout, train.seed)
    tokens = text_table(seen, model.tokenizer, model.config.features.max_tokens)
    text, mol = encoder.text_rows(tokens), encoder.mol_rows(mol_table)
    assert text.side is not None and mol.side is not None
    lengths, place = np.diff(tokens.offsets), structure_place(l2_normalize(text.rows + mol.rows))
    composition = Composition(lengths, train.batch_size, 0, train.pool_batches, train.alike, place)
    planned = composition.sample()
    return FeatureSet(
        ids=tuple(p.id for p in pairs),
        text=take(text.side, text.group),
        mol=take(mol.side, mol.group),
        # Of the whole texts: word dropout does not change which texts are duplicates.
        text_group=np.unique(np.array(texts, object), return_inverse=True)[1].astype(np.int32),
        mol_group=molecule_groups([p.smiles for p in pairs]),
        composition=composition,
        shapes=declare_shapes(mol_table, train.text_buckets, train.batch_size, planned),
        refused=refused,
        texts_cut=int(tokens.truncated.sum()),
    )


def with_dropout(texts: Sequence[str], share: float, seed: int) -> list[str]:
    """The texts without a random share of their words; each keeps at least one.

    Raises UserError for a share that is not from 0 to below 1.
    """
    if not 0 <= share < 1:
        raise UserError(
            f"expected a share of words from 0 to below 1 as --train.word-dropout; got {share}"
        )
    if not share:
        return list(texts)
    random, shortened = np.random.default_rng(seed), []
    for text in texts:
        words = text.split()
        keep = random.random(len(words)) >= share
        keep[random.integers(len(words))] = True
        shortened.append(" ".join(w for w, k in zip(words, keep, strict=True) if k))
    return shortened


def _check_same_encoder(ours: Experiment, theirs: Experiment, start: Path) -> None:
    here, there = (
        {"features": e.features, "dim": e.model.dim, "text": e.model.text, "graph": e.model.graph}
        for e in (ours, theirs)
    )
    wrong = [name for name in here if here[name] != there[name]]
    if wrong:
        raise UserError(
            f"expected the encoder of {start}; got another {' and '.join(wrong)} in the "
            "experiment; derive both from one configuration, or train the encoder again"
        )
