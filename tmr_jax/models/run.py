"""From an experiment, or from a run directory, to a model with its tokenizer and featuriser.

Add a model: one file with a subclass of `DualEncoder`, and one line in MODELS (docs/extend.md).
Training builds a model from pairs and pretrained weights and writes what it takes to build the
same one again: config.json, features.json, tokenizer.json and, under morgan1, vocab.npz.
`load_model` reads only those, so a run directory is self-contained. The parameters are in its
checkpoints, or in model.safetensors where it holds exported weights (tmr_jax/models/exported.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tmr_jax.config import Experiment, FeatureConfig, ModelConfig, TrainConfig, from_json
from tmr_jax.data.batching import Shapes, mol_batch
from tmr_jax.data.features.graph import EDGE_SIZES, ENVIRONMENT_SIZES, NODE_SIZES
from tmr_jax.data.features.text import Tokenizer, load_tokenizer
from tmr_jax.data.files import VERSION, sha256_of, write_json
from tmr_jax.data.tables import (
    Vocabulary,
    apply_vocabulary,
    load_vocabulary,
    molecule_table,
    save_vocabulary,
)
from tmr_jax.models.checkpoint import (
    Which,
    describe,
    difference,
    joined,
    parameters_sha256,
    restore_params,
)
from tmr_jax.models.dual_encoder import DualEncoder
from tmr_jax.models.layers.attention import LANES, Form, fits_flash
from tmr_jax.models.layers.bert import Backward, BertConfig, stacked
from tmr_jax.models.runtime import CODE, CONFIG, EXPORTED, LEXICAL
from tmr_jax.types import Batch, EncodedBatch, TextBatch, UserError, did_you_mean

if TYPE_CHECKING:
    from tmr_jax.models.lexical import Lexical

MODELS = {  # file of tmr_jax/models and class; only the model of an experiment is imported
    "dual": "dual_encoder:DualEncoder",
    "difftmr": "difftmr:DiffTMR",
    "mbank": "memory_bank:MemoryBank",
}


def build_model(
    model: ModelConfig,
    features: FeatureConfig,
    train: TrainConfig,
    bert: BertConfig,
    node_sizes: tuple[int, ...],
    edge_sizes: tuple[int, ...],
    backend: str = "",
    run: Path | None = None,
) -> DualEncoder:
    """The Linen module of an experiment; sizes are the cardinalities of the atom and bond columns.

    Under morgan1 `node_sizes` is (vocabulary + 1,) and `edge_sizes` is empty. `backend` is the one
    that the model is compiled for: "cpu", "gpu" or "tpu"; empty: the one of this process. A model
    in a file of the user's own is read from its copy in `run`, if there is one.
    """
    kind = _own_kind(model.name, run) if model.is_own else _kind(model.name)
    kind.check(model, train)
    if train.lexical < 0:
        raise UserError(f"expected --train.lexical of at least 0; got {train.lexical}; try 256")
    if train.lexical and features.molecule != "ogb_counts":
        raise UserError(
            "expected counted fragments for --train.lexical; got --features.molecule "
            f"{features.molecule}; use ogb_counts"
        )
    if model.graph.kind == "residual" and not edge_sizes:
        raise UserError(
            "expected bond features for the residual graph encoder; got morgan1, which has none; "
            "use --features.molecule ogb, or --model.graph.kind gcn"
        )
    backend = backend or jax.default_backend()
    backward = _backward(train, bert)
    return kind(
        bert=dataclasses.replace(bert, dropout=model.text.dropout),
        graph=model.graph,
        dim=model.dim,
        pooling=model.text.pooling,
        node_sizes=node_sizes,
        edge_sizes=edge_sizes,
        unknown=features.molecule == "morgan1",
        motif=features.motif,
        dtype=jnp.dtype(train.precision),
        backward=backward,
        attention=_attention(train, bert, backward, backend),
        gelu=model.text.gelu,
        remat=train.remat,
        kernels=backend == "tpu",
        # One compiled layer. On CPU, where a loop would copy each layer's weights, all of them.
        unroll=0 if backend == "cpu" else 1,
        word_dropout=model.text.word_dropout,
        contrastive=model.contrastive,
        second_order=model.second_order,
        **kind.options(model, features, backend),
    )


def _kind(name: str) -> type[DualEncoder]:
    if name not in MODELS:
        hint = did_you_mean(name, MODELS, "known: {}, or a class of your own as FILE.py:CLASS")
        raise UserError(f"expected a model; got {name!r}; {hint}")
    file, _, of_file = MODELS[name].partition(":")
    return getattr(importlib.import_module(f"tmr_jax.models.{file}"), of_file)


def _own_kind(name: str, run: Path | None) -> type[DualEncoder]:
    from tmr_jax.models.own import own_class  # few models are

    kind = own_class(name, run)
    if not issubclass(kind, DualEncoder):
        raise UserError(
            f"expected a subclass of tmr_jax.models.dual_encoder.DualEncoder as {name}; got "
            f"{kind.__name__}, which is another kind; docs/extend.md has an example"
        )
    return kind


def _backward(train: TrainConfig, bert: BertConfig) -> Backward:
    if not bert.relative_buckets:
        return "low_memory" if train.backward == "auto" else train.backward
    if train.backward == "low_memory" or train.attention not in ("auto", "plain"):
        raise UserError(
            "expected --train.backward and --train.attention auto with an MPNet, whose bias by "
            f"relative position has neither; got {train.backward} and {train.attention}; set auto"
        )
    return "autodiff"


def _attention(train: TrainConfig, bert: BertConfig, backward: Backward, backend: str) -> Form:
    """The form of attention that an experiment asks for, or the best one of the backend."""
    fits = fits_flash(bert.hidden, bert.heads) and not bert.relative_buckets
    if train.attention == "auto":
        if backend == "tpu" and fits:
            return "flash"
        return "low_memory" if backward == "low_memory" else "plain"
    if train.attention == "flash" and not (fits and backend == "tpu"):
        raise UserError(
            f"expected --train.attention flash on a TPU, with heads that fill {LANES} numbers; got "
            f"{backend} and {bert.heads} heads of {bert.hidden // bert.heads}; pass auto"
        )
    if train.attention == "cudnn" and backend != "gpu":
        raise UserError(
            f"expected --train.attention cudnn on an NVIDIA GPU; got {backend}; pass auto"
        )
    return train.attention


FEATURES, TOKENIZER, VOCABULARY = "features.json", "tokenizer.json", "vocab.npz"


class TrainedModel(NamedTuple):
    """A model and everything that turns strings into its inputs; parameters are passed apart."""

    config: Experiment
    model: nn.Module
    tokenizer: Tokenizer
    bert: BertConfig
    weights: dict[str, str]  # what the text encoder started from: source, revision, SHA-256
    vocabulary: Vocabulary | None  # of atoms; None unless morgan1
    lexical: Lexical | None = None  # a linear branch, fitted after training

    @property
    def reranks(self) -> bool:
        """Whether the model has a second stage (tmr_jax/eval/rerank_steps.py)."""
        return self.model.reranker is not None  # type: ignore[attr-defined]

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return self.config.model.dim + (0 if self.lexical is None else self.lexical.width)


class TextEncoder(NamedTuple):
    """A BERT and its tokenizer, as an experiment names them."""

    bert: BertConfig
    weights: dict[str, Any] | None  # None: to be drawn at random
    record: dict[str, str]  # where they are from
    tokenizer: Tokenizer


class Checkpoint(NamedTuple):
    """Which parameters of a run."""

    which: str  # best or newest
    step: int
    sha256: str  # of the parameters; of a model with a linear branch, of both


# Load and save


def load_to_search(run: str | Path, which: Which = "best") -> tuple[TrainedModel, Any, Checkpoint]:
    """`load_run` for queries and indexes: the model computes in float32, whatever it trained in.

    In bfloat16 the vector of a text depends on the length of its neighbours, by up to 1e-3.
    """
    model, params, checkpoint = load_run(run, which)
    return model._replace(model=model.model.clone(dtype=jnp.dtype("float32"))), params, checkpoint


def load_run(run: str | Path, which: Which = "best") -> tuple[TrainedModel, Any, Checkpoint]:
    """The model of a run directory, its parameters, and which checkpoint those are from.

    Exported weights are of one checkpoint, whatever `which` is. Raises UserError where the
    directory is neither, has no intact checkpoint, or differs from its SHA256SUMS.
    """
    _check_path(run)
    if (Path(run) / EXPORTED).is_file():
        return _load_exported(Path(run))
    model = load_model(run)
    params, step = restore_params(run, which)
    return model, params, Checkpoint(which, step, run_sha256(Path(run), params))


def run_sha256(run: Path, params: Any) -> str:
    """Of all that an embedding depends on: the parameters, and files of the run, if it has them:
    the linear branch, and the code of a model of the user's own."""
    files = [sha256_of(run / name) for name in (LEXICAL, CODE) if (run / name).is_file()]
    all_of = " ".join([parameters_sha256(params), *files])
    return hashlib.sha256(all_of.encode()).hexdigest() if files else all_of


