"""The training pairs as tables, the model that reads them, and the plan of their batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from tmr_jax.config import Experiment, TrainConfig
from tmr_jax.data.batching import (
    Composition,
    Levels,
    Shapes,
    declare_rows,
    declare_shapes,
    make_batch,
)
from tmr_jax.data.features.similarity import (
    connectivity,
    fingerprints,
    molecule_groups,
    structure_place,
)
from tmr_jax.data.files import ARRAYS, cache_key, cached
from tmr_jax.data.tables import (
    MolTable,
    Refused,
    TextTable,
    apply_vocabulary,
    build_vocabulary,
    molecule_table,
    table_take,
    text_table,
    text_take,
)
from tmr_jax.data.workers import progress_of
from tmr_jax.models.encode import Encoder, States, distinct, l2_normalize, sequence_keys
from tmr_jax.models.run import TrainedModel, load_run, load_text_encoder, new_model
from tmr_jax.types import Batch, Pair, Taught, TextBatch, UserError

if TYPE_CHECKING:  # most trainings do without
    from tmr_jax.data.mining import Mined

MINED_VOCABULARY = 4096  # word pieces and pairs of them; seconds of algebra, and not minutes


class TrainingSet(NamedTuple):
    """The training pairs as tables; row i of each belongs to pair `ids[i]`.

    With levels a pair has a row for each of its texts, and an epoch reads one of them.
    """

    ids: tuple[str, ...]
    text: TextTable
    mol: MolTable
    text_group: np.ndarray  # int32 [n], equal for equal texts
    mol_group: np.ndarray  # int32 [n], equal for equal molecules (InChIKey)
    composition: Composition
    shapes: Shapes
    refused: list[Refused]  # index: of the pairs passed in
    described: np.ndarray | None = None  # int32 [n, K], groups of a molecule's other texts, or -1
    taught: Taught | None = None  # of the rows
    states: States | None = None  # of a frozen text encoder; batches then carry them
    shards: int = 1  # parts of a batch that are encoded separately

    @property
    def pairs(self) -> int:
        levels = self.composition.levels
        return len(self.ids) if levels is None else len(levels.starts)

    @property
    def texts_cut(self) -> int:
        """Whole descriptions that were cut."""
        levels, cut = self.composition.levels, self.text.truncated
        return int((cut if levels is None else cut[levels.starts[:, 0]]).sum())

    @property
    def encodes_text(self) -> bool:
        """Whether a training step runs the text encoder."""
        return self.states is None

    def batch(self, rows: np.ndarray, pad_token: int) -> Batch:
        """The pairs `rows` as arrays of the smallest declared shapes."""
        groups = (self.text_group, self.mol_group)
        how = (self.shapes, pad_token, self.shards, self.described)
        batch = make_batch(rows, self.text, self.mol, *groups, *how)
        batch = batch._replace(taught=jax.tree.map(lambda side: side[rows], self.taught))
        if self.states is None:
            return batch
        assert isinstance(batch.text, TextBatch), "a frozen text encoder reads buckets"
        return batch._replace(text=self.states.batch(rows, batch.text))


class Plan:
    """Which pairs make the batch of each step, and what is due after it, by (seed, step) alone."""

    def __init__(self, config: Experiment, dataset: Any) -> None:
        self._train, self._composition = config.train, dataset.composition
        self._epoch, self._rows = 0, self._composition.epoch(config.train.seed, 0)
        self.epoch_steps = len(self._rows)
        self.total = config.train.epochs * self.epoch_steps

    def rows(self, step: int, count: int) -> np.ndarray:
        """Pairs of `count` steps after `step` steps, within the epoch: int64 [count, B]."""
        epoch, place = divmod(step, self.epoch_steps)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._composition.epoch(self._train.seed, epoch)
        return self._rows[place : place + count]

    def validation_due(self, step: int) -> bool:
        """After every `eval_every` epochs, and at the end."""
        epoch, rest = divmod(step, self.epoch_steps)
        due = step > 0 and rest == 0 and epoch % self._train.eval_every == 0
        return due or step == self.total

    def save_due(self, step: int) -> bool:
        return step % self._train.save_every == 0

    def steps_of_a_call(self, step: int, per_call: int) -> int:
        """A whole call, or a single step where the epoch's end or the next save comes before."""
        left = (-step % n or n for n in (self.epoch_steps, self._train.save_every))
        return per_call if min(left) >= per_call else 1


