"""What an experiment is: frozen dataclasses with every default in one place.

An experiment file sets `CONFIG = Experiment(...)`. A run directory keeps the resolved copy as
config.json, and evaluation and search read that copy, never the experiment file. The text of each
field, a comment behind it or a docstring below it, is its help in `tmr train --help-all`.
"""

from __future__ import annotations

import dataclasses
import json
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from tmr_jax.types import UserError, did_you_mean

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"


@dataclass(frozen=True)
class TableConfig:
    """Your own file (--data.name table): CSV, TSV, Parquet or SDF, optionally gzipped."""

    path: str = ""  # the file
    text: str = "description"  # column of the descriptions
    smiles: str = "SMILES"  # column of the SMILES
    id: str = ""  # column of the ids; empty: row numbers
    split: Literal["random", "scaffold", "column"] = "random"
    """How rows are divided: by --data.seed, by seed and scaffold, or as --data.table.split-column
    names them."""
    split_column: str = ""  # column with train, validation or test, of --data.table.split column
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, validation and test, of --data.table.split random and scaffold."""
    drop_column: str = ""  # column that decides which rows are skipped
    drop_values: tuple[str, ...] = ()  # values of --data.table.drop-column; such rows are skipped


OpenVersion = Literal["1", "2", "public", "licensed", "unseen"]


@dataclass(frozen=True)
class DataConfig:
    """Training pairs and their splits."""

    name: str = "chebi"  # the data set: chebi (in the package), chebi20, pcdes, open or table
    version: Literal["", "text2mol", "molt5", "file-order", "scaffold", OpenVersion] = ""
    """Of chebi20 text2mol (names in the text, the published form) or molt5; of pcdes file-order or
    scaffold; of open 2, 1, public (what anyone can fetch of 2), licensed (of sources with a stated
    licence) or unseen (pairs that 1 and 2 exclude, for a second stage). Empty: the first of
    these."""
    validation: str = ""  # protocol of the validation pool; empty: the default of the data set
    names: str = ""
    """File of IUPAC names, as tools/make/names.py writes it: one more text for each training
    molecule in it (docs/data.md#names)."""
    seed: int = 0  # of random and scaffold splits
    table: TableConfig = field(default_factory=TableConfig)

    def __post_init__(self) -> None:
        """Names the version of `open`, so that a run keeps it when the default changes again."""
        if self.name == "open" and not self.version:
            object.__setattr__(self, "version", "2")


@dataclass(frozen=True)
class FeatureConfig:
    """What the model reads of a molecule and of a text."""

    molecule: Literal["morgan1", "ogb", "ogb_morgan", "ogb_counts"] = "ogb"
    """Atom features: morgan1 (identifiers of the published models), OGB's, or both; ogb_counts:
    both, and counts of fragments (docs/papers.md#fragment-counts)."""
    motif: Literal["none", "brics"] = "none"  # parts of a molecule: atoms, or BRICS fragments
    max_tokens: int = 256  # longer texts are cut


@dataclass(frozen=True)
class TextEncoderConfig:
    """The text encoder, a BERT (docs/papers.md#encoders)."""

    source: str = "minilm"  # minilm, scibert, a Hugging Face folder, or a hub id
    init: Literal["pretrained", "random"] = "pretrained"  # initial weights
    pooling: Literal["cls", "mean"] = "cls"  # embedding of a text: first token, or mean of tokens
    dropout: float = 0.1  # rate in the encoder, as in BERT (docs/papers.md#dropout)
    word_dropout: float = 0.0  # share of the words of a training text that are masked
    gelu: Literal["exact", "tanh"] = "exact"  # tanh is an approximation, off by up to 5e-4


@dataclass(frozen=True)
class GraphEncoderConfig:
    """The molecule encoder (docs/papers.md#encoders)."""

    kind: Literal["gcn", "gcn_mlp", "residual"] = "gcn"
    """gcn as in DiffTMR; gcn_mlp as in Memory Bank, with an MLP per atom on top; residual, in
    neither paper."""
    layers: int = 3  # graph convolutions
    width: int = 600  # hidden features of an atom
    dropout: float = 0.0  # rate between layers
    readout: Literal["mean", "mean_mlp", "attention"] = "mean"
    """Embedding of a molecule: mean of its atoms; mean_mlp adds an MLP of mean, sum and maximum;
    attention also of what learned queries read."""


@dataclass(frozen=True)
class TaprConfig:
    """Text-anchored perturbation, of difftmr only (docs/papers.md#perturbation)."""

    mode: Literal["off", "mean", "scalar", "matrix"] = "matrix"  # form of the perturbation's scale
    bias: float = -3.0
    """b0 of the matrix form; the paper's literal value is 0 (docs/papers.md#perturbation-scale)."""
    anchor: Literal["paired", "pairwise"] = "paired"
    """Text that perturbs a molecule in training (docs/papers.md#perturbation-anchor)."""


@dataclass(frozen=True)
class HdanConfig:
    """Hierarchical diffusion alignment, of difftmr only (docs/papers.md#denoiser)."""

    steps: int = 50  # noise levels
    gamma: float = 0.4  # weight of the local score; 0 omits it
    inputs: Literal["as_is", "unit", "similarity", "posterior"] = "as_is"
    """as_is as in the paper; unit: features of length one; similarity: also attention that starts
    as the encoders' softmax over the candidates; posterior: also a clean state that starts there
    (docs/papers.md#denoiser-features)."""
    objective: Literal["random_step", "all_steps", "unrolled"] = "random_step"
    """Noise levels of a training step (docs/papers.md#all-noise-levels)."""
    gradient: float = 0.0
    """Share of the generative loss's gradient that reaches the encoders
    (docs/papers.md#gradient-to-encoders)."""
    weight: float = 1.0  # of the generative loss; 0: the generator stays as initialised, at no cost


@dataclass(frozen=True)
class BankConfig:
    """Memory bank, of mbank only (docs/papers.md#memory-bank)."""

    slots: int = 28  # memory slots; 0: no memory, the mean of words and of atoms
    first_order: Literal["triplet", "info_nce", "none"] = "triplet"  # loss of single pairs
    adversarial: float = 2e-4  # weight of the adversarial loss; 0: no critic
    statistics: Literal["mixed", "own"] = "mixed"
    """Running statistics of BatchNorm: mixed over both modalities, as released, or one set for
    each (own), as in training."""


@dataclass(frozen=True)
class SecondOrderConfig:
    """Second-order losses, of every model (docs/papers.md#second-order-losses)."""

    u2u: float = 0.0  # weight of the loss within a modality; 0 omits it
    u2c: float = 0.0  # weight of the loss across modalities; 0 omits it
    kernel: Literal["euclid_pos", "euclid_neg", "cos"] = "euclid_pos"  # similarity of embeddings
    temperature_u2u: float = 1.0  # of the softmax of u2u
    temperature_u2c: float = 1.0  # of the softmax of u2c


@dataclass(frozen=True)
class ModelConfig:
    """The model."""

    name: str = "dual"  # dual, difftmr, mbank, or FILE.py:CLASS (docs/extend.md#model)
    dim: int = 300  # shared embedding
    contrastive: Literal["softmax", "sigmoid"] = "softmax"
    """Contrastive loss: InfoNCE, or each pair of a batch by itself
    (docs/papers.md#contrastive-loss)."""
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    graph: GraphEncoderConfig = field(default_factory=GraphEncoderConfig)
    tapr: TaprConfig = field(default_factory=TaprConfig)
    hdan: HdanConfig = field(default_factory=HdanConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    second_order: SecondOrderConfig = field(default_factory=SecondOrderConfig)

    @property
    def is_own(self) -> bool:
        """Whether the model is in a file of the user's own (tmr_jax/models/own.py)."""
        return ".py:" in self.name


@dataclass(frozen=True)
class OptimConfig:
    """Learning rates and the optimiser (docs/papers.md#optimiser)."""

    text_lr: float = 3e-5  # of the text encoder
    base_lr: float = 1e-4  # of everything without a rate of its own
    coupling_lr: float = 1e-5  # of Theta, the coupling matrix of the perturbation
    denoiser_lr: float = 1e-3  # of the denoisers and the word weights: cosine to 0, no warm-up
    critic_lr: float = 1e-4  # of Memory Bank's critic: constant
    warmup: int = 1000  # steps, at most a tenth of all
    schedule: Literal["linear", "cosine", "released"] = "linear"  # decay after warm-up
    clip: float = 1.0  # largest norm of the gradient; 0: no clipping
    weight_decay: float = 0.0  # of AdamW; 0: Adam
    ema: float = 0.0
    """Decay of a moving average of the parameters, which is validated, evaluated and exported in
    their place; 0: none is kept (docs/papers.md#averaged-parameters)."""


@dataclass(frozen=True)
class TrainConfig:
    """Batches, precision, devices, checkpoints."""

    seed: int = 0  # of initial weights, batches and dropout
    epochs: int = 60  # passes over the training pairs
    batch_size: int = 32  # pairs of a step
    texts: Literal["buckets", "packed"] = "buckets"
    """buckets: batches of similar lengths, padded; packed: texts of any length, side by side in
    rows (docs/papers.md#packing)."""
    text_buckets: tuple[int, ...] = (64, 96, 128, 192, 256)  # lengths that texts are padded to
    levels: tuple[float, ...] = ()
    """Shares of whole descriptions, of single sentences and of single clauses among the texts of
    every epoch, such as 0.5 0.25 0.25; none: whole descriptions only (docs/papers.md#levels)."""
    pool_batches: int = 50  # batches sorted together by text length; 0: no sorting
    alike: int = 1  # batches of similar length that are sorted by structure: hard negatives
    mined: int = 0
    """Pairs of a group whose texts and molecules are near one another among all training pairs, of
    packed texts; a batch has several groups (docs/papers.md#mined-batches). 0: no groups."""
    precision: Literal["float32", "bfloat16"] = "float32"  # of the computation
    backward: Literal["auto", "autodiff", "low_memory"] = "auto"
    """Of dense layers, attention, GELU and LayerNorm: low_memory recomputes what autodiff would
    keep. auto is low_memory."""
    attention: Literal["auto", "plain", "flash", "cudnn"] = "auto"
    """auto: flash, a kernel, on a TPU where heads fit its registers; else plain."""
    remat: bool = False  # keep only the inputs of BERT's layers and run each layer again
    freeze: Literal["none", "text"] = "none"
    """text: the text encoder keeps its weights and encodes each text once."""
    start: str = ""
    """First of two stages: an experiment, or a run by its path, with the encoders
    (docs/papers.md#two-stage)."""
    word_dropout: float = 0.0
    """In the second of two stages: share of words dropped from a training text before the frozen
    encoder reads it, so that its scores of trained and of new pairs are alike."""
    teachers: tuple[str, ...] = ()
    """Runs by their paths, trained on the same data: cosines of a batch are also drawn to the mean
    of theirs (docs/papers.md#distillation)."""
    masked_words: int = 0
    """Steps in which the text encoder first learns to fill in masked words of the training texts
    and of ChEBI's definitions (docs/papers.md#masked-words)."""
    lexical: int = 0  # numbers of a linear branch, fitted after training (docs/papers.md#lexical)
    facts: bool = False  # learn to rerank by facts after training (docs/search.md#facts)
    parallel: Literal["jit", "pmap"] = "jit"  # how several devices share a step
    chunk: int = 0  # pairs that a device encodes at a time, for large batches; 0: all of its share
    log: Literal["jsonl", "tensorboard"] = "jsonl"
    """Where metrics go: metrics.jsonl, or also the folder tensorboard of the run."""
    save_every: int = 200  # steps between checkpoints
    eval_every: int = 1  # epochs between validations


@dataclass(frozen=True)
class RefineConfig:
    """Second stage, of difftmr only: rerank the best candidates (docs/papers.md#inference)."""

    shortlist: int = 256  # candidates, best by cosine, that are perturbed
    samples: int = 15  # perturbations of a molecule; 0: none
    candidates: int = 32  # candidates, best by perturbation, that are denoised
    steps: int = 0  # of the sampler; 0: all noise levels of training
    seed: int = 0  # of perturbations and initial states


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation of the finished run."""

    protocols: tuple[str, ...] = ()  # pools to rank; none: the test pool of the data set
    bootstrap: int = 1000  # resamples of the confidence intervals
    batch_size: int = 64  # texts or molecules encoded at a time
    refine: RefineConfig = field(default_factory=RefineConfig)


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what a training run computes."""

    name: str = ""  # name of the run; default: the name of the experiment
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def load_experiment(name: str) -> Experiment:
    """The CONFIG of experiments/NAME.py, or of a .py file given by path. Errors: UserError."""
    path = Path(name) if name.endswith(".py") else EXPERIMENTS / f"{name}.py"
    if not path.is_file():
        known = sorted(p.stem for p in EXPERIMENTS.glob("*.py") if p.stem != "__init__")
        raise UserError(f"expected an experiment; got {name!r}; {did_you_mean(name, known)}")
    config = runpy.run_path(str(path)).get("CONFIG")
    if not isinstance(config, Experiment):
        raise UserError(f"expected CONFIG = Experiment(...) in {path}; got {config!r}; add it")
    return dataclasses.replace(config, name=path.stem)


def to_json(config: Experiment) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Experiment:
    """Inverse of `to_json`. Errors: UserError for text that is not JSON, and for an unknown field,
    which it names."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"expected a configuration in JSON; got {error}; restore config.json of the run"
        ) from error
    return _build(Experiment, values, "config")


RENAMED = {("backward", "cpu_fast"): "low_memory"}  # values of runs made before 0.2
# Fields that older runs have: the only value that is still read (None: any), and why.
REMOVED: dict[str, tuple[Any, str]] = {
    "model.text.revision": ("", "save the files of that revision in a folder as the source"),
    "model.graph.atom_dropout": (0.0, "no published model has it"),
    "model.hdan.state": ("outside", "the noisy state is added outside of the softmax"),
    "model.hdan.clean": ("simplex", "the clean state is a softmax; a clamp collapses"),
    "model.hdan.scaled": (False, "the denoiser's attention is not scaled"),
    "eval.refine.noises": (1, "the sampler starts from one noise"),
    "data.demo": (None, "these are sizes of generated text, which no training reads"),
}


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(
            f"expected the fields of {where}; got {values!r:.40}; restore config.json of the run"
        )
    if cls is DataConfig and values.get("name") == "open":  # runs older than version 2 name none
        values = values | {"version": values.get("version") or "1"}
    hints, built = get_type_hints(cls), {}
    for key, value in values.items():
        if _removed(where, key, value):
            continue
        if key not in hints:
            hint = did_you_mean(key, hints)
            raise UserError(f"expected a field of {where}; got {key!r}; {hint}")
        if dataclasses.is_dataclass(hints[key]):
            value = _build(hints[key], value, f"{where}.{key}")
        value = tuple(value) if isinstance(value, list) else value
        built[key] = RENAMED.get((key, value), value) if isinstance(value, str) else value
    return cls(**built)


def _removed(where: str, key: str, value: Any) -> bool:
    """Whether the field is one of REMOVED, with the value that is now a constant."""
    name = f"{where}.{key}".removeprefix("config.")
    constant, reason = REMOVED.get(name, (None, ""))
    if constant is not None and value != constant:
        raise UserError(
            f"expected {name} = {constant!r}, the only value that this tmr_jax reads ({reason}); "
            f"got {value!r}; install the tmr_jax of the commit in the run's git.txt"
        )
    return name in REMOVED