def branch_sha256(run: Path) -> str:
    """Of the file of the linear branch; "" where there is none."""
    path = run / LEXICAL
    return sha256_of(path) if path.is_file() else ""


def _load_exported(folder: Path) -> tuple[TrainedModel, Any, Checkpoint]:
    from tmr_jax.models.exported import read_weights, verify

    files = (CONFIG, FEATURES, TOKENIZER, EXPORTED)
    verify(folder, files + tuple(f for f in (VOCABULARY, LEXICAL, CODE) if (folder / f).is_file()))
    model = load_model(folder)
    params, about = read_weights(folder / EXPORTED)
    found, wanted = describe(params), describe(parameter_shapes(model))
    if found != wanted:
        raise UserError(
            f"expected this model's parameters in {folder / EXPORTED}; got "
            f"{difference(found, wanted)}; export the run again with this tmr_jax"
        )
    # Of the parameters, as for a run: an index fits them in whichever file they are.
    checkpoint = Checkpoint(about["which"], int(about["step"]), run_sha256(folder, params))
    return model, jax.tree.map(jnp.asarray, params), checkpoint


def parameter_shapes(model: TrainedModel) -> Any:
    """The model's parameters as shapes and types; none are drawn."""
    features = model.config.features
    table, _, _ = molecule_table(["C"], features.molecule, features.motif)
    if model.vocabulary is not None:
        table, _ = apply_vocabulary(table, model.vocabulary)
    one = np.zeros(1, np.int32)
    text = TextBatch(np.zeros((1, 8), np.int32), np.ones((1, 8), bool))  # pyright: ignore[reportArgumentType]
    batch = Batch(text, mol_batch(one, table, (8,), (8,), 1), one, one)  # pyright: ignore[reportArgumentType]
    return joined(jax.eval_shape(model.model.init, jax.random.key(0), batch))


