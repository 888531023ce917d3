"""DiffTMR: the dual encoder with text-anchored perturbation and a denoiser for each direction.

Equations: docs/papers.md#perturbation, #contrastive-loss, #denoiser, #sampler and #inference. The
generator reads features only, so a batch may come encoded: `two_stage` trains it on the features of
a finished encoder, `joint` together with the encoder in one loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import Precision
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from tmr_jax.config import FeatureConfig, HdanConfig, ModelConfig, TaprConfig, TrainConfig
from tmr_jax.models.dual_encoder import DualEncoder, Reranker, full_precision
from tmr_jax.models.layers.denoiser import (
    Form,
    Hdan,
    HdanWeights,
    Pairs,
    all_levels,
    alpha_bar,
    at_time,
    denoise,
    log_clean,
    prepare,
    sample,
)
from tmr_jax.models.layers.gcn import NORM_FLOOR, l2_normalize
from tmr_jax.types import Batch, EncodedBatch, MolOut, TextOut, UserError

Mode = Literal["off", "mean", "scalar", "matrix"]
LOG_RADIUS = (-8.0, 2.0)  # docs/papers.md#perturbation-scale
# What decides ranks is float32; a TPU would read its factors as bfloat16.
matmul = partial(jnp.matmul, precision=Precision.HIGHEST)


class Tapr(nn.Module):
    """The radius P of pairs (text, molecule), from the cosines of the words with the molecule.

    A molecule's embedding h^g is moved by noise of that radius: h_P = h^g + P * eps. Honesty
    depends on which text that is: in training the molecule's own (or every text of the batch in
    turn), in retrieval always that of the pair being scored (docs/papers.md#perturbation-anchor).
    """

    mode: Mode
    slots: int  # words that Theta has a row for
    dim: int
    bias: float

    @nn.compact
    def __call__(
        self, cosines: Float[Array, "*pairs T"], mask: Bool[Array, "*#pairs T"]
    ) -> Float[Array, "*pairs D"]:
        """P, positive (zero under `off`). Cosines of padding are not read."""
        cosines = jnp.where(mask, cosines, 0.0)
        shape = (*cosines.shape[:-1], self.dim)
        if self.mode == "off":
            return jnp.zeros(shape, cosines.dtype)
        if self.mode == "matrix":
            # T-MASS starts from the rectangular identity: each word moves a channel of its own.
            kernel = self.param("kernel", lambda _: jnp.eye(self.slots, self.dim))
            bias = self.param("bias", nn.initializers.constant(self.bias), (self.dim,))
            # Empty slots hold zeros, so the rows of Theta beyond the text's bucket drop out. Where
            # the bucket has more places than there are slots, what is beyond them is padding.
            read = min(cosines.shape[-1], self.slots)
            log_radius = matmul(cosines[..., :read], kernel[:read]) + bias.reshape(
                (1,) * (len(shape) - 1) + (self.dim,)
            )
        else:
            mean = cosines.sum(-1) / jnp.maximum(mask.sum(-1), 1)
            if self.mode == "scalar":
                mean = self.param("theta", nn.initializers.ones, ()) * mean
            log_radius = jnp.broadcast_to(mean[..., None], shape)
        return jnp.exp(jnp.clip(log_radius, *LOG_RADIUS))


def best_of(
    text: Float[Array, "#Q #K D"],
    mol: Float[Array, "#Q #K D"],
    radius: Float[Array, "Q K D"],
    noise: Float[Array, "F D"],
) -> tuple[Float[Array, "Q K"], Float[Array, "Q K D"]]:
    """The largest cosine over the samples h_P = g + P * eps_f, and the sample that has it.

    `noise` is the same for every pair (docs/papers.md#common-noise); with no row in it the score is
    the cosine of text and molecule. The cosines of all samples follow from three products with
    the noise, so no F-fold tensor is made.
    """
    along = (text * mol).sum(-1)
    length = jnp.maximum(jnp.linalg.norm(text, axis=-1), NORM_FLOOR)
    square = (mol * mol).sum(-1)
    if len(noise) == 0:
        cosine = along / (length * jnp.maximum(jnp.sqrt(square), NORM_FLOOR))
        return cosine, jnp.broadcast_to(mol, radius.shape)
    inner = along[..., None] + matmul(text * radius, noise.T)
    spread = matmul(radius * radius, (noise**2).T)
    norm2 = square[..., None] + matmul(2 * (mol * radius), noise.T) + spread
    norm = jnp.sqrt(jnp.maximum(norm2, NORM_FLOOR**2))  # rounding may leave it below zero
    cosines = inner / (length[..., None] * norm)
    chosen = jnp.argmax(cosines, -1)
    return cosines.max(-1), mol + radius * jnp.take(noise, chosen, axis=0)


class WordWeights(nn.Module):
    """How much each word counts for the local score: softmax of a small network."""

    dim: int

    @nn.compact
    def __call__(
        self, words: Float[Array, "*rows D"], mask: Bool[Array, "B T"], places: Array | None = None
    ) -> Float[Array, "B T"]:
        """Of words [B, T, D], or of packed ones [P, D] and where those of each text lie."""
        # One pass of bfloat16 on a TPU, as in the encoders: every word of a batch comes by.
        layer = partial(
            nn.Dense, kernel_init=nn.initializers.normal(0.02), precision=jax.lax.Precision.DEFAULT
        )
        hidden = nn.relu(layer(2 * self.dim, name="inner")(words))
        logits = layer(1, name="outer")(hidden)[..., 0]
        logits = logits if places is None else logits[places]
        return jax.nn.softmax(jnp.where(mask, logits, -jnp.inf), -1)


SIMILARITY = 20.0  # about the logit scale that contrastive training ends with
# Numbers of a block of queries whose noise levels are all looked at, without a kernel: it is read
# fifty times, so it should stay where that is cheap, in a TPU's vector memory or a CPU's cache. A
# GPU starts a dozen kernels for each level of each block, so its blocks are larger.
LEVEL_BLOCK, GPU_LEVEL_BLOCK = 2**23, 2**27


class DiffTMR(DualEncoder):
    """The encoders keep their names, so the parameters of a dual encoder fit in."""

    groups: ClassVar[dict[str, str]] = {
        **DualEncoder.groups,
        "coupling": "coupling",
        **dict.fromkeys(("t2m", "m2t", "word_weights"), "denoiser"),
    }
    generator: ClassVar[frozenset[str]] = frozenset({"coupling", "word_weights", "t2m", "m2t"})

    slots: int = 256  # words that Theta has a row for: the longest text
    tapr: TaprConfig = TaprConfig()
    hdan: HdanConfig = HdanConfig()
    level_block: int = LEVEL_BLOCK

    @classmethod
    def check(cls, model: ModelConfig, train: TrainConfig) -> None:
        hdan = model.hdan
        for name in ("facts", "lexical"):
            if getattr(train, name):
                raise UserError(
                    f"expected --train.{name} with a model that has no second stage of its own; "
                    "got difftmr; leave it out, or use --model.name dual"
                )
        if model.dim % 2:
            raise UserError(
                f"expected an even --model.dim, half sines and half cosines of the step; got "
                f"{model.dim}; add one"
            )
        if not (hdan.steps >= 1 and 0 <= hdan.gamma <= 1 and 0 <= hdan.gradient <= 1):
            raise UserError(
                "expected at least one of --model.hdan.steps, and gamma and gradient from 0 to 1; "
                f"got {hdan.steps}, {hdan.gamma} and {hdan.gradient}"
            )

    @classmethod
    def options(cls, model: ModelConfig, features: FeatureConfig, backend: str) -> dict[str, Any]:
        block = GPU_LEVEL_BLOCK if backend == "gpu" else LEVEL_BLOCK
        own = {"tapr": model.tapr, "hdan": model.hdan}
        return {**own, "slots": features.max_tokens, "level_block": block}

    @property
    def reranker(self) -> Reranker:
        return self

    def setup(self) -> None:
        super().setup()
        self.coupling = Tapr(self.tapr.mode, self.slots, self.dim, self.tapr.bias)
        self.word_weights = WordWeights(self.dim)
        start = SIMILARITY if self.hdan.inputs in ("similarity", "posterior") else 0.0
        self.t2m, self.m2t = Hdan(self.dim, start), Hdan(self.dim, start)

    @property
    def form(self) -> Form:
        h = self.hdan
        return Form(h.steps, h.gamma, h.inputs == "posterior")

    # Training

    @full_precision
    def loss(
        self, batch: Batch | EncodedBatch, key: Key[Array, ""], train: bool = True
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """L = L_Dis + w L_Gen (w = 1 in the paper). One noise vector for each molecule."""
        from tmr_jax.models.losses import duplicate_mask

        batch = self.encode(batch, train)
        text, mol = batch.text, batch.mol
        duplicate = duplicate_mask(*batch[2:5], mutual=True)
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
        goals = l2_normalize(mol.pooled)
        if self.tapr.anchor == "paired":
            cosines = self._own_cosines(text, goals)
            radius = self.coupling(cosines, text.mask)[None]
        else:
            words = l2_normalize(text.tokens)
            cosines = jnp.matmul(words, goals.T)
            cosines = cosines.swapaxes(1, 2)  # [B texts, B molecules, T]
            radius = self.coupling(cosines, text.mask[:, None, :])
        perturbed = mol.pooled[None] + radius * noise[None]
        return (l2_normalize(text.pooled)[:, None, :] * l2_normalize(perturbed)).sum(-1), perturbed

    @staticmethod
    def _own_cosines(text: TextOut, goals: Float[Array, "B D"]) -> Float[Array, "B T"]:
        """Of the words of each text with one goal; of packed words each is looked at once."""
        if text.packed is None:
            return (l2_normalize(text.tokens) * goals[:, None]).sum(-1)
        words = text.packed
        goal = jnp.concatenate([goals, jnp.zeros_like(goals[:1])])[words.text]
        return (l2_normalize(words.rows) * goal).sum(-1)[words.places]

    def _generative(
        self,
        text: TextOut,
        mol: MolOut,
        perturbed: Array,
        duplicate: Array,
        for_t2m: Array,
        for_m2t: Array,
    ) -> tuple[Array, Array]:
        """L_Gen of both directions; the candidates are those of the batch."""
        from tmr_jax.models.losses import clean_rows

        def gate(x: Array) -> Array:
            """What the encoders learn from it: docs/papers.md#gradient-to-encoders."""
            stopped = jax.lax.stop_gradient(x)
            share = self.hdan.gradient
            return stopped if share == 0 else stopped + share * (x - stopped)

        packed = text.packed
        if packed is not None:
            packed = packed._replace(rows=gate(packed.rows))
        text = TextOut(gate(text.pooled), gate(text.tokens), text.mask, packed)
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

        def of(shared: tuple, rows: tuple) -> Array:
            weights, candidates = shared
            query, each, local, goal, keys = rows
            candidates = candidates if each is None else each
            pairs = self._prepared(weights, query, candidates, local, real)
            kind, form = self.hdan.objective, self.form
            return objective(kind, weights, pairs, goal, keys, form, self.kernels)

        shared = (weights, None if each is not None else candidates)
        room = BLOCK
        if self.hdan.objective == "all_steps":
            room = LEVELS if self.kernels else self.level_block
        # Of features that are off by 4e-3, three passes of bfloat16 (off by 1e-5) do: twice as fast
        # on a TPU as the six of float32, and half the code.
        enough = "high" if self.kernels and self.dtype == jnp.bfloat16 else "highest"

        def total(shared: tuple, rows: tuple) -> Float[Array, " 1"]:
            return sum_in_blocks(of, shared, rows, len(goal) * 2 * self.dim, room)[None]

        if self.mesh is not None:  # XLA cannot cut a kernel, and would sum over devices each level
            cut = P(*self.mesh.axis_names)  # queries; candidates and weights are on every device
            total = jax.shard_map(
                total, mesh=self.mesh, in_specs=(P(), cut), out_specs=cut, check_vma=False
            )
        with jax.default_matmul_precision(enough):
            return total(shared, rows).sum() / len(goal)

    def _prepared(
        self, weights: HdanWeights, query: Array, candidates: Array, local: Array, real: Array
    ) -> Pairs:
        """The state-free part of the denoiser. Features as they are have the length that LayerNorm
        gives them, 17 at D = 300, and d = 100 then starts the loss at many times chance."""
        if self.hdan.inputs != "as_is":
            query, candidates = l2_normalize(query), l2_normalize(candidates)
        return prepare(weights, query, candidates, local, real, self.form)

    def local_scores(self, text: TextOut, mol: MolOut) -> Float[Array, "B B"]:
        """r_ij: each word of text i takes the motif of molecule j nearest to it."""
        count, size = text.mask.shape
        if text.packed is None:
            words, places = text.tokens.reshape(-1, self.dim), None
            of_text = jnp.repeat(jnp.arange(count), size)
            weight = self.word_weights(text.tokens, text.mask).reshape(-1)
        else:
            words, of_text, places = text.packed
            weight = self.word_weights(words, text.mask, places)
            # The weight of each word where it lies; padding has none, and is dropped.
            place = jnp.where(text.mask, places, len(words))
            weight = jnp.zeros(len(words)).at[place].set(weight, mode="drop", unique_indices=False)
        slots, of_slot = slotted(l2_normalize(mol.nodes), mol.node_graph, len(mol.pooled))
        slots = slots.astype(self.dtype)

        rows = l2_normalize(words).astype(self.dtype), of_text, weight
        blocks = block_count(len(words), SLOT * slots.shape[1], BLOCK)
        words, of_text, weight = dealt(rows, blocks, self.mesh.size if self.mesh else 1)

        def of(words: Float[Array, "P D"]) -> Float[Array, "P B"]:
            return nearest(words, slots, of_slot, len(mol.pooled))

        found = jax.lax.map(jax.checkpoint(of), words) if blocks > 1 else of(words[0])[None]
        # Summed over the words of each text by a product, on a matrix unit where there is one; the
        # blocks stay as they lie: this is the largest array that a step keeps.
        own = of_text[:, None] == jnp.arange(count)[None, :, None]
        share = jnp.where(own, weight[:, None], 0.0)
        return jnp.einsum("nbp,npm->bm", share, found.astype(jnp.float32))

    def __call__(self, batch: Batch | EncodedBatch) -> Float[Array, "B B"]:
        """What `init` runs: all parameters, of an encoded batch the generator's, are touched."""
        self.loss(batch, jax.random.key(0), train=False)
        if isinstance(batch, EncodedBatch):
            return self.similarity(batch.text, batch.mol)
        return super().__call__(batch)

    # Retrieval: the pieces that tmr_jax.eval.rerank_steps puts together

    def weigh_words(
        self, tokens: Float[Array, "B T D"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T"]:
        """f, the weights of the words of each text, zero on padding."""
        return self.word_weights(tokens, mask)

    @full_precision
    def perturb(
        self,
        text: Float[Array, "#Q #K D"],
        mol: Float[Array, "#Q #K D"],
        cosines: Float[Array, "Q K T"],
        mask: Bool[Array, "#Q #K T"],
        noise: Float[Array, "F D"],
    ) -> tuple[Float[Array, "Q K"], Float[Array, "Q K D"]]:
        """s1 and h_P of pairs (docs/papers.md#inference); the query has one row for all K.

        `cosines` are those of the words of the pair's own text with its molecule.
        """
        return best_of(text, mol, self.coupling(cosines, mask), noise)

    @full_precision
    def reconstruct(
        self,
        direction: str,
        query: Float[Array, "Q D"],
        candidates: Float[Array, "Q K D"],
        local: Float[Array, "Q K"],
        noise: Float[Array, "R Q K"],
        samples: int,
    ) -> Float[Array, "S Q K"]:
        """X0_hat after each step of the sampler, averaged over R initial noises."""
        weights = self.t2m() if direction == "t2m" else self.m2t()
        real = jnp.ones((1, candidates.shape[1]), bool)
        pairs = self._prepared(weights, query, candidates, local, real)
        traces = [sample(weights, pairs, x, self.form, samples)[0] for x in noise]
        return jnp.stack(traces).mean(0)


def nearest(
    words: Float[Array, "P D"],
    slots: Float[Array, "SLOT S D"],
    of_slot: Int[Array, " S"],
    graphs: int,
) -> Float[Array, "P B"]:
    """The largest cosine of each word with the motifs of each molecule.

    Motifs lie in slots of SLOT of one molecule, the last filled up with its last motif, so that
    nearly all of the maximum is over an axis. Of bfloat16 runs the cosines are products of
    bfloat16, off by up to 4e-3: the largest array of a step.
    """
    cosines = jax.lax.dot_general(slots, words, (((2,), (1,)), ((), ())))  # [SLOT, S, P]
    found = cosines.max(0)
    found = jax.ops.segment_max(found, of_slot, graphs + 1, indices_are_sorted=True)
    return found[:-1].T


SLOT = 8  # motifs of one molecule that are looked at side by side


def slotted(
    nodes: Float[Array, "N D"], node_graph: Int[Array, " N"], graphs: int
) -> tuple[Float[Array, "SLOT S D"], Int[Array, " S"]]:
    """Rows of each graph in slots of SLOT, and the graph of each slot, ascending; `graphs`: none.

    A graph takes as many slots as it needs and fills the last with its last row. Rows of number
    `graphs` are padding.
    """
    order = jnp.argsort(node_graph, stable=True)  # motifs need not stand in molecules' order
    size = jnp.zeros(graphs + 1, jnp.int32).at[node_graph].add(1)[:-1]
    first, taken = jnp.cumsum(size) - size, -(-size // SLOT)
    end = jnp.cumsum(taken)
    slot = jnp.arange(len(nodes) // SLOT + graphs)
    graph = jnp.searchsorted(end, slot, side="right")
    own = jnp.minimum(graph, graphs - 1)
    place = ((slot - (end - taken)[own]) * SLOT)[None] + jnp.arange(SLOT)[:, None]
    row = first[own][None] + jnp.minimum(place, (size[own] - 1)[None])
    return nodes[order[jnp.clip(row, 0, len(nodes) - 1)]], graph


BLOCK = 2**28  # numbers that one array of pairs may have: a gigabyte in float32
LEVELS = 2**27  # of one whose steps a kernel looks at: it fetches a query's numbers once for all


def block_count(count: int, width: int, room: int) -> int:
    """The fewest blocks that `count` rows divide into with at most `room` numbers each."""
    return next(
        n
        for n in range(1, count + 1)
        if (count % n == 0 and count * width <= n * room) or n == count
    )


def dealt(rows: Any, blocks: int, parts: int) -> Any:
    """Every block gets a run of rows from each of `parts`: of rows shared out over devices, some
    of each. Runs, since to take rows apart that lie together is a lot of code on a TPU."""

    def deal(x: Array) -> Array:
        count = math.gcd(len(x) // blocks, parts)
        cut = x.reshape(count, blocks, -1, *x.shape[1:])
        return cut.swapaxes(0, 1).reshape(blocks, -1, *x.shape[1:])

    return jax.tree.map(deal, rows)


def sum_in_blocks(
    of: Callable[[Any, Any], Float[Array, " Q"]], shared: Any, rows: Any, width: int, room: int
) -> Float[Array, ""]:
    """The sum of `of(shared, rows)` over the rows, in blocks of at most `room` numbers.

    A block's gradient is taken where its value is, and only that of `shared` and of the rows is
    kept: what lies between is neither stored nor made a second time.
    """
    count = len(jax.tree.leaves(rows)[0])
    blocks = block_count(count, width, room)
    keys = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(rows)]
    leaves, structure = jax.tree.flatten(rows)

    def cut(rows: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(blocks, -1, *x.shape[1:]), rows)

    def total(shared: Any, floats: list, fixed: list) -> Array:
        merged = iter(floats), iter(fixed)
        rows = jax.tree.unflatten(structure, [next(merged[key]) for key in keys])
        return of(shared, rows).sum()

    @jax.custom_vjp
    def summed(shared: Any, floats: list, fixed: list) -> Array:
        return jax.lax.map(lambda x: total(shared, *x), cut((floats, fixed))).sum()

    def forward(shared: Any, floats: list, fixed: list) -> tuple[Array, Any]:
        def block(carry: Any, x: Any) -> tuple[Any, Any]:
            value, (d_shared, d_floats) = jax.value_and_grad(total, (0, 1))(shared, *x)
            return jax.tree.map(jnp.add, carry, (value, d_shared)), d_floats

        start = jnp.zeros(()), jax.tree.map(jnp.zeros_like, shared)
        (value, d_shared), d_floats = jax.lax.scan(block, start, cut((floats, fixed)))
        return value, (d_shared, jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), d_floats))

    def backward(slopes: Any, g: Array) -> tuple:
        return *jax.tree.map(lambda x: x * g, slopes), None

    summed.defvjp(forward, backward)
    floats = [x for x, key in zip(leaves, keys, strict=True) if not key]
    fixed = [x for x, key in zip(leaves, keys, strict=True) if key]
    return summed(shared, floats, fixed)


def objective(
    kind: str,
    weights: HdanWeights,
    pairs: Pairs,
    goal: Float[Array, "Q N"],
    keys: Key[Array, " Q"],
    form: Form,
    kernels: bool = False,
) -> Float[Array, " Q"]:
    """KL(X_0 || X0_hat) of each query and, by kind, its mean over steps.

    `kernels`: the mean over all steps by a kernel for TPU.
    Each query has a key of its own, so that it draws the same whichever others are looked at.
    """
    from tmr_jax.models.losses import denoising_kl

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

    steps = jnp.arange(1, form.steps + 1)
    drawn = jax.vmap(lambda k: jax.vmap(lambda key: jax.random.fold_in(key, k))(for_noise))(steps)
    noise = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, candidates)))(drawn)
    level = levels[steps][:, None, None]
    states = jnp.sqrt(level) * goal[None] + jnp.sqrt(1 - level) * noise
    return all_levels(weights, pairs, steps, states, goal, form, kernels)
