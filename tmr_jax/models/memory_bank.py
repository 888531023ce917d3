"""Memory Bank: learned vectors read both modalities, and one head ends both.

Losses (docs/papers.md#memory-bank): first order (batch-hard triplet as released), adversarial with
a critic that steps first, and second order, u2u and u2c.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from tmr_jax.config import BankConfig, FeatureConfig, ModelConfig, TrainConfig
from tmr_jax.models.dual_encoder import DualEncoder, full_precision
from tmr_jax.models.layers.bert import Affine
from tmr_jax.models.layers.gcn import NORM_FLOOR, l2_normalize, masked_mean, segment_mean
from tmr_jax.types import (
    Batch,
    EncodedBatch,
    MolBatch,
    MolOut,
    PackedText,
    TextBatch,
    TextOut,
    UserError,
)

HEADS = 4
THETA = 0.07  # the factor is exp(theta)


class Memory(nn.Module):
    """o, attention of M learned vectors over the words, or the atoms, of an item
    (docs/papers.md#memory-slots).

    One bank and one set of projections for both modalities. The mean over the slots is taken before
    the output projection, which is linear: the same number, and no item needs M rows of its own.
    For the same reason a word meets the product of key and bank, and values are of sums of words:
    of [B, T, D] only the words themselves are in memory.
    """

    slots: int  # M; 0: the mean of the parts, without memory
    dim: int

    def setup(self) -> None:
        self.theta = self.param("theta", lambda _: jnp.float32(THETA))
        if self.slots:
            self.bank = self.param("bank", _bank, (self.slots, self.dim))
            # The paper does not state their start: Flax's own.
            self.query, self.out = nn.Dense(self.dim), nn.Dense(self.dim)
            start = nn.initializers.lecun_normal()
            self.key, self.value = Affine(self.dim, start), Affine(self.dim, start)

    def texts(self, tokens: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
        """o^t; padding is not looked at."""
        if not self.slots:
            return jnp.exp(self.theta) * masked_mean(tokens, mask)
        weight = self._text_attention(tokens, mask).mean(-1)  # [B, T, H], of sum 1 over the words
        read = jnp.einsum("bth,btd->bhd", weight, tokens)
        value = self.value(self.dim)
        kernel, bias = self._heads(value["kernel"]), self._heads(value["bias"])
        return self._read(jnp.einsum("bhd,dhk->bhk", read, kernel) + bias[None])

    def molecules(
        self, nodes: Float[Array, "N D"], of_graph: Int[Array, " N"], graphs: int
    ) -> Float[Array, "G D"]:
        """o^m of each of `graphs` graphs; an empty one gives the projection's bias."""
        if not self.slots:
            return jnp.exp(self.theta) * segment_mean(nodes, of_graph, graphs)
        weight = self._atom_attention(nodes, of_graph, graphs).mean(-1)  # [N, H]
        value = self.value(self.dim)
        values = self._heads(nodes @ value["kernel"] + value["bias"][None])
        return self._read(jax.ops.segment_sum(values * weight[..., None], of_graph, graphs))

    def sharpness(
        self, parts: Float[Array, "B T D"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B M"]:
        """How far each slot's attention to an item's parts, be they words or atoms, is from even:
        0 even, 1 on a single part. An item of one part is read evenly."""
        weight = self._text_attention(parts, mask)
        entropy = -jax.scipy.special.xlogy(weight, weight).sum(1).mean(1)  # [B, M]
        even = jnp.log(mask.sum(1).astype(jnp.float32))[:, None]
        return jnp.where(even > 0, 1 - entropy / jnp.maximum(even, NORM_FLOOR), 0.0)

    def _text_attention(
        self, tokens: Float[Array, "B T D"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T H M"]:
        logits = jnp.where(mask[..., None, None], self._logits(tokens), -jnp.inf)
        return jax.nn.softmax(logits, axis=1)

    def _atom_attention(
        self, nodes: Float[Array, "N D"], of_graph: Int[Array, " N"], graphs: int
    ) -> Float[Array, "N H M"]:
        logits = self._logits(nodes)
        top = jax.lax.stop_gradient(jax.ops.segment_max(logits, of_graph, graphs))
        weight = jnp.exp(logits - top[of_graph])
        return weight / jax.ops.segment_sum(weight, of_graph, graphs)[of_graph]

    def _logits(self, parts: Float[Array, "*parts D"]) -> Float[Array, "*parts H M"]:
        """Without the bias of the keys, which adds the same to all parts: a softmax ignores it."""
        asked = self._heads(self.query(self.bank))  # [M, H, d]
        kernel = self._heads(self.key(self.dim)["kernel"])  # [D, H, d]
        reader = jnp.einsum("dhk,mhk->dhm", kernel, asked) / jnp.sqrt(self.dim / HEADS)
        return jnp.einsum("...d,dhm->...hm", parts, reader)

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], HEADS, self.dim // HEADS)

    def _read(self, values: Float[Array, "B H d"]) -> Float[Array, "B D"]:
        return jnp.exp(self.theta) * self.out(values.reshape(values.shape[0], self.dim))


def _bank(key: Array, shape: tuple[int, int]) -> Float[Array, "M D"]:
    """N(0, 1) with a first row of zeros: a side effect of the released code that is kept here."""
    return jax.random.normal(key, shape).at[0].set(0.0)


class SharedHead(nn.Module):
    """z, by Linear, BatchNorm, tanh, length one; one for both modalities.

    In training each modality is normalised by its own batch. Later, as released, by running
    statistics that mix both (`mixed`), which is another map than the one that was trained wherever
    the modalities differ before it; `own` keeps statistics of each.
    """

    dim: int
    statistics: Literal["mixed", "own"] = "mixed"
    axis: str | None = None  # the batch is all that the devices of this axis have

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], modality: Literal["text", "mol"], train: bool
    ) -> Float[Array, "B D"]:
        x = nn.Dense(self.dim, name="linear")(x)
        name = "norm" if self.statistics == "mixed" else f"norm_{modality}"
        # Momentum 0.9 is torch's 0.1. Flax's running variance is the biased one, torch's is not.
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            use_scale=False,
            use_bias=False,
            axis_name=self.axis,
            name=name,
        )
        scale = self.param("scale", nn.initializers.ones, (self.dim,))
        bias = self.param("bias", nn.initializers.zeros, (self.dim,))
        return l2_normalize(jnp.tanh(norm(x) * scale[None] + bias[None]))


class Critic(nn.Module):
    """D of docs/papers.md#adversarial-loss: 300 -> 512 -> 256 -> 1, LeakyReLU of 0.2."""

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, " B"]:
        for i, width in enumerate((512, 256)):
            x = nn.leaky_relu(nn.Dense(width, name=f"inner_{i}")(x), 0.2)
        return nn.Dense(1, name="outer")(x)[..., 0]