def model_and_dataset(
    config: Experiment, pairs: Sequence[Pair], shards: int = 1
) -> tuple[TrainedModel, TrainingSet, dict[str, Any] | None]:
    """A new model, its training set, and pretrained text weights if the experiment names any.

    `shards` is the number of parts of a batch that are encoded separately: declared shapes are
    those of a part. Pairs of other splits than train are not read. Raises UserError where
    sections of the experiment contradict each other or no training pair is left.
    """
    encoder = load_text_encoder(config)
    rows = [p for p in pairs if p.split == "train"]
    mol, kept, refused = molecule_table(
        [p.smiles for p in rows], config.features.molecule, config.features.motif
    )
    rows = [rows[i] for i in kept]
    if not rows:
        raise UserError(
            f"expected training pairs; got {len(pairs)} pairs of other splits or with molecules "
            "that were refused; look at validation.json in the run directory"
        )
    vocabulary = None
    if config.features.molecule == "morgan1":
        vocabulary = build_vocabulary(mol)
        mol, _ = apply_vocabulary(mol, vocabulary)
    levels = None
    if config.train.levels:
        rows, of_pair, levels = _with_levels(rows, config.train.levels)
        mol = table_take(mol, of_pair)
    text = text_table([p.text for p in rows], encoder.tokenizer, config.features.max_tokens)
    text_group = distinct(sequence_keys(text.tokens, text.offsets))[1].astype(np.int32)
    smiles = [p.smiles for p in rows]
    mol_group = molecule_groups(smiles)
    model = new_model(config, encoder, vocabulary)
    composition = _composition(config, text, smiles)._replace(levels=levels)
    if config.train.mined:
        # Molecules of one connectivity are near, and no negatives of one another.
        mol_group = np.unique(connectivity(smiles), return_inverse=True)[1].astype(np.int32)
        first = np.arange(len(rows)) if levels is None else levels.starts[:, 0]
        kinds = np.stack([mol_group, text_group], 1)[first]
        whole = text_take(text, first), [smiles[i] for i in first]
        composition = composition._replace(mined=mined(config.train, *whole, kinds))
    taught = None
    if config.train.teachers:
        from tmr_jax.train.teachers import taught_by

        runs = [Path(run) for run in config.train.teachers]
        taught, record = taught_by(runs, config.data, [p.text for p in rows], smiles)
        model = model._replace(weights=model.weights | record)
    dataset = TrainingSet(
        ids=tuple(p.id for p in rows),
        text=text,
        mol=mol,
        text_group=text_group,
        mol_group=mol_group,
        composition=composition,
        shapes=_shapes(config, composition, mol, shards),
        refused=refused,
        described=None if levels is None else other_texts(text_group, levels.starts),
        taught=taught,
        shards=shards,
    )
    return model, dataset, encoder.weights


def _with_levels(
    pairs: list[Pair], shares: tuple[float, ...]
) -> tuple[list[Pair], np.ndarray, Levels]:
    """A row for each text of each pair, the pair of each row, and where a pair has which texts.

    A text of one sentence has no sentences of its own, and so for clauses.
    """
    from tmr_jax.data.features.clauses import clauses, sentences  # most trainings do without

    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            "expected three shares that sum to 1 as --train.levels: of whole descriptions, of "
            f"sentences and of clauses; got {shares}; set 0.5 0.25 0.25, say"
        )
    rows, starts = [], []
    for pair in pairs:
        starts.append([len(rows), len(rows) + 1])
        rows.append(pair)
        for parts in (sentences(pair.text), clauses(pair.text)):
            rows += [pair._replace(text=part) for part in parts] if len(parts) > 1 else []
            starts[-1].append(len(rows))
    table = np.array(starts, np.int64)
    return rows, np.repeat(np.arange(len(pairs)), table[:, -1] - table[:, 0]), Levels(table, shares)