def load_model(run: str | Path) -> TrainedModel:
    """The model that a run was trained with, without parameters, from its directory alone.

    Raises UserError where a file is missing or does not belong to the others.
    """
    run = Path(run)
    config = from_json(_read(run / CONFIG))
    features = json.loads(_read(run / FEATURES))
    if features["featuriser"] != VERSION:
        raise UserError(
            f"expected features of version {VERSION}, the one of this tmr_jax; got version "
            f"{features['featuriser']} in {run / FEATURES}; train again, or install the tmr_jax "
            "of the commit in git.txt"
        )
    tokenizer = load_tokenizer(run / TOKENIZER)
    if tokenizer.sha256 != features["tokenizer_sha256"]:
        raise UserError(
            f"expected the tokenizer {features['tokenizer_sha256'][:12]}... that this run was "
            f"trained with; got {tokenizer.sha256[:12]}... in {run / TOKENIZER}; copy the run again"
        )
    bert = BertConfig(**features["bert"])
    is_morgan = config.features.molecule == "morgan1"
    vocabulary = load_vocabulary(run / VOCABULARY) if is_morgan else None
    # All attention kernels compute the same, and this machine may lack the one of the training.
    train = dataclasses.replace(config.train, attention="auto")
    module = _module(dataclasses.replace(config, train=train), bert, vocabulary, run)
    model = TrainedModel(config, module, tokenizer, bert, features["weights"], vocabulary)
    if not (run / LEXICAL).is_file():
        return model
    from tmr_jax.models.lexical import read_lexical

    return model._replace(lexical=read_lexical(run))


def save_model(run: Path, model: TrainedModel, shapes: Shapes) -> None:
    """Writes what `load_model` reads, except config.json, which the run already has."""
    model.tokenizer.save(run / TOKENIZER)
    if model.vocabulary is not None:
        save_vocabulary(run / VOCABULARY, model.vocabulary)
    bert = dataclasses.asdict(model.bert)
    features = {
        "featuriser": VERSION,
        **dataclasses.asdict(model.config.features),
        "tokenizer_sha256": model.tokenizer.sha256,
        "weights": model.weights,
        # A field of MPNet alone is left out elsewhere, so that older versions read the file.
        "bert": {k: v for k, v in bert.items() if v or k != "relative_buckets"},
        "vocabulary": None if model.vocabulary is None else len(model.vocabulary.identifiers),
        "shapes": shapes._asdict(),
    }
    write_json(run / FEATURES, features, indent=2)


