"""DiffTMR: the dual encoder with text-anchored perturbation and a denoiser for each direction.

Equations: MODELS.md A1.3 (TAPR), A1.4 (L_Dis), A1.5 (HDAN, L_Gen), A1.6-A1.7 (inference). The
generator reads features only, so a batch may come encoded: `two_stage` trains it on the features of
a finished encoder, `joint` beside the encoder in one loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from tmr_jax.config import HdanConfig, TaprConfig
from tmr_jax.losses.contrastive import same_pair
from tmr_jax.losses.diffusion import clean_rows, denoising_kl
from tmr_jax.models.dual import DualEncoder
from tmr_jax.nn.diffusion import (
    Form,
    Hdan,
    HdanWeights,
    Pairs,
    alpha_bar,
    at_time,
    denoise,
    log_clean,
    prepare,
    sample,
)
from tmr_jax.nn.pooling import unit
from tmr_jax.nn.tapr import Tapr, best_of
from tmr_jax.types import Batch, EncodedBatch, MolOut, TextOut


class WordWeights(nn.Module):
    """How much each word counts for the local score: softmax of a small network (A1.5)."""

    dim: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Array:
        small = nn.initializers.normal(0.02)  # R10
        hidden = nn.relu(nn.Dense(2 * self.dim, kernel_init=small, name="inner")(tokens))
        logits = nn.Dense(1, kernel_init=small, name="outer")(hidden)[..., 0]
        return jax.nn.softmax(jnp.where(mask, logits, -jnp.inf), -1)


SIMILARITY = 20.0  # about the logit scale that contrastive training ends with (R20)
GENERATOR = frozenset({"coupling", "word_weights", "t2m", "m2t"})


class DiffTMR(DualEncoder):
    """The encoders keep their names, so the parameters of a dual encoder fit in."""

    slots: int = 256  # words that Theta has a row for: the longest text
    tapr: TaprConfig = TaprConfig()
    hdan: HdanConfig = HdanConfig()

    def setup(self) -> None:
        super().setup()
        self.coupling = Tapr(self.tapr.mode, self.slots, self.dim, self.tapr.bias)
        self.word_weights = WordWeights(self.dim)
        start = SIMILARITY if self.hdan.inputs in ("similarity", "posterior") else 0.0
        self.t2m, self.m2t = Hdan(self.dim, start), Hdan(self.dim, start)

    @property
    def form(self) -> Form:
        h = self.hdan
        return Form(h.steps, h.gamma, h.state, h.clean, h.scaled, h.inputs == "posterior")

    # Training

    def loss(
        self, batch: Batch | EncodedBatch, key: Key[Array, ""], train: bool = True
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """L = L_Dis + w L_Gen (A1.4, A1.5; w = 1). One noise vector for each molecule (R6)."""
        batch = self.encode(batch, train)
        text, mol = batch.text, batch.mol
        duplicate = same_pair(batch.text_group, batch.mol_group)
        for_noise, for_t2m, for_m2t = jax.random.split(key, 3)
        noise = jax.random.normal(for_noise, mol.pooled.shape)
        scores, perturbed = self._perturb_batch(text, mol, noise)
        dis, parts = self.contrast(scores, batch)
        second, more = self.agreement(batch)
        total = dis + second
        parts |= {"loss/dis": dis} | more
        if self.hdan.weight or self.is_initializing():
            t2m, m2t = self._generative(text, mol, perturbed, duplicate, for_t2m, for_m2t)
            total += self.hdan.weight * (t2m + m2t)
            parts |= {"loss/gen_t2m": t2m, "loss/gen_m2t": m2t}
        return total, parts | {"loss": total}

    def _perturb_batch(self, text: TextOut, mol: MolOut, noise: Array) -> tuple[Array, Array]:
        """s_ij of every text with every molecule, and h_P, [1, B, D] or by text [B, B, D]."""
        words, goals = unit(text.tokens), unit(mol.pooled)
        if self.tapr.anchor == "paired":
            cosines = (words @ goals[:, :, None])[..., 0]  # [B, T]
            radius = self.coupling(cosines, text.mask)[None]
        else:
            cosines = (words @ goals.T).swapaxes(1, 2)  # [B texts, B molecules, T]
            radius = self.coupling(cosines, text.mask[:, None, :])
        perturbed = mol.pooled[None] + radius * noise[None]
        return (unit(text.pooled)[:, None, :] * unit(perturbed)).sum(-1), perturbed

    def _generative(
        self,
        text: TextOut,
        mol: MolOut,
        perturbed: Array,
        duplicate: Array,
        for_t2m: Array,
        for_m2t: Array,
    ) -> tuple[Array, Array]:
        """L_Gen of both directions; the candidates are those of the batch (R14, R17, R18)."""

        def gate(x: Array) -> Array:
            """R22: what the encoders may learn from the generator."""
            stopped = jax.lax.stop_gradient(x)
            share = self.hdan.gradient
            return stopped if share == 0 else stopped + share * (x - stopped)

        text = text._replace(pooled=gate(text.pooled), tokens=gate(text.tokens))
        mol = mol._replace(pooled=gate(mol.pooled), nodes=gate(mol.nodes))
        local = self.local_scores(text, mol)
        # of texts and of molecules alike: who is a duplicate is mutual
        goal = clean_rows(duplicate)
        t2m = text.pooled, gate(perturbed), local
        m2t = mol.pooled, text.pooled[None], local.T
        return (
            self._generate(self.t2m(), *t2m, goal, for_t2m),
            self._generate(self.m2t(), *m2t, goal, for_m2t),
        )

    def _generate(
        self,
        weights: HdanWeights,
        query: Float[Array, "B D"],
        candidates: Float[Array, "#B B D"],
        local: Float[Array, "B B"],
        goal: Float[Array, "B B"],
        key: Key[Array, ""],
    ) -> Float[Array, ""]:
        """L_Gen of one direction, some queries at a time where the pairs of all fill the memory."""
        real = jnp.ones((1, len(goal)), bool)
        each = candidates if len(candidates) > 1 else None  # a row for every query, or one for all
        rows = (query, each, local, goal, jax.random.split(key, len(goal)))

        def of(rows: tuple) -> Array:
            query, each, local, goal, keys = rows
            pairs = self._prepared(
                weights, query, candidates if each is None else each, local, real
            )
            return objective(self.hdan.objective, weights, pairs, goal, keys, self.form)

        return in_blocks(of, rows, len(goal), len(goal) * 2 * self.dim).mean()

    def _prepared(
        self, weights: HdanWeights, query: Array, candidates: Array, local: Array, real: Array
    ) -> Pairs:
        """The state-free part of A1.5. Features as they are have the length that LayerNorm gives
        them, 17 at D = 300, and d = 100 then starts the loss at many times chance (LOG.md)."""
        if self.hdan.inputs != "as_is":
            query, candidates = unit(query), unit(candidates)
        return prepare(weights, query, candidates, local, real, self.form)

    def local_scores(self, text: TextOut, mol: MolOut) -> Float[Array, "B B"]:
        """r_ij: each word of text i takes the motif of molecule j nearest to it (A1.5)."""
        words, motifs = unit(text.tokens), unit(mol.nodes)
        graphs = len(mol.pooled)

        def of(rows: tuple) -> Array:
            words, weights = rows  # of some texts
            cosines = motifs @ words.reshape(-1, words.shape[-1]).T  # [N, b T]
            nearest = jax.ops.segment_max(cosines, mol.node_graph, graphs + 1)[:-1]
            nearest = nearest.reshape(graphs, *weights.shape)  # [B molecules, b texts, T]
            return (nearest * weights[None]).sum(-1).T

        rows = words, self.word_weights(text.tokens, text.mask)
        return in_blocks(of, rows, len(words), len(motifs) * words.shape[1])

    def __call__(self, batch: Batch | EncodedBatch) -> Float[Array, "B B"]:
        """What `init` runs: all parameters, of an encoded batch the generator's, are touched."""
        self.loss(batch, jax.random.key(0), train=False)
        if isinstance(batch, EncodedBatch):
            return self.similarity(batch.text, batch.mol)
        return super().__call__(batch)

    # Retrieval: the pieces that tmr_jax.retrieval.refine puts together

    def weigh_words(
        self, tokens: Float[Array, "B T D"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T"]:
        """f of A1.5: weights of the words of each text, zero on padding."""
        return self.word_weights(tokens, mask)

    def perturb(
        self,
        text: Float[Array, "#Q #K D"],
        mol: Float[Array, "#Q #K D"],
        cosines: Float[Array, "Q K T"],
        mask: Bool[Array, "#Q #K T"],
        noise: Float[Array, "F D"],
    ) -> tuple[Float[Array, "Q K"], Float[Array, "Q K D"]]:
        """s1 and h_P of A1.7 for pairs; the side that asks has one row for all K.

        `cosines` are those of the words of the pair's own text with its molecule (R7).
        """
        return best_of(text, mol, self.coupling(cosines, mask), noise)

    def reconstruct(
        self,
        direction: str,
        query: Float[Array, "Q D"],
        candidates: Float[Array, "Q K D"],
        local: Float[Array, "Q K"],
        noise: Float[Array, "R Q K"],
        samples: int,
    ) -> Float[Array, "S Q K"]:
        """X0_hat after each step of the sampler, averaged over R initial noises (A1.6)."""
        weights = self.t2m() if direction == "t2m" else self.m2t()
        real = jnp.ones((1, candidates.shape[1]), bool)
        pairs = self._prepared(weights, query, candidates, local, real)
        traces = [sample(weights, pairs, x, self.form, samples)[0] for x in noise]
        return jnp.stack(traces).mean(0)


BLOCK = 2**28  # numbers that one array of pairs may have: a gigabyte in float32


def in_blocks(of: Callable[[Any], Array], rows: Any, count: int, width: int) -> Array:
    """`of(rows)` [count, ...], for as many of the rows at a time as keeps `width` numbers a row
    below BLOCK. What one block keeps for its gradient is made again when it is asked for."""
    blocks = next(
        n
        for n in range(1, count + 1)
        if (count % n == 0 and count * width <= n * BLOCK) or n == count
    )
    if blocks == 1:
        return of(rows)
    cut = jax.tree.map(lambda x: x.reshape(blocks, count // blocks, *x.shape[1:]), rows)
    found = jax.lax.map(jax.checkpoint(of), cut)
    return found.reshape(count, *found.shape[2:])


def objective(
    kind: str,
    weights: HdanWeights,
    pairs: Pairs,
    goal: Float[Array, "Q N"],
    keys: Key[Array, " Q"],
    form: Form,
) -> Float[Array, " Q"]:
    """KL(X_0 || X0_hat) of each query and, by kind, its mean over steps (A1.8).

    Each query has a key of its own, so that it draws the same whichever others are looked at.
    """
    drawn = jax.vmap(jax.random.split)(keys)
    for_step, for_noise = drawn[:, 0], drawn[:, 1]
    levels = jnp.asarray(alpha_bar(form.steps), jnp.float32)
    candidates = goal.shape[1:]

    def kl(p: Array) -> Array:
        return denoising_kl(goal, log_clean(p, pairs.mask))

    def noised(k: Int[Array, " #Q"], noise: Array) -> Array:
        """KL where the clean rows are mixed with noise to the level of step k."""
        level = levels[k][:, None]
        state = jnp.sqrt(level) * goal + jnp.sqrt(1 - level) * noise
        return kl(denoise(weights, pairs, at_time(weights, pairs, k, form), state, form))

    if kind == "random_step":
        k = jax.vmap(lambda key: jax.random.randint(key, (), 1, form.steps + 1))(for_step)
        return noised(k, jax.vmap(lambda key: jax.random.normal(key, candidates))(for_noise))
    if kind == "unrolled":
        noise = jax.vmap(lambda key: jax.random.normal(key, candidates))(for_noise)
        _, seen = sample(weights, pairs, noise, form, form.steps, kl)
        assert seen is not None
        return seen.mean(0)

    def step(total: Array, k: Array) -> tuple[Array, None]:
        at_step = jax.vmap(lambda key: jax.random.fold_in(key, k))(for_noise)
        noise = jax.vmap(lambda key: jax.random.normal(key, candidates))(at_step)
        return total + noised(k[None], noise), None

    # Kept from each of the T steps would be B x B hidden layers: they are made again instead.
    steps = jnp.arange(1, form.steps + 1)
    total, _ = jax.lax.scan(jax.checkpoint(step), jnp.zeros(len(goal)), steps)
    return total / form.steps
