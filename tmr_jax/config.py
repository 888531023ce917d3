"""What an experiment is: frozen dataclasses with every default in one place.

An experiment file sets `CONFIG = Experiment(...)`; a run directory keeps the resolved copy as
config.json, and evaluation and search read that copy, never the experiment file.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import runpy
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from tmr_jax.types import UserError

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"


@dataclass(frozen=True)
class TableConfig:
    """A user's own file: CSV, TSV, Parquet or SDF, optionally gzipped."""

    path: str = ""
    text: str = "description"
    smiles: str = "SMILES"
    id: str = ""  # empty: row number
    split: Literal["random", "scaffold", "column"] = "random"
    split_column: str = ""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)  # train, validation, test
    drop_column: str = ""  # rows whose cell here holds any of drop_values are left out
    drop_values: tuple[str, ...] = ()


@dataclass(frozen=True)
class DemoConfig:
    """Generated descriptions of real and enumerated molecules; no download."""

    train: int = 6000
    validation: int = 500
    test: int = 1000


@dataclass(frozen=True)
class DataConfig:
    name: Literal["chebi20", "pcdes", "open", "table", "demo"] = "demo"
    # chebi20: text2mol (names in the text, published form) or molt5; pcdes: file-order or scaffold;
    # open: unseen (pairs that the default leaves out, for a second stage)
    version: Literal["", "text2mol", "molt5", "file-order", "scaffold", "unseen"] = ""
    validation: str = ""  # protocol of the validation pool; empty: the data set's own
    seed: int = 0  # of random and scaffold splits and of generated text
    table: TableConfig = field(default_factory=TableConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)


@dataclass(frozen=True)
class FeatureConfig:
    molecule: Literal["morgan1", "ogb", "ogb_morgan"] = "ogb"
    motif: Literal["none", "brics"] = "none"
    max_tokens: int = 256


@dataclass(frozen=True)
class TextEncoderConfig:
    source: str = "minilm"  # "minilm", "scibert", a Hugging Face folder, or a hub id
    revision: str = ""  # of a hub id; empty: the pinned one
    init: Literal["pretrained", "random"] = "pretrained"
    pooling: Literal["cls", "mean"] = "cls"
    dropout: float = 0.1  # R28: BERT's own
    word_dropout: float = 0.0  # share of a training text's words that are not read
    gelu: Literal["exact", "tanh"] = "exact"  # tanh: an approximation, off by up to 5e-4


@dataclass(frozen=True)
class GraphEncoderConfig:
    # gcn: of DiffTMR; gcn_mlp: of Memory Bank, with a network for each atom on top; residual: ours
    kind: Literal["gcn", "gcn_mlp", "residual"] = "gcn"
    layers: int = 3
    width: int = 600
    dropout: float = 0.0
    atom_dropout: float = 0.0  # share of training atoms whose features are not read
    readout: Literal["mean", "mean_mlp"] = "mean"  # mean_mlp adds what mean, sum and maximum say


@dataclass(frozen=True)
class TaprConfig:
    """Text-anchored perturbation, of `difftmr` only (MODELS.md A1.3)."""

    mode: Literal["off", "mean", "scalar", "matrix"] = "matrix"
    bias: float = -3.0  # b0 of the matrix form; the paper's literal value is 0 (R5)
    anchor: Literal["paired", "pairwise"] = "paired"  # the texts of P in training (R6)


@dataclass(frozen=True)
class HdanConfig:
    """Hierarchical diffusion alignment, of `difftmr` only (MODELS.md A1.5)."""

    steps: int = 50  # T
    gamma: float = 0.4  # share of the local score; 0 leaves it out
    state: Literal["outside", "inside"] = "outside"  # X_k and the attention's softmax (R9)
    clean: Literal["simplex", "clamp"] = "simplex"  # X0_hat of a sampling step (R26)
    scaled: bool = False  # attention by 1 / sqrt(D) (R10)
    # "as_is": A1.5; "unit": features of length one; "similarity": and attention that starts as the
    # encoder's own softmax over the candidates; "posterior": and X0_hat that starts as it
    inputs: Literal["as_is", "unit", "similarity", "posterior"] = "as_is"
    objective: Literal["random_step", "all_steps", "unrolled"] = "random_step"
    gradient: float = 0.0  # share of L_Gen's gradient that the encoders get (R22)
    weight: float = 1.0  # of L_Gen; 0: the generator is left as it was drawn, and costs nothing


@dataclass(frozen=True)
class BankConfig:
    """Memory bank, of `mbank` only (MODELS.md A2)."""

    slots: int = 28  # R; 0: no memory, the mean of words and of atoms
    first_order: Literal["triplet", "info_nce", "none"] = "triplet"
    adversarial: float = 2e-4  # weight of L_G; 0: no critic
    # BatchNorm's running statistics: mixed, as released, or each modality its own, as in training
    statistics: Literal["mixed", "own"] = "mixed"


