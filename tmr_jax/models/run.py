"""From a configuration, or from a run directory, to a model with its tokenizer and featuriser.

Training builds an `Assembly` from pairs and pretrained weights and leaves in the run directory
what it takes to build the same one again: config.json, features.json, tokenizer.json and, under
morgan1, vocab.npz. `assemble_from_run` reads only those, so a run stands alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from tmr_jax.config import Experiment, from_json
from tmr_jax.data.batching import (
    ATOMS,
    Composition,
    Shapes,
    declare_rows,
    declare_shapes,
    encode_batches_mol,
    encode_batches_text,
    make_batch,
    mol_batch,
)
from tmr_jax.data.cache import (
    CACHE_FROM,
    VERSION,
    MolTable,
    Refused,
    TextTable,
    Vocabulary,
    apply_vocabulary,
    build_vocabulary,
    cache_folder,
    load_vocabulary,
    molecule_table,
    passing_text_table,
    read_arrays,
    save_arrays,
    save_vocabulary,
    table_take,
    text_table,
    text_take,
)
from tmr_jax.data.features.fingerprint import fingerprints
from tmr_jax.data.features.text import Tokenizer, load_tokenizer
from tmr_jax.data.files import write_text
from tmr_jax.data.hard_negatives import structure_place
from tmr_jax.models.build import build_model
from tmr_jax.models.devices import devices_at_hand
from tmr_jax.models.encode import distinct, encode, encode_parts, sequence_keys, unit
from tmr_jax.models.layers.bert import BertConfig, stacked
from tmr_jax.models.state import joined, parameters_sha256, variables
from tmr_jax.models.text_cache import States, text_states, with_states
from tmr_jax.types import Batch, Pair, Side, TextBatch

QUESTIONS = 8  # so few texts are a batch of their own size, and so is one
ANSWERS = 32  # so few molecules are
# From so many texts on a CPU pads to multiples of `FINE` tokens: padding falls from 20 to 10 % at
# ChEBI-20's lengths, and a shape compiles in under a second there. Accelerators compile longer.
CORPUS, FINE = 1000, 16
FEATURES, TOKENIZER, VOCABULARY = "features.json", "tokenizer.json", "vocab.npz"


class Assembly(NamedTuple):
    """A model without parameters, and everything that turns strings into its inputs."""

    config: Experiment
    model: nn.Module
    tokenizer: Tokenizer
    bert: BertConfig
    weights: dict[str, str]  # what the text encoder started from: source, revision, SHA-256
    vocabulary: Vocabulary | None  # of atoms; None unless morgan1


class TrainingSet(NamedTuple):
    """The training pairs as tables; row i of each belongs to pair `ids[i]`."""

    ids: tuple[str, ...]
    text: TextTable
    mol: MolTable
    text_group: np.ndarray  # int32 [n], equal where two texts are the same text
    mol_group: np.ndarray  # int32 [n], equal where two molecules are the same (InChIKey)
    composition: Composition
    shapes: Shapes
    refused: list[Refused]  # index: of the pairs handed in
    unknown_atoms: int  # of these molecules, outside the vocabulary: 0 unless something is wrong
    states: States | None = None  # of a frozen text encoder, which batches then carry
    shards: int = 1  # parts of a batch that are encoded apart

    @property
    def texts_cut(self) -> int:
        return int(self.text.truncated.sum())

    def batch(self, rows: np.ndarray, pad_token: int) -> Batch:
        """The pairs `rows` as arrays of the smallest declared shapes."""
        groups = (self.text_group, self.mol_group)
        batch = make_batch(rows, self.text, self.mol, *groups, self.shapes, pad_token, self.shards)
        if self.states is None:
            return batch
        assert isinstance(batch.text, TextBatch), "a text encoder that is frozen reads buckets"
        return batch._replace(text=self.states.batch(rows, batch.text))


# Building


def assemble_for_training(
    config: Experiment, pairs: Sequence[Pair], shards: int = 1
) -> tuple[Assembly, TrainingSet, dict[str, Any] | None]:
    """The assembly of an experiment, its training set, and pretrained text weights if it wants any.

    `shards` is the number of parts of a batch that are encoded apart: the shapes are a part's.
    `pairs` of other splits than train are not looked at. Raises ValueError where the sections of
    the experiment contradict each other or no pair is left.
    """
    bert, text_weights, record, tokenizer = _text_encoder(config)
    _check_text(config, bert, tokenizer)
    rows = [p for p in pairs if p.split == "train"]
    mol, kept, refused = molecule_table(
        [p.smiles for p in rows], config.features.molecule, config.features.motif
    )
    rows = [rows[i] for i in kept]
    if not rows:
        raise ValueError(
            f"expected training pairs; got {len(pairs)} pairs of other splits or with molecules "
            "that were refused; look at validation.json in the run directory"
        )
    vocabulary, unknown = None, 0
    if config.features.molecule == "morgan1":
        vocabulary = build_vocabulary(mol)
        mol, unknown = apply_vocabulary(mol, vocabulary)
    text = text_table([p.text for p in rows], tokenizer, config.features.max_tokens)
    model = _model(config, bert, vocabulary)
    assembly = Assembly(config, model, tokenizer, bert, record, vocabulary)
    composition = _composition(config, text, [p.smiles for p in rows])
    training = TrainingSet(
        ids=tuple(p.id for p in rows),
        text=text,
        mol=mol,
        text_group=distinct(sequence_keys(text.tokens, text.offsets))[1].astype(np.int32),
        mol_group=molecule_groups([p.smiles for p in rows]),
        composition=composition,
        shapes=_shapes(config, composition, mol, shards),
        refused=refused,
        unknown_atoms=unknown,
        shards=shards,
    )
    return assembly, training, text_weights


def _composition(config: Experiment, text: TextTable, smiles: list[str]) -> Composition:
    train = config.train
    packed = train.texts == "packed"
    if packed and train.alike > 1:
        raise ValueError(
            "expected --train.texts buckets beside --train.alike, whose batches are of like "
            "lengths; got packed"
        )
    if packed and train.freeze == "text":
        raise ValueError(
            "expected --train.texts buckets beside --train.freeze text, whose states are read by "
            "the text and not packed; got packed"
        )
    place = structure_place(fingerprints(smiles)) if train.alike > 1 else None
    lengths = np.diff(text.offsets)
    row = config.features.max_tokens if packed else 0
    return Composition(lengths, train.batch_size, row, train.pool_batches, train.alike, place)


def _shapes(config: Experiment, composition: Composition, mol: MolTable, shards: int) -> Shapes:
    """Of the share of a batch that a device has."""
    share = composition.batch_size // shards
    planned = composition.sample().reshape(-1, share)
    shapes = declare_shapes(mol, config.train.text_buckets, share, planned)
    if not composition.packed:
        return shapes
    rows = declare_rows(composition.text_lengths, planned, composition.row)
    return shapes._replace(text=(composition.row,), rows=rows)


def assemble_from_run(run: str | Path) -> Assembly:
    """The assembly that a run was trained with, from its directory alone.

    Raises ValueError where a file is missing or does not belong to the others.
    """
    run = Path(run)
    config = from_json(_read(run / "config.json"))
    features = json.loads(_read(run / FEATURES))
    if features["featuriser"] != VERSION:
        raise ValueError(
            f"expected features of version {VERSION}, the one of this tmr_jax; got version "
            f"{features['featuriser']} in {run / FEATURES}; train again, or install the tmr_jax "
            "of the commit in git.txt"
        )
    tokenizer = load_tokenizer(run / TOKENIZER)
    if tokenizer.sha256 != features["tokenizer_sha256"]:
        raise ValueError(
            f"expected the tokenizer {features['tokenizer_sha256'][:12]}... that this run was "
            f"trained with; got {tokenizer.sha256[:12]}... in {run / TOKENIZER}; copy the run again"
        )
    bert = BertConfig(**features["bert"])
    vocabulary = None
    if config.features.molecule == "morgan1":
        vocabulary = load_vocabulary(run / VOCABULARY)
    # A kernel that this machine has not computes what the others do: any will do to read the run.
    train = dataclasses.replace(config.train, attention="auto")
    model = _model(dataclasses.replace(config, train=train), bert, vocabulary)
    return Assembly(config, model, tokenizer, bert, features["weights"], vocabulary)


def rebuilt(assembly: Assembly, config: Experiment, weights: dict[str, str]) -> Assembly:
    """Another model on the same tokenizer, text encoder and vocabulary."""
    model = _model(config, assembly.bert, assembly.vocabulary)
    return assembly._replace(config=config, model=model, weights=weights)


def save_assembly(run: Path, assembly: Assembly, shapes: Shapes) -> None:
    """Writes what `assemble_from_run` reads, save config.json, which the run already has."""
    assembly.tokenizer.save(run / TOKENIZER)
    if assembly.vocabulary is not None:
        save_vocabulary(run / VOCABULARY, assembly.vocabulary)
    features = {
        "featuriser": VERSION,
        **dataclasses.asdict(assembly.config.features),
        "tokenizer_sha256": assembly.tokenizer.sha256,
        "weights": assembly.weights,
        "bert": dataclasses.asdict(assembly.bert),
        "vocabulary": None if assembly.vocabulary is None else len(assembly.vocabulary.identifiers),
        "shapes": shapes._asdict(),
    }
    write_text(run / FEATURES, json.dumps(features, indent=2) + "\n")


def init_params(
    assembly: Assembly, batch: Batch, seed: int, text_weights: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Parameters of a new run: random by the seed, the text encoder's replaced where given."""
    params = joined(jax.jit(assembly.model.init)(jax.random.key(seed), batch))
    if text_weights is None:
        return params
    text_weights = stacked(text_weights)
    ours, theirs = (jax.tree.map(np.shape, tree) for tree in (params["text_encoder"], text_weights))
    assert ours == theirs, "the pretrained text weights are not those of the text encoder built"
    return {**params, "text_encoder": jax.tree.map(jax.numpy.asarray, text_weights)}


