"""Memory Bank: learned vectors read both modalities, and one head ends both.

Losses (docs/papers.md#memory-bank): first order (batch-hard triplet as released), adversarial with
a critic that steps first, and second order, u2u and u2c.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from tmr_jax.config import BankConfig, FeatureConfig, ModelConfig, TrainConfig
from tmr_jax.models.dual_encoder import DualEncoder, full_precision
from tmr_jax.models.layers.memory_bank import HEADS, Critic, Memory, SharedHead
from tmr_jax.models.layers.pooling import masked_mean, segment_mean
from tmr_jax.models.losses import batch_hard_triplet, critic_loss, duplicate_mask, generator_loss
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
        if self.graph.readout == "mean_mlp":
            # Ours: what attention over atoms cannot say, how many there are, as one more of them.
            nodes = jnp.concatenate([nodes, out.pooled])
            of_graph = jnp.concatenate([of_graph, jnp.arange(len(out.pooled))])
        graphs = len(mol.graph.n_node)  # the last one absorbs the padding
        read = self.memory.molecules(nodes, of_graph, graphs)[:-1]
        return out._replace(pooled=self.head(read, "mol", train))

    @full_precision
    def loss(
        self, batch: Batch | EncodedBatch, key: Key[Array, ""], train: bool = True
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """L = first order + adversarial L_G + w_uu L_u2u + w_uc L_u2c; `key` is unused."""
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
        if self.bank.first_order == "info_nce":
            return self.contrast(self.similarity(batch.text, batch.mol), batch)
        if self.bank.first_order == "none":
            return jnp.zeros(()), {}
        duplicate = duplicate_mask(batch.text_group, batch.mol_group)
        return batch_hard_triplet(batch.text.pooled, batch.mol.pooled, duplicate)

    @full_precision
    def adversary_loss(
        self, batch: EncodedBatch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """L_D, of the critic's parameters alone; the step detaches the batch."""
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
