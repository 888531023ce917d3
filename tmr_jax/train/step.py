"""One training step of any model that meets the contract, on one device or on several.

With several devices each encodes its share of the pairs, and the losses see all of them. Part i of
n has the pairs from i B / n on, as a batch numbered by itself (`make_batch` with n shards), so the
encoders need no communication. The encoded parts are then joined to the one batch that every loss
is written for. Under `jit` the losses are sharded too: XLA inserts the collectives, and DiffTMR
divides the queries of its generator among the devices (`model.mesh`). Under `pmap` every device
computes the losses of the whole batch, and gradients are averaged. A device may also encode its
share in chunks, one after another, where the activations of all of it do not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key

from tmr_jax.models.checkpoint import STATISTICS, TrainState, only, variables, without
from tmr_jax.train.optim import moving_average, norm_of, skipped
from tmr_jax.types import Batch, EncodedBatch, UserError

AXIS = "data"
How = Literal["jit", "pmap"]
Metrics = dict[str, Array]
AnyBatch = Batch | EncodedBatch
Step = Callable[[TrainState, AnyBatch, Key[Array, ""]], tuple[TrainState, Metrics]]
Call = Callable[..., tuple[TrainState, Metrics]]
Encode = Callable[[Any, Any, Key[Array, ""]], tuple[EncodedBatch, Any]]


class Sharding(NamedTuple):
    """How a batch is cut into parts, each numbered by itself."""

    how: How
    mesh: Mesh | None  # one axis, AXIS; None: a single device
    chunks: int = 1  # that a device encodes one after another

    @property
    def devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.size

    @property
    def parts(self) -> int:
        return self.devices * self.chunks


SINGLE_DEVICE = Sharding("jit", None)


def make_sharding(devices: Sequence[Any], how: How, batch_size: int, chunk: int = 0) -> Sharding:
    """How `devices` share a batch; each encodes `chunk` pairs at a time (0: its whole share).

    Raises UserError where the devices cannot share a batch evenly, or where their shares are not a
    multiple of the chunk.
    """
    count = len(devices)
    if batch_size % count:
        raise UserError(
            f"expected a --train.batch-size that {count} devices share evenly; got {batch_size}; "
            "make it a multiple, or let JAX see fewer devices"
        )
    share = batch_size // count
    if chunk < 0 or (chunk and share % chunk):
        raise UserError(
            f"expected a --train.chunk that divides the {share} pairs of a device; got {chunk}; "
            "0 encodes them all at once"
        )
    mesh = None if count == 1 else Mesh(np.array(devices), (AXIS,))
    return Sharding(how, mesh, share // chunk if chunk else 1)


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    shapes: int,
    frozen: frozenset[str] = frozenset(),
    adversary: optax.GradientTransformation | None = None,
    sharding: Sharding = SINGLE_DEVICE,
    ema: float = 0.0,
) -> Step:
    """`train_step`, compiled at most once for each of `shapes` batch shapes; donates its state."""
    step = train_step(model, optimizer, frozen, adversary, sharding, ema)
    # chex counts by the function's name, and a second stage has a step of its own.
    chex.clear_trace_counter()
    return compile_step(chex.assert_max_traces(step, n=shapes), sharding, (False, True, False))


def make_train_call(
    step: Step, take: Callable[..., Batch], shapes: int, sharding: Sharding = SINGLE_DEVICE
) -> Call:
    """Several steps in one compiled call: (state, tables, chosen [steps, ...], key, size).

    `take(tables, chosen, size)` makes the batch of one step on the device. It is compiled at most
    once for each of `shapes` pairs of a size and a number of steps, and donates the state; metrics
    are arrays [steps].
    """

    def call(
        state: TrainState, tables: Any, chosen: Any, key: Key[Array, ""], size: Any
    ) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, chosen: Any) -> tuple[TrainState, Metrics]:
            batch = on_shards(lambda tables, chosen: take(tables, chosen, size), sharding)
            return step(state, batch(tables, chosen), key)

        return jax.lax.scan(one, state, chosen)

    chex.clear_trace_counter()
    guarded = chex.assert_max_traces(call, n=shapes)
    return compile_step(guarded, sharding, (False, False, True, False, False), (4,))


def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    frozen: frozenset[str] = frozenset(),
    adversary: optax.GradientTransformation | None = None,
    sharding: Sharding = SINGLE_DEVICE,
    ema: float = 0.0,
) -> Step:
    """One step as a function to be compiled.

    Parameters below the names `frozen` do not change, and the optimizer has no state for them.
    Those that the model names in `model.adversary` belong to the optimizer `adversary`: they step
    first, on the detached features of the batch, and the model's own loss reads their new values.
    `ema` above 0: the state has an average of all parameters (`moving_average`).

    The key is that of the run: the step folds its own number into it. Metrics are scalars on the
    device: the model's own, `loss`, `grad_norm`, `skipped` (updates skipped so far) and
    `skipped_in_a_row`.
    """
    critic_names: frozenset[str] = model.adversary
    assert bool(critic_names) == (adversary is not None), "an adversary has an optimizer"
    encode = sharded_encoder(model, sharding)
    if sharding.mesh is not None and sharding.how == "jit":
        model = model.clone(mesh=sharding.mesh)
    untrained = frozen | critic_names | {STATISTICS}

    def step(state: TrainState, batch: AnyBatch, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
        loss_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        fixed, trained = only(state.params, untrained), without(state.params, untrained)

        def loss(trained: Any) -> tuple[Array, tuple[Metrics, _Moved]]:
            params = {**fixed, **trained}
            encoded, statistics = encode(params, batch, dropout_key)
            critic, critic_state, critic_metrics = {}, state.adversary, {}
            if adversary is not None:
                critic, critic_state, critic_metrics = _critic_step(
                    model, adversary, critic_names, params, encoded, state.adversary, loss_key
                )
            value, metrics = _applied(model, {**params, **critic}, "loss", encoded, loss_key, True)
            moved = _Moved({**statistics, **critic}, critic_state)
            return value, (metrics | critic_metrics, moved)

        (value, (metrics, moved)), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        gradients = mean_gradients(gradients, sharding)
        # A loss that is not finite must not train, whatever its gradients are.
        sound = jnp.isfinite(value)
        update = optax.with_extra_args_support(optimizer).update
        updates, optimizer_state = update(gradients, state.optimizer, trained, sound=sound)
        params: Any = model.bounded(optax.apply_updates(trained, updates))
        before = _Moved(only(state.params, frozenset(moved.params)), state.adversary)
        moved = jax.tree.map(lambda new, old: jnp.where(sound, new, old), moved, before)
        in_a_row, in_all = skipped(optimizer_state)
        metrics |= {
            "loss": value,
            "grad_norm": jnp.where(sound, norm_of(gradients), jnp.nan),
            "skipped": in_all,
            "skipped_in_a_row": in_a_row,
        }
        params = {**fixed, **params, **moved.params}
        average = moving_average(state.average, params, ema, state.step) if ema else ()
        return TrainState(
            state.step + 1, params, optimizer_state, moved.adversary, average
        ), metrics

    return step


class _Moved(NamedTuple):
    """What a step replaces that the optimizer does not."""

    params: Any  # statistics, and the parameters of the adversary
    adversary: optax.OptState


def _applied(model: nn.Module, params: Any, method: str, *arguments: Any) -> Any:
    return model.apply(variables(params), *arguments, method=method)


def _critic_step(
    model: nn.Module,
    adversary: optax.GradientTransformation,
    names: frozenset[str],
    params: Any,
    encoded: Any,
    state: optax.OptState,
    loss_key: Key[Array, ""],
) -> tuple[Any, optax.OptState, Metrics]:
    """The adversary's parameters and state after its step on detached features, and its metrics."""
    params, encoded = jax.lax.stop_gradient((params, encoded))
    critic = only(params, names)

    def loss(critic: Any) -> tuple[Array, Metrics]:
        key = jax.random.fold_in(loss_key, 1)
        return _applied(model, {**params, **critic}, "adversary_loss", encoded, key)

    (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(critic)
    updates, state = adversary.update(gradients, state, critic)
    return optax.apply_updates(critic, updates), state, metrics


# Encoding


def sharded_encoder(model: nn.Module, sharding: Sharding) -> Encode:
    """(parameters, batch, key) -> the encoded batch, numbered as one, and the new statistics.

    Chunks are encoded again in the backward pass, one at a time, so only their embeddings have to
    fit in memory. Under pmap it is called on each device with its share of the batch.
    """
    if sharding.mesh is not None:
        model = model.clone(axis=AXIS)  # BatchNorm then takes its statistics over all devices

    def encode(params: Any, batch: Any, key: Key[Array, ""]) -> tuple[Any, Any]:
        rngs = {"dropout": key}
        encoded: Any = model.apply(
            variables(params), batch, True, method="encode", rngs=rngs, mutable=[STATISTICS]
        )
        return encoded

    if sharding.parts == 1:
        return encode
    share = partial(_encode_share, encode, sharding)
    if sharding.mesh is None:
        return share
    if sharding.how == "pmap":

        def gathered(*arguments: Any) -> tuple[Any, Any]:
            encoded, statistics = share(*arguments)
            gather = partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)
            return jax.tree.map(gather, encoded), statistics

        return gathered
    # Unchecked: the hand-ordered backward passes do not declare which of their values vary.
    takes, gives = (P(), P(AXIS), P()), (P(AXIS), P())
    return jax.shard_map(
        share, mesh=sharding.mesh, in_specs=takes, out_specs=gives, check_vma=False
    )