def started_text(assembly: Assembly, start: Path) -> tuple[Assembly, dict[str, Any]]:
    """The assembly, now saying where its text encoder is from, and that encoder's weights.

    Raises ValueError where the run `start` has another text encoder than the experiment.
    """
    from tmr_jax.models.checkpoint import restore_params

    before = assemble_from_run(start)
    ours, theirs = ((a.bert, a.tokenizer.sha256) for a in (assembly, before))
    if ours != theirs:
        raise ValueError(
            f"expected the text encoder and tokenizer of {start} (--train.start); got others in "
            f"the experiment, {assembly.config.model.text.source}; take both from one source"
        )
    params, step = restore_params(start, "best")
    origin = {"start": f"{start}, step {step}", "start_sha256": parameters_sha256(params)}
    return assembly._replace(weights=assembly.weights | origin), params["text_encoder"]


def freeze_text(assembly: Assembly, data: TrainingSet, params: Any) -> TrainingSet:
    """The training set with the text encoder's states of its texts, which stay as they are."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("states of the frozen text encoder", total=len(data.ids))
        encoder = Encoder(assembly, params)
        states = encoder.states(data.text, lambda done: bar.update(task, completed=done))
    return data._replace(states=states)


def _text_encoder(
    config: Experiment,
) -> tuple[BertConfig, dict[str, Any] | None, dict[str, str], Tokenizer]:
    """Configuration, weights (None: random), their record, and the tokenizer."""
    from tmr_jax.models.pretrained import load_bert, read_config, resolve

    text = config.model.text
    folder = Path(text.source).expanduser()
    if text.init == "random" and folder.is_dir():  # a folder without weights will do
        record = {"source": text.source, "init": "random"}
        return read_config(folder / "config.json"), None, record, load_tokenizer(folder)
    files = resolve(text.source, text.revision)
    tokenizer = load_tokenizer(files.tokenizer)
    if text.init == "random":
        record = {"source": text.source, "revision": files.revision, "init": "random"}
        return read_config(files.config), None, record, tokenizer
    bert, weights, record = load_bert(text.source, text.revision)
    return bert, weights, {**record, "init": "pretrained"}, tokenizer


def _check_text(config: Experiment, bert: BertConfig, tokenizer: Tokenizer) -> None:
    limit, longest = config.features.max_tokens, max(config.train.text_buckets)
    if limit > bert.max_positions:
        raise ValueError(
            f"expected --features.max-tokens of at most {bert.max_positions}, the positions of "
            f"{config.model.text.source}; got {limit}; lower it"
        )
    if longest < limit:
        raise ValueError(
            f"expected a text bucket that holds --features.max-tokens {limit}; got "
            f"{config.train.text_buckets}; add {limit} to --train.text-buckets"
        )
    if tokenizer.vocab_size > bert.vocab_size:
        raise ValueError(
            f"expected a tokenizer of at most {bert.vocab_size} pieces, the text encoder's; got "
            f"{tokenizer.vocab_size}; take both from one source (--model.text.source)"
        )


def _model(config: Experiment, bert: BertConfig, vocabulary: Vocabulary | None) -> nn.Module:
    from tmr_jax.data.features.atoms import EDGE_SIZES, ENVIRONMENT_SIZES, NODE_SIZES

    nodes, edges = NODE_SIZES, EDGE_SIZES
    if config.features.molecule == "ogb_morgan":
        nodes += ENVIRONMENT_SIZES
    if vocabulary is not None:
        nodes, edges = (len(vocabulary.identifiers) + 1,), ()
    return build_model(config.model, config.features, config.train, bert, nodes, edges)


def molecule_groups(smiles: Sequence[str]) -> np.ndarray:
    """Equal numbers for equal molecules by InChIKey (A1.4), int32 [n]; kept in the cache folder."""
    digest = hashlib.sha256(json.dumps(["groups", VERSION, *smiles]).encode()).hexdigest()[:32]
    path = cache_folder() / f"groups-{digest}.npz"
    if path.is_file():
        try:
            groups = read_arrays(path)["groups"]
            if groups.shape == (len(smiles),):
                return groups.astype(np.int32)
        except (ValueError, KeyError, OSError):
            pass  # a damaged file is computed again and written over
    groups = _molecule_groups(smiles)
    if len(smiles) >= CACHE_FROM:
        _keep(path, groups)
    return groups


def _molecule_groups(smiles: Sequence[str]) -> np.ndarray:
    from rich.console import Console
    from rich.progress import track

    from tmr_jax.data.identity import molecule_key

    watched: Iterable[str] = list(dict.fromkeys(smiles))
    if len(smiles) >= CACHE_FROM:
        watched = track(watched, "equal molecules", console=Console(stderr=True), transient=True)
    key = {s: molecule_key(s) for s in watched}
    number = {k: i for i, k in enumerate(dict.fromkeys(key.values()))}
    return np.array([number[key[s]] for s in smiles], np.int32)


def _keep(path: Path, groups: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, {"groups": groups})
    except OSError as error:  # the work itself needs no cache
        print(f"groups of equal molecules are not kept for the next time: {error}")


def _read(path: Path) -> str:
    if not path.is_file():
        raise ValueError(
            f"expected a run directory with {path.name}; got none at {path}; "
            "name a run that training has written, e.g. --run runs/quickstart"
        )
    return path.read_text(encoding="utf-8")


# Using


class Encoded(NamedTuple):
    """Embeddings of strings, and which of the strings are one and the same model input."""

    rows: np.ndarray  # float32 [n, D], of length one; equal bit for bit in a group
    group: np.ndarray  # int64 [n]
    side: Side | None = None  # row `group` of it belongs to a string; of models that refine
    norm: np.ndarray = np.zeros(0, np.float32)  # [n], how long the rows were; empty: not known


def check_path(run: str | Path) -> None:
    """ValueError where the locale's encoding cannot write the path, for neither can orbax."""
    path = str(Path(run).absolute())
    if any("\udc80" <= c <= "\udcff" for c in path):
        raise ValueError(
            f"expected a path in the encoding of this locale ({sys.getfilesystemencoding()}), got "
            f"{path.encode('ascii', 'backslashreplace').decode()}; set PYTHONUTF8=1 or move it"
        )