class MemoryBank(DualEncoder):
    """`pooled` is z, of length one; words and atoms stay as they were before the memory."""

    bank: BankConfig = BankConfig()

    @classmethod
    def check(cls, model: ModelConfig, train: TrainConfig) -> None:
        if train.chunk:
            raise UserError(
                "expected --train.chunk 0 with --model.name mbank, whose BatchNorm is of a whole "
                f"batch; got {train.chunk}; make --train.batch-size smaller, or take more devices"
            )
        if model.bank.slots < 0 or model.dim % HEADS:
            raise UserError(
                f"expected --model.bank.slots of at least 0 and a --model.dim that {HEADS} heads "
                f"share evenly; got {model.bank.slots} and {model.dim}; 0 slots leave the memory "
                "out"
            )
        weights = (model.second_order.u2u, model.second_order.u2c, model.bank.adversarial)
        if model.bank.first_order == "none" and not any(weights[:2]):
            raise UserError(
                "expected something to train: a --model.bank.first-order, or a weight in "
                "--model.second-order; got none of them"
            )

    @classmethod
    def options(cls, model: ModelConfig, features: FeatureConfig, backend: str) -> dict[str, Any]:
        return {"bank": model.bank}

    @property
    def memory_slots(self) -> int:
        return self.bank.slots

    def setup(self) -> None:
        super().setup()
        self.memory = Memory(self.bank.slots, self.dim)
        self.head = SharedHead(self.dim, self.bank.statistics, self.axis)
        if self.adversary:
            self.critic = Critic()

    @property
    def adversary(self) -> frozenset[str]:
        return frozenset({"critic"}) if self.bank.adversarial else frozenset()

    @property
    def trains_scale(self) -> bool:
        return self.bank.first_order == "info_nce"

    def encode_text(self, text: TextBatch | PackedText, train: bool = False) -> TextOut:
        out = super().encode_text(text, train)
        read = self.memory.texts(out.tokens, out.mask)
        return out._replace(pooled=self.head(read, "text", train))

    def encode_molecule(self, mol: MolBatch, train: bool = False) -> MolOut:
        out = super().encode_molecule(mol, train)
        nodes, of_graph = out.nodes, out.node_graph
        if self.graph.readout != "mean":
            # Ours: what attention over atoms cannot say, how many there are, as one more of them.
            nodes = jnp.concatenate([nodes, out.pooled])
            of_graph = jnp.concatenate([of_graph, jnp.arange(out.pooled.shape[0])])
        graphs = mol.graph.n_node.shape[0]  # the last one absorbs the padding
        read = self.memory.molecules(nodes, of_graph, graphs)[:-1]
        return out._replace(pooled=self.head(read, "mol", train))

    @full_precision
    def loss(
        self, batch: Batch | EncodedBatch, key: Key[Array, ""], train: bool = True
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """L = first order + adversarial L_G + w_uu L_u2u + w_uc L_u2c; `key` is unused."""
        from tmr_jax.models.losses import generator_loss

        batch = self.encode(batch, train)
        total, parts = self._first_order(batch)
        second, more = self.agreement(batch)
        parts |= more
        if self.adversary:
            fooling = generator_loss(self.critic, before_memory(batch)[1])
            parts["loss/adversarial"] = fooling
            total = total + self.bank.adversarial * fooling
        if self.bank.slots:
            norms = jnp.linalg.norm(self.memory.bank, axis=1)
            spread = {"smallest": norms.min(), "mean": norms.mean(), "largest": norms.max()}
            parts |= {f"bank/norm_{name}": value for name, value in spread.items()}
        total = total + second
        return total, parts | {"loss": total}

    def _first_order(self, batch: EncodedBatch) -> tuple[Float[Array, ""], dict[str, Array]]:
        from tmr_jax.models.losses import batch_hard_triplet, duplicate_mask

        if self.bank.first_order == "info_nce":
            return self.contrast(self.similarity(batch.text, batch.mol), batch)
        if self.bank.first_order == "none":
            return jnp.zeros(()), {}
        duplicate = duplicate_mask(*batch[2:5], mutual=True)
        return batch_hard_triplet(batch.text.pooled, batch.mol.pooled, duplicate)

    @full_precision
    def adversary_loss(
        self, batch: EncodedBatch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """L_D, of the critic's parameters alone; the step detaches the batch."""
        from tmr_jax.models.losses import critic_loss

        return critic_loss(self.critic, *before_memory(batch), key)

    def slot_sharpness(
        self, parts: Float[Array, "B T D"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B M"]:
        """How far from even each slot's attention is to the words of a text, or to atoms."""
        return self.memory.sharpness(parts, mask)

    def __call__(self, batch: Batch) -> Float[Array, "B B"]:
        """What `init` runs: all parameters are touched."""
        if self.adversary:
            self.critic(jnp.zeros((1, self.dim)))
        return super().__call__(batch)


def before_memory(batch: EncodedBatch) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
    """u^t and u^m: means of the words and of the atoms of each item."""
    text, mol = batch.text, batch.mol
    graphs = len(mol.pooled) + 1
    return (
        masked_mean(text.tokens, text.mask),
        segment_mean(mol.nodes, mol.node_graph, graphs)[:-1],
    )