def _check_path(run: str | Path) -> None:
    """UserError where the locale's encoding cannot write the path, because orbax cannot then."""
    path = str(Path(run).absolute())
    if any("\udc80" <= c <= "\udcff" for c in path):
        raise UserError(
            f"expected a path in the encoding of this locale ({sys.getfilesystemencoding()}), got "
            f"{path.encode('ascii', 'backslashreplace').decode()}; set PYTHONUTF8=1 or move it"
        )


def _read(path: Path) -> str:
    if not path.is_file():
        raise UserError(
            f"expected a run directory with {path.name}; got none at {path}; "
            "pass a run that training has written, e.g. --run runs/quickstart"
        )
    return path.read_text(encoding="utf-8")


# New models


def load_text_encoder(config: Experiment) -> TextEncoder:
    """The text encoder that an experiment starts from.

    Raises UserError where it does not fit the other sections of the experiment.
    """
    # Only training reads pretrained weights: search and serving start without this module.
    from tmr_jax.models.pretrained import load_bert, read_config, resolve

    text = config.model.text
    folder = Path(text.source).expanduser()
    record, weights = {"source": text.source}, None
    if text.init == "random" and folder.is_dir():  # a folder without weights will do
        tokenizer, bert = load_tokenizer(folder), read_config(folder / "config.json")
    else:
        files = resolve(text.source)
        tokenizer = load_tokenizer(files.tokenizer)
        if text.init == "random":
            record, bert = record | {"revision": files.revision}, read_config(files.config)
        else:
            bert, weights, record = load_bert(text.source)
    _check_text(config, bert, tokenizer)
    return TextEncoder(bert, weights, {**record, "init": text.init}, tokenizer)


def new_model(config: Experiment, text: TextEncoder, vocabulary: Vocabulary | None) -> TrainedModel:
    module = _module(config, text.bert, vocabulary)
    return TrainedModel(config, module, text.tokenizer, text.bert, text.record, vocabulary)


def with_config(model: TrainedModel, config: Experiment, weights: dict[str, str]) -> TrainedModel:
    """Another model on the same tokenizer, text encoder and vocabulary."""
    module = _module(config, model.bert, model.vocabulary)
    return model._replace(config=config, model=module, weights=weights)


def init_params(
    model: TrainedModel,
    batch: Batch | EncodedBatch,
    seed: int,
    text_weights: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Parameters of a new run: random by the seed, the text encoder's replaced where given."""
    params = joined(jax.jit(model.model.init)(jax.random.key(seed), batch))
    if text_weights is None:
        return params
    text_weights = stacked(text_weights)
    ours, theirs = (jax.tree.map(np.shape, tree) for tree in (params["text_encoder"], text_weights))
    assert ours == theirs, "the pretrained text weights do not fit the text encoder"
    return {**params, "text_encoder": jax.tree.map(jax.numpy.asarray, text_weights)}


def _check_text(config: Experiment, bert: BertConfig, tokenizer: Tokenizer) -> None:
    limit, longest = config.features.max_tokens, max(config.train.text_buckets)
    if limit > bert.max_positions:
        raise UserError(
            f"expected --features.max-tokens of at most {bert.max_positions}, the positions of "
            f"{config.model.text.source}; got {limit}; lower it"
        )
    if longest < limit:
        raise UserError(
            f"expected a text bucket that holds --features.max-tokens {limit}; got "
            f"{config.train.text_buckets}; add {limit} to --train.text-buckets"
        )
    if tokenizer.vocab_size > bert.vocab_size:
        raise UserError(
            f"expected a tokenizer of at most {bert.vocab_size} pieces, the text encoder's; got "
            f"{tokenizer.vocab_size}; take both from one source (--model.text.source)"
        )


def _module(
    config: Experiment, bert: BertConfig, vocabulary: Vocabulary | None, run: Path | None = None
) -> DualEncoder:
    nodes, edges = NODE_SIZES, EDGE_SIZES
    if config.features.molecule in ("ogb_morgan", "ogb_counts"):
        nodes += ENVIRONMENT_SIZES
    if vocabulary is not None:
        nodes, edges = (len(vocabulary.identifiers) + 1,), ()
    return build_model(config.model, config.features, config.train, bert, nodes, edges, run=run)