def other_texts(text_group: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Groups of all texts of each row's pair that another pair has, too: int32 [n, K], or -1."""
    rows = np.repeat(np.arange(len(starts)), starts[:, -1] - starts[:, 0])
    both = np.unique(np.stack([text_group, rows]), axis=1)  # a group once for each pair
    shared = np.bincount(both[0]) > 1
    held = [[] for _ in starts]
    for group, pair in both[:, shared[both[0]]].T.tolist():
        held[pair].append(group)
    table = np.full((len(starts), max(map(len, held), default=0)), -1, np.int32)
    for row, groups in zip(table, held, strict=True):
        row[: len(groups)] = groups
    return table[rows]


def _composition(config: Experiment, text: TextTable, smiles: list[str]) -> Composition:
    train = config.train
    packed = train.texts == "packed"
    if packed and train.alike > 1:
        raise UserError(
            "expected --train.texts buckets with --train.alike, which makes batches of similar "
            "lengths; got packed; choose one of the two"
        )
    if packed and train.freeze == "text":
        raise UserError(
            "expected --train.texts buckets with --train.freeze text, whose states are stored text "
            "by text and not packed; got packed; leave --train.texts out"
        )
    place = structure_place(fingerprints(smiles)) if train.alike > 1 else None
    lengths = np.diff(text.offsets)
    row = config.features.max_tokens if packed else 0
    return Composition(lengths, train.batch_size, row, train.pool_batches, train.alike, place)


def mined(train: TrainConfig, text: TextTable, smiles: list[str], kinds: np.ndarray) -> Mined:
    """What `--train.mined` makes groups of: text i describes molecule i.

    A row is the sum of both sides of a linear branch (tmr_jax/train/lexical.py) of fingerprints,
    fitted to these pairs. It takes seconds, is the same for every model, and does not change while
    one trains. Kept in the cache folder, so that a resumed run has the same bits on any machine.
    """
    from tmr_jax.data.mining import Mined, whole_numbers

    if train.texts != "packed":
        raise UserError(
            "expected --train.texts packed with --train.mined, whose batches have texts of any "
            f"length; got {train.texts}; set both"
        )
    if train.mined < 2 or train.batch_size % train.mined:
        raise UserError(
            f"expected a --train.mined of at least 2 that divides the {train.batch_size} pairs of "
            f"a batch; got {train.mined}; set 8, say"
        )

    def fitted() -> dict[str, np.ndarray]:
        from tmr_jax.train.lexical import WIDTH, fit_lexical

        bits = fingerprints(smiles)
        branch = fit_lexical(text, bits, WIDTH, MINED_VOCABULARY)
        sides = branch.text_rows(text.tokens, text.offsets), branch.mol_rows(bits)
        read, built = map(l2_normalize, sides)
        return {"rows": whole_numbers(l2_normalize(read + built))}

    key = cache_key("mined", [MINED_VOCABULARY], [text.tokens, text.offsets, *smiles])
    rows = cached(key, fitted, lambda found: len(found["rows"]) == len(smiles), ARRAYS)["rows"]
    return Mined(rows, kinds, train.mined)


def _shapes(config: Experiment, composition: Composition, mol: MolTable, shards: int) -> Shapes:
    """The shapes of one part of a batch."""
    share = composition.batch_size // shards
    planned = molecules = composition.sample().reshape(-1, share)
    if composition.levels is not None:  # an epoch reads a molecule once, whatever its texts
        first = composition.levels.starts[:, 0]
        mol, molecules = table_take(mol, first), np.searchsorted(first, planned, side="right") - 1
    shapes = declare_shapes(mol, config.train.text_buckets, share, molecules)
    if not composition.packed:
        return shapes
    rows = declare_rows(composition.text_lengths, planned, composition.row)
    return shapes._replace(text=(composition.row,), rows=rows)


def freeze_text(model: TrainedModel, dataset: TrainingSet, params: Any) -> TrainingSet:
    """The training set with the hidden states of its texts from a text encoder that is frozen."""
    what, encoder = "states of the frozen text encoder", Encoder(model, params)
    with progress_of(what, len(dataset.ids), transient=True) as on_progress:
        states = encoder.states(dataset.text, on_progress)
    return dataset._replace(states=states)


def started_text(model: TrainedModel, start: Path) -> tuple[TrainedModel, dict[str, Any]]:
    """The model with the origin of its text encoder recorded, and that encoder's weights.

    Raises UserError where the run `start` has another text encoder than the experiment.
    """
    before, params, checkpoint = load_run(start)
    ours, theirs = ((m.bert, m.tokenizer.sha256) for m in (model, before))
    if ours != theirs:
        raise UserError(
            f"expected the text encoder and tokenizer of {start} (--train.start); got others in "
            f"the experiment, {model.config.model.text.source}; take both from one source"
        )
    origin = {"start": f"{start}, step {checkpoint.step}", "start_sha256": checkpoint.sha256}
    return model._replace(weights=model.weights | origin), params["text_encoder"]