class Checkpoint(NamedTuple):
    """Which parameters of a run."""

    which: str  # best or newest
    step: int
    sha256: str  # of the parameters


def load_run(
    run: str | Path, which: Literal["best", "newest"] = "best"
) -> tuple[Assembly, Any, Checkpoint]:
    """The assembly of a run directory, its parameters, and which those are.

    Raises ValueError where the directory is no run or has no checkpoint that is whole.
    """
    from tmr_jax.models.checkpoint import restore_params

    check_path(run)
    assembly = assemble_from_run(run)
    params, step = restore_params(run, which)
    return assembly, params, Checkpoint(which, step, parameters_sha256(params))


def refines(model: nn.Module) -> bool:
    """Whether the model has a second stage (tmr_jax/eval/rerank_steps.py)."""
    return hasattr(model, "reconstruct")


class Encoder:
    """Strings in, unit rows out: an assembly with parameters. Each distinct input is encoded once.

    Give `params` another value to go on with other parameters and the same compiled functions.
    With `parts` the words and atoms of every input are kept too, for a model that refines.
    `watch` is called with the number of items done after every batch; what it raises ends the work.
    """

    def __init__(self, assembly: Assembly, params: Any, parts: bool = False) -> None:
        self._assembly, self.params, self._parts = assembly, params, parts
        model = assembly.model

        def read(method: str, params: Any, batch: Any) -> Any:
            out: Any = model.apply(variables(params), batch, method=method)
            return out if parts else out.pooled

        self._text = jax.jit(partial(read, "encode_text"))
        self._mol = jax.jit(partial(read, "encode_molecule"))
        self._states = jax.jit(
            lambda params, batch: model.apply(variables(params), batch, method="text_states")
        )

    def texts(
        self, texts: Sequence[str], watch: Callable[[int], None] = lambda done: None
    ) -> Encoded:
        """Embeddings of texts; ValueError with the row number where one is empty."""
        a = self._assembly
        table = text_table(texts, a.tokenizer, a.config.features.max_tokens)
        return self.text_rows(table, watch)

    def corpus(
        self, texts: Sequence[str], watch: Callable[[int], None] = lambda done: None
    ) -> tuple[Encoded, np.ndarray]:
        """`texts` of a library, and which of them are cut, bool [n]; no file is kept of them."""
        a = self._assembly
        table = passing_text_table(texts, a.tokenizer, a.config.features.max_tokens)
        return self.text_rows(table, watch, keep=False), table.truncated

    def text_rows(
        self,
        table: TextTable,
        watch: Callable[[int], None] = lambda done: None,
        keep: bool = True,
    ) -> Encoded:
        a = self._assembly
        keys = sequence_keys(table.tokens, table.offsets)
        first, group = distinct(keys)
        table = text_take(table, first)
        batches = self._batches(table)
        # A handful of texts is read at once: its states would only fill the disk.
        if keep and a.config.train.freeze == "text" and len(first) >= CACHE_FROM:
            batches = with_states(batches, self.states(table, watch))
        return self._encoded(self._text, batches, keys[first], group, watch)

    def states(self, table: TextTable, watch: Callable[[int], None] = lambda done: None) -> States:
        """The text encoder's states of all texts, kept in the cache folder."""
        dtype = self._assembly.config.train.precision
        weights = parameters_sha256(self.params["text_encoder"])
        read = partial(self._states, self.params)
        return text_states(read, weights, table, self._batches(table), dtype, watch)

    def _batches(self, table: TextTable) -> Iterable[tuple[np.ndarray, TextBatch]]:
        a = self._assembly
        size = a.config.eval.batch_size
        # A question is a text or a few: it need not wait for a whole batch of padding.
        count = len(table.truncated)
        size = next((few for few in (1, QUESTIONS) if count <= few < size), size)
        lengths: Sequence[int] = a.config.train.text_buckets
        if count >= CORPUS and jax.default_backend() == "cpu":
            lengths = (*range(FINE, max(lengths), FINE), max(lengths))
        return encode_batches_text(table, size, lengths, a.tokenizer.pad_token)

    def warm(self) -> None:
        """Compiles the shapes of questions: texts of every length, few molecules of every size.

        Texts come alone, a few at once, and in full batches; for a second stage (`parts`) alone.
        """
        a = self._assembly
        full = a.config.eval.batch_size
        text = text_table(["a"], a.tokenizer, a.config.features.max_tokens)
        for size in (1,) if self._parts else (1, min(QUESTIONS, full), full):
            for length in a.config.train.text_buckets:
                ((_, batch),) = encode_batches_text(text, size, [length], a.tokenizer.pad_token)
                self._text(self.params, batch)
        few = min(ANSWERS, full)
        table = self._molecule_table(["C"])[0]
        for nodes in (few * atoms for atoms in ATOMS):
            self._mol(self.params, mol_batch(np.zeros(1, int), table, (nodes,), (3 * nodes,), few))

    def molecules(
        self, smiles: Sequence[str], watch: Callable[[int], None] = lambda done: None
    ) -> tuple[Encoded, np.ndarray, list[Refused]]:
        """Embeddings of the molecules that parse, which rows those are, and what was refused."""
        table, kept, refused = self._molecule_table(smiles)
        return self.mol_rows(table, watch), kept, refused

    def _molecule_table(self, smiles: Sequence[str]) -> tuple[MolTable, np.ndarray, list[Refused]]:
        a = self._assembly
        features = a.config.features
        table, kept, refused = molecule_table(smiles, features.molecule, features.motif)
        if a.vocabulary is not None:
            table, _ = apply_vocabulary(table, a.vocabulary)
        return table, kept, refused

    def mol_rows(
        self, table: MolTable, watch: Callable[[int], None] = lambda done: None
    ) -> Encoded:
        first, group = distinct(table.key)
        size = self._assembly.config.eval.batch_size
        size = min(size, ANSWERS) if len(first) <= ANSWERS else size
        batches = encode_batches_mol(table_take(table, first), size)
        return self._encoded(self._mol, batches, table.key[first], group, watch)

    def _encoded(
        self,
        read: Any,
        batches: Iterable,
        keys: np.ndarray,
        group: np.ndarray,
        watch: Callable[[int], None],
    ) -> Encoded:
        def watched() -> Iterable:
            done = 0
            for indices, batch in batches:
                yield indices, batch
                done += len(indices)
                watch(done)

        # Each device has the parameters and every so-manieth batch.
        devices = devices_at_hand()
        held = [jax.device_put(self.params, d) for d in devices] if len(devices) > 1 else None
        turn = cycle(held or [self.params])

        def run(batch: Any) -> Any:
            return read(next(turn), batch)

        dim = self._assembly.config.model.dim
        if self._parts:
            side = encode_parts(run, watched(), keys, dim)
            pooled = side.pooled
        else:
            side, pooled = None, encode(run, watched(), len(keys), dim)
        norm = np.linalg.norm(pooled, axis=1)
        return Encoded(unit(pooled)[group], group, side, norm[group])