def _encode_share(
    encode: Encode, sharding: Sharding, params: Any, batch: Batch, key: Key[Array, ""]
) -> tuple[EncodedBatch, Any]:
    """One device's share of a batch, in one part or in chunks."""

    def part(batch: Batch, number: Array) -> tuple[EncodedBatch, Any]:
        encoded, statistics = encode(params, batch, jax.random.fold_in(key, number))
        return _numbered(encoded, number, sharding.parts), statistics

    chunks = sharding.chunks
    device = jax.lax.axis_index(AXIS) if sharding.mesh is not None else jnp.int32(0)
    if chunks == 1:
        return part(batch, device)
    # The length is explicit, and not -1: features of bonds may have no column.
    cut = jax.tree.map(lambda x: x.reshape(chunks, len(x) // chunks, *x.shape[1:]), batch)

    def one(chunk: tuple[Array, Batch]) -> EncodedBatch:
        encoded, statistics = part(chunk[1], chunk[0])
        assert not statistics, "statistics of a whole batch cannot be computed chunk by chunk"
        return encoded

    numbers = device * chunks + jnp.arange(chunks)
    encoded = jax.lax.map(jax.checkpoint(one), (numbers, cut))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), encoded), {}


def _numbered(encoded: EncodedBatch, number: Array, parts: int) -> EncodedBatch:
    """Graphs and texts numbered over the whole batch; all padding has the last number."""
    count = len(encoded.mol.pooled)

    def renumbered(item: Array) -> Array:
        return jnp.where(item == count, count * parts, item + count * number)

    mol = encoded.mol._replace(node_graph=renumbered(encoded.mol.node_graph))
    text, words = encoded.text, encoded.text.packed
    if words is not None:
        places = words.places + len(words.rows) * number
        words = words._replace(text=renumbered(words.text), places=places)
    return encoded._replace(mol=mol, text=text._replace(packed=words))


