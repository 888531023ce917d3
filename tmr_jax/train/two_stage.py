"""The second of two stages (MODELS.md A1.8, 3.5): a generator on a finished encoder's features.

In: the run that trained the encoder. Its words and atoms of every training pair are read once and
stay in memory; batches are cut out of them, and only the generator's parameters are trained. The
new run holds the encoder's parameters too and stands alone.
"""

# pyright: reportArgumentType=false
# (numpy arrays stand in for jax.Array in a batch until the step moves them to the device)

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tmr_jax.config import Experiment, from_json
from tmr_jax.data.batching import Composition, Shapes, declare_shapes
from tmr_jax.data.hard_negatives import structure_place
from tmr_jax.data.identity import molecule_groups
from tmr_jax.data.tables import Refused, apply_vocabulary, molecule_table, text_table
from tmr_jax.eval.rerank import take
from tmr_jax.eval.rerank_steps import padded
from tmr_jax.models.encode import Encoder, l2_normalize
from tmr_jax.models.run import TrainedModel, load_model, refines, with_config
from tmr_jax.models.state import joined
from tmr_jax.types import EncodedBatch, EncodedCorpus, MolOut, Pair, TextOut, UserError


class FeatureSet(NamedTuple):
    """Training pairs as an encoder sees them; row i of each belongs to pair `ids[i]`."""

    ids: tuple[str, ...]
    text: EncodedCorpus
    mol: EncodedCorpus
    text_group: np.ndarray  # int32 [n]
    mol_group: np.ndarray
    composition: Composition  # its `place`: near in it, near in the shared space
    shapes: Shapes
    refused: list[Refused]
    unknown_atoms: int
    texts_cut: int
    shards: int = 1  # a generator by itself is little work: one device does it

    def batch(self, rows: np.ndarray, pad_token: int) -> EncodedBatch:
        """The pairs `rows`, words padded to a text bucket, atoms to a level of atoms."""
        del pad_token  # words are vectors already
        lengths = np.diff(self.text.offsets)[rows]
        size = min(b for b in self.shapes.text if b >= lengths.max())
        index, mask = padded(self.text.offsets, rows, size)
        tokens = np.where(mask[..., None], self.text.token_embeddings[index], 0)
        counts = np.diff(self.mol.offsets)[rows]
        budget = min(n for n in self.shapes.nodes if n >= counts.sum())
        atoms, real = padded(self.mol.offsets, rows)
        nodes = np.zeros((budget, tokens.shape[-1]), np.float32)
        nodes[: counts.sum()] = self.mol.token_embeddings[atoms[real]]
        of_graph = np.full(budget, len(rows), np.int32)
        of_graph[: counts.sum()] = np.repeat(np.arange(len(rows)), counts)
        text = TextOut(self.text.pooled[rows], tokens, mask)
        mol = MolOut(self.mol.pooled[rows], nodes, of_graph)
        return EncodedBatch(text, mol, self.text_group[rows], self.mol_group[rows])


def finished(run: Path) -> bool:
    """Whether the run has done all the steps that it was to do."""
    from tmr_jax.models.checkpoint import restore_params

    try:
        config = from_json((run / "config.json").read_text(encoding="utf-8"))
        pairs = json.loads((run / "validation.json").read_text())["training"]["pairs"]
        step = restore_params(run, "newest")[1]
    except (OSError, ValueError):
        return False
    return step >= config.train.epochs * (pairs // config.train.batch_size)


def assemble_for_generator(
    config: Experiment, pairs: Sequence[Pair], start: Path
) -> tuple[TrainedModel, FeatureSet, dict[str, Any]]:
    """The assembly with the encoder of `start`, the features of its pairs, and its parameters.

    Raises ValueError where the encoder that the experiment describes is not the one in `start`.
    """
    from tmr_jax.models.checkpoint import restore_params
    from tmr_jax.models.state import parameters_sha256

    if config.train.texts == "packed":
        raise UserError(
            "expected --train.texts buckets in the second of two stages, which reads words as "
            "vectors; got packed; say it in the experiment of the first stage alone"
        )
    before = load_model(start)
    _check_same_encoder(config, before.config, start)
    params, step = restore_params(start, "best")
    origin = {"start": f"{start}, step {step}", "start_sha256": parameters_sha256(params)}
    assembly = with_config(before, config, before.weights | origin)
    if not refines(assembly.model):
        raise UserError(
            f"expected a model with a generator for --train.start; got {config.model.name}; "
            "set --model.name difftmr"
        )
    rows = [p for p in pairs if p.split == "train"]
    table, kept, refused = molecule_table(
        [p.smiles for p in rows], config.features.molecule, config.features.motif
    )
    rows = [rows[i] for i in kept]
    unknown = 0
    if assembly.vocabulary is not None:
        table, unknown = apply_vocabulary(table, assembly.vocabulary)
    train = config.train
    texts = [p.text for p in rows]
    read = with_dropout(texts, train.word_dropout, train.seed)
    words = text_table(read, assembly.tokenizer, config.features.max_tokens)
    encoder = Encoder(assembly, params, parts=True)
    text, mol = encoder.text_rows(words), encoder.mol_rows(table)
    assert text.side is not None and mol.side is not None
    lengths, place = np.diff(words.offsets), structure_place(l2_normalize(text.rows + mol.rows))
    how = (lengths, train.batch_size, 0, train.pool_batches, train.alike, place)
    composition = Composition(*how)
    planned = composition.sample()
    features = FeatureSet(
        ids=tuple(p.id for p in rows),
        text=take(text.side, text.group),
        mol=take(mol.side, mol.group),
        # Of the whole texts: what dropout left says nothing of who is a duplicate.
        text_group=np.unique(np.array(texts, object), return_inverse=True)[1].astype(np.int32),
        mol_group=molecule_groups([p.smiles for p in rows]),
        composition=composition,
        shapes=declare_shapes(table, train.text_buckets, train.batch_size, planned),
        refused=refused,
        unknown_atoms=unknown,
        texts_cut=int(words.truncated.sum()),
    )
    return assembly, features, params


def with_dropout(texts: Sequence[str], share: float, seed: int) -> list[str]:
    """The texts without a random share of their words; of each one word stays at least.

    Errors: ValueError for a share that is not from 0 to below 1.
    """
    if not 0 <= share < 1:
        raise UserError(
            f"expected a share of words from 0 to below 1 as --train.word-dropout; got {share}"
        )
    if not share:
        return list(texts)
    random, found = np.random.default_rng(seed), []
    for text in texts:
        words = text.split()
        stays = random.random(len(words)) >= share
        stays[random.integers(len(words))] = True
        found.append(" ".join(w for w, s in zip(words, stays, strict=True) if s))
    return found


def init_generator(
    assembly: TrainedModel, batch: EncodedBatch, seed: int, encoder: dict[str, Any]
) -> dict[str, Any]:
    """The encoder's parameters and fresh ones of the generator."""
    fresh = joined(jax.jit(assembly.model.init)(jax.random.key(seed), batch))
    # Copies: a training step takes over what it is given.
    return {**fresh, **jax.tree.map(jax.numpy.array, encoder)}


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