@dataclass(frozen=True)
class SecondOrderConfig:
    """Second-order losses, of every model (MODELS.md 6.2); a weight of 0 leaves one out."""

    u2u: float = 0.0
    u2c: float = 0.0
    kernel: Literal["euclid_pos", "euclid_neg", "cos"] = "euclid_pos"
    temperature_u2u: float = 1.0
    temperature_u2c: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    name: str = "dual"
    dim: int = 300
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    graph: GraphEncoderConfig = field(default_factory=GraphEncoderConfig)
    tapr: TaprConfig = field(default_factory=TaprConfig)
    hdan: HdanConfig = field(default_factory=HdanConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    second_order: SecondOrderConfig = field(default_factory=SecondOrderConfig)


@dataclass(frozen=True)
class OptimConfig:
    text_lr: float = 3e-5
    base_lr: float = 1e-4
    coupling_lr: float = 1e-5  # Theta of TAPR
    denoiser_lr: float = 1e-3  # both HDANs and the word weights: cosine to zero, no warm-up
    critic_lr: float = 1e-4  # of Memory Bank's adversary: constant
    warmup: int = 1000  # steps; short runs use min(warmup, 10 % of all steps) (R23)
    schedule: Literal["linear", "cosine", "released"] = "linear"
    clip: float = 1.0  # of the norm of all gradients; 0: none
    weight_decay: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    seed: int = 0
    epochs: int = 60
    batch_size: int = 32
    # buckets: batches of like lengths, padded; packed: any lengths, side by side in rows
    texts: Literal["buckets", "packed"] = "buckets"
    text_buckets: tuple[int, ...] = (64, 96, 128, 192, 256)
    pool_batches: int = 50  # batches sorted together by text length (STACK.md 3.5); 0: none
    alike: int = 1  # batches of like length that are sorted by structure: hard negatives
    precision: Literal["float32", "bfloat16"] = "float32"
    # of dense layers, attention, GELU and LayerNorm; low_memory keeps the run's precision and works
    # the rest out again. auto: low_memory, on every backend (experiments/LOG.md)
    backward: Literal["auto", "autodiff", "low_memory"] = "auto"
    # auto: flash, a kernel, on a TPU where heads fit its registers; else as `backward` says
    attention: Literal["auto", "plain", "flash", "cudnn"] = "auto"
    remat: bool = False  # keep only what lies between BERT's layers, and run each layer again
    # text: the text encoder (BERT) stays as it is, and what it says of each text is computed once
    freeze: Literal["none", "text"] = "none"
    start: str = ""  # two stages: the experiment, or the run by its path, with the encoder
    # Of two stages: share of the words left out of each training text before the encoder reads it,
    # so that it is no surer of a pair that it was trained on than of a new one
    word_dropout: float = 0.0
    parallel: Literal["jit", "pmap"] = "jit"  # how several devices share a step
    chunk: int = 0  # pairs that a device encodes at a time, for large batches; 0: all of its share
    save_every: int = 200  # steps
    eval_every: int = 1  # epochs


@dataclass(frozen=True)
class RefineConfig:
    """The second stage, of `difftmr` only (MODELS.md A1.7)."""

    shortlist: int = 256  # K1: best by cosine, perturbed
    samples: int = 15  # F, perturbations of a molecule; 0: none
    candidates: int = 32  # K: best by perturbation, denoised
    steps: int = 0  # S, of the sampler; 0: as many as were trained
    noises: int = 1  # R, initial states that are averaged
    seed: int = 0


@dataclass(frozen=True)
class EvalConfig:
    protocols: tuple[str, ...] = ()
    bootstrap: int = 1000
    batch_size: int = 64
    refine: RefineConfig = field(default_factory=RefineConfig)


@dataclass(frozen=True)
class Experiment:
    name: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint of an error about an unknown name: the nearest known ones, or all of them."""
    near = difflib.get_close_matches(word, known := list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


def load_experiment(name: str) -> Experiment:
    """The CONFIG of experiments/NAME.py, or of a .py file given by path."""
    path = Path(name) if name.endswith(".py") else EXPERIMENTS / f"{name}.py"
    if not path.is_file():
        known = sorted(p.stem for p in EXPERIMENTS.glob("*.py") if p.stem != "__init__")
        raise UserError(f"unknown experiment {name!r}: {did_you_mean(name, known)}")
    config = runpy.run_path(str(path))["CONFIG"]
    return dataclasses.replace(config, name=path.stem)


def to_json(config: Experiment) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Experiment:
    """Inverse of `to_json`; an unknown field is an error that names it."""
    return _build(Experiment, json.loads(text), "config")


RENAMED = {("backward", "cpu_fast"): "low_memory"}  # values of runs made before 0.2


def _build(cls: type, values: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UserError(f"{where}: unknown field {key!r}; {did_you_mean(key, list(hints))}")
    built = {}
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]):
            value = _build(hints[key], value, f"{where}.{key}")
        value = tuple(value) if isinstance(value, list) else value
        built[key] = RENAMED.get((key, value), value) if isinstance(value, str) else value
    return cls(**built)
