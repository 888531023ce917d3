"""Masked words: the text encoder reads chemistry before it is trained on pairs.

In: the training texts, and ChEBI's definitions of classes, roles and molecules without a structure
(`tmr_jax.data.datasets.chebi.definitions`: none says what an evaluated text says). Out: the
encoder's parameters after some steps of BERT's own task. They are kept in the cache folder under a
hash of all that they depend on; a run that is interrupted here begins these steps again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from tmr_jax.config import Experiment
from tmr_jax.data.datasets import chebi
from tmr_jax.data.files import ARRAYS, Arrays, cache_key, cached
from tmr_jax.data.tables import TextTable, text_table, text_take
from tmr_jax.data.workers import progress_of
from tmr_jax.models.checkpoint import parameters_sha256
from tmr_jax.models.layers.bert import Bert
from tmr_jax.models.run import TrainedModel
from tmr_jax.train.optim import if_finite, schedule
from tmr_jax.types import Pair, UserError

ROWS = 32  # of a batch, each of --features.max-tokens tokens: about the tokens of a training step
MASKED = 0.15  # share of the tokens that are predicted; as BERT has them (Devlin et al. 2019):
SHOWN_AS = (0.8, 0.9)  # up to the first as [MASK], up to the second as any token, else as they are


class Question(NamedTuple):
    """A batch with some of its tokens hidden."""

    tokens: Int[np.ndarray, "R T"]
    places: Int[np.ndarray, " M"]  # of the hidden ones in the flattened batch
    answers: Int[np.ndarray, " M"]  # what they are


class Head(nn.Module):
    """Scores of all word pieces at each place; its last map is the word embeddings themselves."""

    eps: float

    @nn.compact
    def __call__(
        self, states: Float[Array, "M W"], words: Float[Array, "V W"]
    ) -> Float[Array, "M V"]:
        init = nn.initializers.normal(0.02)
        x = nn.gelu(nn.Dense(states.shape[1], kernel_init=init)(states), approximate=False)
        bias = self.param("bias", nn.initializers.zeros, (len(words),))
        scores = nn.LayerNorm(self.eps)(x).astype(states.dtype) @ words.T.astype(states.dtype)
        return scores.astype(jnp.float32) + bias[None]


def adapted(config: Experiment, model: TrainedModel, params: Any, pairs: Sequence[Pair]) -> Any:
    """Parameters of the text encoder after `--train.masked-words` steps, from `params`.

    Errors: UserError for a tokenizer without a token that hides others.
    """
    tokenizer, steps = model.tokenizer, config.train.masked_words
    hidden = tokenizer.mask_token
    if hidden is None:
        raise UserError(
            "expected a text encoder whose tokenizer has [MASK] for --train.masked-words; got "
            f"{config.model.text.source}; take another source, or leave the option out"
        )
    table = text_table(texts_of(config, pairs), tokenizer, config.features.max_tokens)
    settings = [steps, config.train.seed, config.train.precision, config.model.text.dropout]
    settings += [ROWS, config.features.max_tokens, config.optim.text_lr, config.optim.warmup]
    settings += [config.optim.schedule, config.optim.clip, parameters_sha256(params)]

    def read() -> Arrays:
        found = _trained(config, model, params, table, hidden)
        return {name: np.asarray(x) for name, x in flatten_dict(found, sep="/").items()}

    flat: Arrays = flatten_dict(params, sep="/")  # pyright: ignore[reportAssignmentType]
    wanted = {name: np.shape(x) for name, x in flat.items()}
    arrays = cached(
        cache_key("masked", settings, (table.tokens, table.offsets)),
        read,
        lambda found: {name: x.shape for name, x in found.items()} == wanted,
        ARRAYS,
    )
    return jax.tree.map(jnp.asarray, unflatten_dict(arrays, sep="/"))


def texts_of(config: Experiment, pairs: Sequence[Pair]) -> list[str]:
    """Training texts, each once, and definitions. With your own file only its training texts:
    which definitions its other splits repeat is not known."""
    own = dict.fromkeys(pair.text for pair in pairs if pair.split == "train")
    if config.data.name == "table":
        return [*own]
    return [*own, *(f"{one.name}: {one.definition}" for one in chebi.definitions())]


def _trained(
    config: Experiment, model: TrainedModel, params: Any, table: TextTable, hidden: int
) -> Any:
    module: Any = model.model
    how = (module.dtype, module.backward, module.attention, module.gelu, module.remat)
    bert, head = Bert(module.bert, *how, module.unroll), Head(module.bert.eps)
    steps, width = config.train.masked_words, module.bert.hidden
    words = params["word_embeddings"]["embedding"]
    start = head.init(jax.random.key(config.train.seed), jnp.zeros((1, width)), words)["params"]
    rate = schedule(config.optim, config.optim.text_lr, steps)
    optimizer = if_finite(optax.adam(rate), config.optim.clip)
    # Copies: a step donates its arguments.
    both = {"bert": jax.tree.map(jnp.array, params), "head": start}
    state = both, optimizer.init(both)

    def loss(both: Any, question: Question, key: Any) -> Float[Array, ""]:
        mask, rngs = jnp.ones(question.tokens.shape, bool), {"dropout": key}
        states: Any = bert.apply(
            {"params": both["bert"]}, question.tokens, mask, deterministic=False, rngs=rngs
        )
        asked = states.reshape(-1, width)[question.places]
        scores: Any = head.apply(
            {"params": both["head"]}, asked, both["bert"]["word_embeddings"]["embedding"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(scores, question.answers).mean()

    def step(state: Any, question: Question, key: Any) -> tuple[Any, Array]:
        value, gradients = jax.value_and_grad(loss)(state[0], question, key)
        sound = jnp.isfinite(value)
        updates, moments = optimizer.update(gradients, state[1], state[0], sound=sound)
        return (optax.apply_updates(state[0], updates), moments), value

    step, losses = jax.jit(step, donate_argnums=0), []
    key = jax.random.key(config.train.seed)
    rows = windows(table, config.features.max_tokens, config.train.seed)
    what = f"masked words of {len(table.truncated):,} texts"
    with progress_of(what, steps, transient=True) as on_progress:
        for number, tokens in zip(range(steps), rows, strict=False):
            rng = np.random.default_rng([config.train.seed, number])
            asked = question(rng, tokens, special(table), hidden, module.bert.vocab_size)
            state, value = step(state, asked, jax.random.fold_in(key, number))
            losses.append(float(value))
            on_progress(number + 1)
    tenth = max(steps // 10, 1)
    first, last = np.mean(losses[:tenth]), np.mean(losses[-tenth:])
    print(f"{what}: loss {first:.3f} at first, {last:.3f} at last, in {steps} steps", flush=True)
    return state[0]["bert"]


def windows(table: TextTable, row: int, seed: int) -> Iterator[Int[np.ndarray, "R T"]]:
    """Batches of full rows: all texts one behind the other, in another order each time round."""
    rng, stream = np.random.default_rng(seed), np.zeros(0, np.int32)
    while True:
        while len(stream) < ROWS * row:
            order = rng.permutation(len(table.truncated))
            stream = np.concatenate([stream, text_take(table, order).tokens])
        yield stream[: ROWS * row].reshape(ROWS, row)
        stream = stream[ROWS * row :]


def special(table: TextTable) -> Int[np.ndarray, " S"]:
    """The tokens that open and close texts."""
    ends = np.concatenate([table.offsets[:-1], table.offsets[1:] - 1])
    return np.unique(table.tokens[ends])


def question(
    rng: np.random.Generator,
    tokens: Int[np.ndarray, "R T"],
    special: Int[np.ndarray, " S"],
    hidden: int,
    vocabulary: int,
) -> Question:
    """The batch with tokens to predict, none of them special, always equally many."""
    flat = tokens.reshape(-1).copy()
    places = rng.choice(
        np.flatnonzero(~np.isin(flat, special)), int(MASKED * flat.size), replace=False
    )
    answers, draw = flat[places], rng.random(len(places))
    others = rng.integers(vocabulary, size=len(places))
    flat[places] = np.where(
        draw < SHOWN_AS[0], hidden, np.where(draw < SHOWN_AS[1], others, answers)
    )
    return Question(flat.reshape(tokens.shape), places.astype(np.int32), answers)
