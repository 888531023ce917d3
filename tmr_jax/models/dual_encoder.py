"""Dual encoder with the contrastive loss, the first stage of DiffTMR (docs/papers.md#encoders)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Key, UInt8

from tmr_jax.config import (
    FeatureConfig,
    GraphEncoderConfig,
    ModelConfig,
    SecondOrderConfig,
    TrainConfig,
)
from tmr_jax.models.layers.attention import HIDDEN, Form, Segments
from tmr_jax.models.layers.bert import Backward, Bert, BertConfig
from tmr_jax.models.layers.bert_layer import Gelu
from tmr_jax.models.layers.gcn import (
    GCN,
    ColumnEmbedding,
    Readout,
    ResidualGCN,
    l2_normalize,
    masked_mean,
    node_graph,
    segment_mean,
)
from tmr_jax.types import (
    Batch,
    EncodedBatch,
    MolBatch,
    MolOut,
    PackedText,
    PackedWords,
    TextBatch,
    TextOut,
)

MAX_LOGIT_SCALE = 4.605170185988092  # log 100: docs/papers.md#logit-scale
READING = 4  # queries of the readout by attention; they share the embedding's width
UNKNOWN_RATE = 0.01  # share of training atoms shown as unknown, which trains that embedding


Method = TypeVar("Method", bound=Callable[..., Any])


def full_precision(method: Method) -> Method:
    """Its float32 products are of float32 numbers, also those of its gradient. A TPU otherwise
    rounds their factors to bfloat16: cosines are off by 4e-3, and logits by a hundred times that.
    """

    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return method(*args, **kwargs)

    return cast(Method, run)


class GraphEncoder(nn.Module):
    """Atom features -> atom states -> LayerNorm -> mean over motifs (docs/papers.md#motifs)."""

    config: GraphEncoderConfig
    dim: int
    node_sizes: tuple[int, ...]  # cardinality of each integer atom column
    edge_sizes: tuple[int, ...]
    unknown: bool  # the atom column is a vocabulary whose id 0 is "unknown" (morgan1)
    motif: Literal["none", "brics"]
    dtype: Any = jnp.float32
    backward: Backward = "autodiff"

    @nn.compact
    def __call__(self, mol: MolBatch, train: bool) -> MolOut:
        graph = mol.graph
        columns: Any = graph.nodes  # jraph types every field as optional
        if train and self.unknown:
            hidden = jax.random.bernoulli(self.make_rng("dropout"), UNKNOWN_RATE, columns.shape)
            columns = jnp.where(hidden, 0, columns)
        nodes = ColumnEmbedding(self.node_sizes, self.dim, name="atoms")(columns)
        sizes = self.config.layers, self.config.width
        if self.config.kind == "gcn":
            nodes = GCN(*sizes, self.dim, self.dtype, name="layers")(graph, nodes)
        elif self.config.kind == "gcn_mlp":
            nodes = GCN(*sizes, self.config.width, self.dtype, name="layers")(graph, nodes)
            nodes = NodeMlp(self.config.width, self.dim, name="mlp")(nodes)
        else:
            nodes = ResidualGCN(
                *sizes,
                self.dim,
                self.edge_sizes,
                self.config.dropout,
                self.dtype,
                self.backward,
                name="layers",
            )(graph, nodes, not train)
        nodes = nn.LayerNorm(name="norm")(nodes)
        of_graph, graphs = node_graph(graph), graph.n_node.shape[0]
        if self.motif == "brics":
            nodes, of_graph = _motifs(nodes, of_graph, mol.motif, graphs)
        # Atoms are in the order of their molecules; motifs need not be.
        rows = nodes, of_graph, graphs, self.motif == "none"
        # h^g is the mean of the h^m in use: of atoms, or of motifs.
        pooled = segment_mean(*rows)[:-1]
        if self.config.readout != "mean":
            heads = READING if self.config.readout == "attention" else 0
            pooled = pooled + Readout(heads, name="readout")(*rows)[:-1]
        counts: Any = graph.globals
        if counts is not None:
            pooled = pooled + CountsMlp(self.dim, name="counts")(counts[:-1])
        return MolOut(pooled, nodes, of_graph)


class NodeMlp(nn.Module):
    """600 -> 600 -> 600 -> 300 for each atom (docs/papers.md#memory-bank)."""

    width: int
    dim: int

    @nn.compact
    def __call__(self, nodes: Float[Array, "N W"]) -> Float[Array, "N D"]:
        for i in range(2):
            nodes = nn.relu(nn.Dense(self.width, name=f"inner_{i}")(nodes))
        return nn.Dense(self.dim, name="outer")(nodes)


class CountsMlp(nn.Module):
    """What two dense layers make of the logarithms of counted fragments: [B, C] -> [B, D]."""

    dim: int

    @nn.compact
    def __call__(self, counts: UInt8[Array, "B C"]) -> Float[Array, "B D"]:
        read = jnp.log1p(counts.astype(jnp.float32))
        return nn.Dense(self.dim, name="outer")(
            nn.relu(nn.LayerNorm(name="norm")(nn.Dense(2 * self.dim, name="inner")(read)))
        )


def _motifs(nodes: Array, of_graph: Array, motif: Array, graphs: int) -> tuple[Array, Array]:
    """Mean of the atoms of each motif and the motif's graph; rows not in use go to the padding."""
    count = nodes.shape[0]
    motif_of_graph = jax.ops.segment_max(of_graph, motif, count)
    features = segment_mean(nodes, motif, count)
    return features, jnp.where(motif_of_graph < 0, graphs - 1, motif_of_graph)


@runtime_checkable  # annotations with it are checked in tests
class Reranker(Protocol):
    """The optional second stage of a model; tmr_jax/eval/rerank_steps.py puts the pieces together.

    Q queries, K candidates of each, T words, F perturbations, R initial states, S sampler steps.
    """

    def weigh_words(
        self, tokens: Float[Array, "B T D"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T"]: ...

    def perturb(
        self,
        text: Float[Array, "#Q #K D"],
        mol: Float[Array, "#Q #K D"],
        cosines: Float[Array, "Q K T"],
        mask: Bool[Array, "#Q #K T"],
        noise: Float[Array, "F D"],
    ) -> tuple[Float[Array, "Q K"], Float[Array, "Q K D"]]: ...

    def reconstruct(
        self,
        direction: str,
        query: Float[Array, "Q D"],
        candidates: Float[Array, "Q K D"],
        local: Float[Array, "Q K"],
        noise: Float[Array, "R Q K"],
        samples: int,
    ) -> Float[Array, "S Q K"]: ...


class DualEncoder(nn.Module):
    """Text and molecules into one space R^dim; similarity is the cosine.

    It is a model by itself and the base of all others. Trainer, index and evaluator use these:
    `encode_text`, `encode_molecule`, `similarity`, `loss`, and what a subclass declares here:
    `groups`, `check`, `options`, `adversary` (with `adversary_loss`), `generator`, `reranker`,
    `memory_slots` and `trains_scale`.
    """

    # Name of a top-level parameter -> its learning rate, the field NAME_lr of OptimConfig; any
    # other parameter has base_lr.
    groups: ClassVar[dict[str, str]] = {"text_encoder": "text"}

    bert: BertConfig
    graph: GraphEncoderConfig
    dim: int
    pooling: Literal["cls", "mean"]
    node_sizes: tuple[int, ...]
    edge_sizes: tuple[int, ...]
    unknown: bool
    motif: Literal["none", "brics"]
    dtype: Any = jnp.float32
    backward: Backward = "autodiff"
    attention: Form = "plain"  # the form of BERT's attention
    gelu: Gelu = "exact"
    remat: bool = False
    unroll: int = 1
    kernels: bool = False  # losses may be kernels for TPU
    word_dropout: float = 0.0
    contrastive: Literal["softmax", "sigmoid"] = "softmax"
    second_order: SecondOrderConfig = SecondOrderConfig()
    axis: str | None = None  # the devices that share a batch, where several do
    mesh: Mesh | None = None  # those devices, where XLA shards the losses

    generator: ClassVar[frozenset[str]] = frozenset()  # parameters that a second stage can train
    # Parameters with a loss of their own, `adversary_loss`, which step first. No annotation here
    # and below: Linen would make a field of it.
    adversary = frozenset()
    memory_slots = 0  # M of a memory bank, whose attention `slot_sharpness` reports
    trains_scale = True  # whether the loss divides cosines by a temperature that it learns

    @classmethod
    def check(cls, model: ModelConfig, train: TrainConfig) -> None:
        """ValueError where the configuration contradicts this model."""

    @classmethod
    def options(cls, model: ModelConfig, features: FeatureConfig, backend: str) -> dict[str, Any]:
        """Values of the fields that a subclass adds, from the configuration."""
        return {}

    @property
    def reranker(self) -> Reranker | None:
        """The model itself where it has a second stage."""
        return None

    def setup(self) -> None:
        how = (self.backward, self.attention, self.gelu, self.remat, self.unroll)
        self.text_encoder = Bert(self.bert, self.dtype, *how)
        self.text_projection = nn.Dense(self.dim)
        self.text_norm = nn.LayerNorm()
        self.graph_encoder = GraphEncoder(
            self.graph,
            self.dim,
            self.node_sizes,
            self.edge_sizes,
            self.unknown,
            self.motif,
            self.dtype,
            self.backward,
        )
        # A weak type would compile the first step twice.
        start = {"softmax": 1 / 0.07, "sigmoid": 10.0}[self.contrastive]
        self.logit_scale = self.param("log_scale", lambda _: jnp.float32(jnp.log(start)))
        if self.contrastive == "sigmoid":
            self.logit_bias = self.param("logit_bias", lambda _: jnp.float32(-10.0))

    def encode_text(self, text: TextBatch | PackedText, train: bool = False) -> TextOut:
        if isinstance(text, PackedText):
            return self._encode_packed(text, train)
        if train and self.word_dropout:
            read = jax.random.bernoulli(
                self.make_rng("dropout"), 1 - self.word_dropout, text.mask.shape
            )
            # [CLS] is always read, so that no text is empty.
            text = text._replace(mask=text.mask & read.at[:, 0].set(True))
        states = text.tokens
        if text.tokens.ndim == 2:  # ids; of a frozen text encoder its states come in their place
            states = self.text_encoder(text.tokens, text.mask, deterministic=not train)
        tokens = self.text_norm(self.text_projection(states.astype(jnp.float32)))
        pooled = tokens[:, 0] if self.pooling == "cls" else masked_mean(tokens, text.mask)
        return TextOut(pooled, tokens, text.mask)

    def _encode_packed(self, text: PackedText, train: bool) -> TextOut:
        """The same of texts side by side: each reads itself alone, at positions of its own."""
        count = len(text.places)
        read, mask = text.text < count, text.mask
        if train and self.word_dropout:
            kept = jax.random.bernoulli(
                self.make_rng("dropout"), 1 - self.word_dropout, text.text.shape
            )
            read &= kept | (text.position == 0)
            mask &= read.reshape(-1)[text.places]
        # Padding reads the padding of its row: a softmax over nothing would be no number.
        segments = Segments(text.text, jnp.where(read | (text.text == count), text.text, HIDDEN))
        states = self.text_encoder(
            text.tokens, segments, text.position, deterministic=not train
        ).astype(jnp.float32)
        flat = self.text_norm(self.text_projection(states)).reshape(-1, self.dim)
        if self.pooling == "cls":
            pooled = flat[text.places[:, 0]]
        else:
            of_text = jnp.where(read, text.text, count).reshape(-1)
            pooled = segment_mean(flat, of_text, count + 1)[:-1]
        # Words that are not read belong to no text.
        words = PackedWords(flat, jnp.where(read, text.text, count).reshape(-1), text.places)
        return TextOut(pooled, flat[text.places], mask, words)

    def text_states(self, text: TextBatch) -> Float[Array, "B T W"]:
        """Last hidden states of the text encoder: what `encode_text` takes in the place of ids."""
        return self.text_encoder(text.tokens, text.mask, deterministic=True)

    def encode_molecule(self, mol: MolBatch, train: bool = False) -> MolOut:
        return self.graph_encoder(mol, train)

    @full_precision
    def similarity(self, text: TextOut, mol: MolOut) -> Float[Array, "Q C"]:
        return l2_normalize(text.pooled) @ l2_normalize(mol.pooled).T

    def encode(self, batch: Batch | EncodedBatch, train: bool) -> EncodedBatch:
        """Both sides of a batch, text then molecule; one that is encoded already stays as it is."""
        if isinstance(batch, EncodedBatch):
            return batch
        text = self.encode_text(batch.text, train)
        mol = self.encode_molecule(batch.mol, train)
        return EncodedBatch(text, mol, *batch[2:])

    @full_precision
    def loss(
        self, batch: Batch | EncodedBatch, key: Key[Array, ""], train: bool = True
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """L_Dis without perturbation; `key` is unused: dropout keys come through apply."""
        batch = self.encode(batch, train)
        dis, parts = self.contrast(self.similarity(batch.text, batch.mol), batch)
        second, more = self.agreement(batch)
        return dis + second, parts | more | {"loss": dis + second}

    @staticmethod
    def bounded(params: dict[str, Any]) -> dict[str, Any]:
        """Parameters after an update. The scale stays below 100: clamped here and not in the loss,
        where its gradient would be zero for ever once it is past the bound."""
        if "log_scale" not in params:
            return params
        return params | {"log_scale": jnp.minimum(params["log_scale"], MAX_LOGIT_SCALE)}

    def contrast(
        self, scores: Float[Array, "B B"], batch: EncodedBatch
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """InfoNCE or the sigmoid loss of cosines at the learned scale
        (docs/papers.md#contrastive-loss)."""
        from tmr_jax.models.losses import duplicate_mask, info_nce, sigmoid_pairs  # not to retrieve

        scale, duplicate = jnp.exp(self.logit_scale), duplicate_mask(*batch[2:5])
        if self.contrastive == "softmax":
            loss, parts = info_nce(scale * scores, duplicate)
            return loss, parts | {"scale": scale}
        loss, parts = sigmoid_pairs(scale * scores + self.logit_bias, duplicate)
        return loss, parts | {"scale": scale, "bias": self.logit_bias}

    def agreement(self, batch: EncodedBatch) -> tuple[Float[Array, ""] | float, dict[str, Array]]:
        """Weighted second-order losses of the global embeddings; none where none is wanted. And
        distillation, where a batch brings what teachers say."""
        from tmr_jax.models.losses import distillation, second_order_losses

        if batch.taught is not None:
            text, mol = (jnp.asarray(side, jnp.float32) for side in batch.taught)
            taught = distillation(self.similarity(batch.text, batch.mol), text @ mol.T)
            second, parts = self.agreement(batch._replace(taught=None))
            return taught + second, parts | {"loss/taught": taught}
        config = self.second_order
        if not (config.u2u or config.u2c):
            return 0.0, {}
        u2u, u2c = second_order_losses(
            l2_normalize(batch.text.pooled),
            l2_normalize(batch.mol.pooled),
            kernel=config.kernel,
            temperature_u2u=config.temperature_u2u,
            temperature_u2c=config.temperature_u2c,
        )
        return config.u2u * u2u + config.u2c * u2c, {"loss/u2u": u2u, "loss/u2c": u2c}

    def __call__(self, batch: Batch) -> Float[Array, "B B"]:
        """All parameters are touched once: what `init` runs."""
        return self.similarity(self.encode_text(batch.text), self.encode_molecule(batch.mol))