def mean_gradients(gradients: Any, sharding: Sharding) -> Any:
    """Averages over devices under pmap, where each differentiates the loss of the whole batch by
    its own copy of the parameters."""
    if sharding.mesh is None or sharding.how == "jit":
        return gradients
    return jax.lax.pmean(gradients, AXIS)


def on_shards(function: Callable[..., Any], sharding: Sharding) -> Callable[..., Any]:
    """`function(whole, share)` on every device's share of its second argument, inside a step."""
    if sharding.mesh is None or sharding.how == "pmap":
        return function
    return jax.shard_map(
        function, mesh=sharding.mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False
    )


# Placing arrays


def shard_batch(tree: Any, sharding: Sharding, axis: int = 0) -> Any:
    """NumPy arrays [.., B or a multiple, ..] on the devices, cut among them along `axis`.

    Every process passes the whole batch. Under pmap a new first axis is that of the devices of
    this process.
    """
    if sharding.mesh is None:
        return tree
    if sharding.how == "pmap":
        here = jax.process_index()
        local = [i for i, d in enumerate(sharding.mesh.devices.flat) if d.process_index == here]

        def shares(x: np.ndarray) -> np.ndarray:
            cut = np.split(x, sharding.devices, axis)
            return np.stack([cut[i] for i in local])

        return jax.tree.map(shares, tree)
    placement = NamedSharding(sharding.mesh, P(*(None,) * axis, AXIS))
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, placement, lambda index: x[index]), tree
    )


def replicate(tree: Any, sharding: Sharding) -> Any:
    """Arrays that every device has whole."""
    if sharding.mesh is None:
        return jax.device_put(tree)
    if sharding.how == "pmap" and jax.process_count() > 1:
        return jax.device_put(tree)  # pmap copies the arrays of a process to its devices
    placement = NamedSharding(sharding.mesh, P())
    if jax.process_count() == 1:
        return jax.device_put(tree, placement)

    def put(x: Any) -> Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, placement, lambda index: x[index])

    return jax.tree.map(put, tree)


# Compiling


def compile_step(
    step: Callable[..., Any],
    sharding: Sharding,
    sharded: tuple[bool, ...],
    static: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """The step for the devices; it donates its first argument, the state.

    `sharded`: for each argument whether it is cut among the devices (`shard_batch`) or whole on
    each. Results are whole on each.
    """
    if sharding.mesh is None:
        return jax.jit(step, donate_argnums=0, static_argnums=static)
    if sharding.how == "jit":
        out = NamedSharding(sharding.mesh, P())
        return jax.jit(step, donate_argnums=0, static_argnums=static, out_shardings=out)
    return jax.pmap(
        step,
        AXIS,
        in_axes=tuple(0 if cut else None for cut in sharded),
        out_axes=None,  # pyright: ignore[reportArgumentType]
        devices=list(sharding.mesh.devices.flat),
        # With several processes JAX's pmap deletes arrays that it has yet to read (0.12).
        donate_argnums=() if jax.process_count() > 1 else 0,
        static_broadcasted_argnums=static,
    )


def compile_ahead(lowered: Any, backend: str) -> Any:
    """The program of a lowered step. On a TPU similar operations share their code, which makes it a
    quarter smaller; a libtpu without that option compiles without it."""
    if backend != "tpu":
        return lowered.compile()
    try:
        return lowered.compile({"xla_tpu_enable_deduplicated_calls": "true"})
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()
