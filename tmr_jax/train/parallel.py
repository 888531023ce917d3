"""A step spread over devices: each encodes its share of the pairs, the losses see all of them.

Of n parts number i has the pairs from i B / n on, as a batch with a numbering of its own
(`make_batch` with n shards), so the encoders need nothing of each other; what they give is then
put together to the one batch that every model's loss is written for. Two ways to run it: `jit`,
where the losses are spread as well and XLA places the collectives, and `pmap`, where every device
computes the losses of the whole batch and gradients are averaged. A device may also encode its
share in chunks, one after another, where the activations of all of it do not fit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key

from tmr_jax.models.state import STATISTICS, variables
from tmr_jax.types import Batch, EncodedBatch, UserError

AXIS = "data"
How = Literal["jit", "pmap"]
Encode = Callable[[Any, Any, Key[Array, ""]], tuple[EncodedBatch, Any]]


class Spread(NamedTuple):
    """How a batch is cut to parts, each with a numbering of its own."""

    how: How
    mesh: Mesh | None  # one axis, AXIS; None: a single device
    chunks: int = 1  # that a device encodes one after another

    @property
    def devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.size

    @property
    def parts(self) -> int:
        return self.devices * self.chunks


WHOLE = Spread("jit", None)


def spread_over(devices: Sequence[Any], how: How, batch_size: int, chunk: int = 0) -> Spread:
    """How `devices` share a batch, of which each encodes `chunk` pairs at a time (0: its share).

    Raises ValueError where the devices cannot share a batch evenly, or where their shares are no
    whole number of chunks.
    """
    count = len(devices)
    if batch_size % count:
        raise UserError(
            f"expected a --train.batch-size that {count} devices share evenly; got {batch_size}; "
            "make it a multiple, or show jax fewer devices"
        )
    share = batch_size // count
    if chunk < 0 or (chunk and share % chunk):
        raise UserError(
            f"expected a --train.chunk that the {share} pairs of a device are a multiple of; got "
            f"{chunk}; 0 encodes them all at once"
        )
    mesh = None if count == 1 else Mesh(np.array(devices), (AXIS,))
    return Spread(how, mesh, share // chunk if chunk else 1)


def encoder_of(model: nn.Module, spread: Spread) -> Encode:
    """(parameters, batch, key) -> the encoded batch, numbered as one, and the statistics after it.

    Chunks are encoded again in the backward pass, one at a time, so only their embeddings have to
    fit in memory. Under pmap it is to be called on each device with its share of the batch.
    """
    if spread.mesh is not None:
        model = model.clone(axis=AXIS)  # its BatchNorm then sees all devices

    def encode(params: Any, batch: Any, key: Key[Array, ""]) -> tuple[Any, Any]:
        rngs = {"dropout": key}
        found: Any = model.apply(
            variables(params), batch, True, method="encode", rngs=rngs, mutable=[STATISTICS]
        )
        return found

    if spread.parts == 1:
        return encode

    def part(
        params: Any, batch: Batch, key: Key[Array, ""], number: Array
    ) -> tuple[EncodedBatch, Any]:
        encoded, moved = encode(params, batch, jax.random.fold_in(key, number))
        return _numbered(encoded, number, spread.parts), moved

    def share(params: Any, batch: Batch, key: Key[Array, ""]) -> tuple[EncodedBatch, Any]:
        first = jax.lax.axis_index(AXIS) if spread.mesh is not None else jnp.int32(0)
        if spread.chunks == 1:
            return part(params, batch, key, first)
        # The length is said, and not -1: features of bonds may have no column.
        cut = jax.tree.map(
            lambda x: x.reshape(spread.chunks, len(x) // spread.chunks, *x.shape[1:]), batch
        )
        numbers = first * spread.chunks + jnp.arange(spread.chunks)

        def one(chunk: tuple[Array, Batch]) -> EncodedBatch:
            encoded, moved = part(params, chunk[1], key, chunk[0])
            assert not moved, "statistics of a batch cannot be had chunk by chunk"
            return encoded

        found = jax.lax.map(jax.checkpoint(one), (numbers, cut))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found), {}

    if spread.mesh is None:
        return share
    if spread.how == "jit":
        # Unchecked: the hand-ordered backward passes do not say which of their values vary.
        return jax.shard_map(
            share,
            mesh=spread.mesh,
            in_specs=(P(), P(AXIS), P()),
            out_specs=(P(AXIS), P()),
            check_vma=False,
        )

    def gathered(params: Any, batch: Batch, key: Key[Array, ""]) -> tuple[EncodedBatch, Any]:
        encoded, moved = share(params, batch, key)
        whole = jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), encoded)
        return whole, moved

    return gathered


def _numbered(encoded: EncodedBatch, number: Array, parts: int) -> EncodedBatch:
    """Graphs and texts numbered over the whole batch; the padding's all have the last number."""
    own = len(encoded.mol.pooled)

    def renumbered(of_item: Array) -> Array:
        return jnp.where(of_item == own, own * parts, of_item + own * number)

    mol = encoded.mol._replace(node_graph=renumbered(encoded.mol.node_graph))
    text, words = encoded.text, encoded.text.packed
    if words is not None:
        places = words.places + len(words.rows) * number
        words = words._replace(text=renumbered(words.text), places=places)
    return encoded._replace(mol=mol, text=text._replace(packed=words))


def averaged(gradients: Any, spread: Spread) -> Any:
    """Under pmap every device has differentiated the whole loss by its own copy of the parameters,
    and the sum over the devices counts it as often as there are devices."""
    if spread.mesh is None or spread.how == "jit":
        return gradients
    return jax.lax.pmean(gradients, AXIS)


# Several processes


def join_processes() -> bool:
    """Makes this program one of several, where its surroundings say so; whether it leads them.

    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID name the others, or
    TMR_JAX_CLUSTER=1 leaves it to jax, which knows Slurm, Open MPI, Kubernetes and TPU pods.
    Raises ValueError where only some of the three are set.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, count, number = (os.environ.get(name) for name in names)
    if address is None and os.environ.get("TMR_JAX_CLUSTER") != "1":
        return True
    if address is not None:
        if count is None or number is None:
            raise UserError(
                f"expected {names[1]} and {names[2]} beside {names[0]}; got {count} and {number}; "
                "set all three, a number of its own for each process"
            )
        jax.distributed.initialize(address, int(count), int(number))
    else:
        jax.distributed.initialize()
    return jax.process_index() == 0


def meet(where: str) -> None:
    """Returns when all processes are there."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def of_the_leader(tree: Any) -> Any:
    """What the leading process has, on all of them."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


def any_process(said: bool) -> bool:
    """Whether one of the processes says yes; each has to ask."""
    if jax.process_count() == 1:
        return said
    return bool(multihost_utils.process_allgather(np.array(said)).any())


# Placing and compiling


def placed(tree: Any, spread: Spread, axis: int = 0) -> Any:
    """Arrays of numpy [.., B or a multiple, ..] to the devices, cut among them along `axis`.

    Every process calls it with the whole batch. Under pmap a first axis is new, of the devices of
    this process.
    """
    if spread.mesh is None:
        return tree
    if spread.how == "pmap":
        here = jax.process_index()
        own = [i for i, d in enumerate(spread.mesh.devices.flat) if d.process_index == here]

        def shares(x: np.ndarray) -> np.ndarray:
            cut = np.split(x, spread.devices, axis)
            return np.stack([cut[i] for i in own])

        return jax.tree.map(shares, tree)
    sharding = NamedSharding(spread.mesh, P(*(None,) * axis, AXIS))
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda place: x[place]), tree
    )


def everywhere(tree: Any, spread: Spread) -> Any:
    """Arrays that every device has whole."""
    if spread.mesh is None:
        return jax.device_put(tree)
    if spread.how == "pmap" and jax.process_count() > 1:
        return jax.device_put(tree)  # pmap takes what a process has, and gives it to its devices
    whole = NamedSharding(spread.mesh, P())
    if jax.process_count() == 1:
        return jax.device_put(tree, whole)

    def put(x: Any) -> Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, whole, lambda place: x[place])

    return jax.tree.map(put, tree)


def compiled(
    step: Callable[..., Any],
    spread: Spread,
    shared: tuple[bool, ...],
    static: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """The step for the devices; it takes over (donates) its first argument, the state.

    `shared` says of each argument whether it is cut among the devices (`placed`) or whole on each.
    What comes back is whole on each.
    """
    if spread.mesh is None:
        return jax.jit(step, donate_argnums=0, static_argnums=static)
    if spread.how == "jit":
        out = NamedSharding(spread.mesh, P())
        return jax.jit(step, donate_argnums=0, static_argnums=static, out_shardings=out)
    return jax.pmap(
        step,
        AXIS,
        in_axes=tuple(0 if cut else None for cut in shared),
        out_axes=None,  # pyright: ignore[reportArgumentType]
        devices=list(spread.mesh.devices.flat),
        # Of several processes JAX's pmap deletes arrays that it is yet to read (0.12).
        donate_argnums=() if jax.process_count() > 1 else 0,
        static_broadcasted_argnums=static,
    )


def compiled_ahead(lowered: Any, backend: str) -> Any:
    """The program of a lowered step. On a TPU alike operations share their code, which takes a
    quarter of it away; where a libtpu does not know this option, it is compiled without."""
    if backend != "tpu":
        return lowered.compile()
    try:
        return lowered.compile({"xla_tpu_enable_deduplicated_calls": "true"})
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()


def shared_out(function: Callable[..., Any], spread: Spread) -> Callable[..., Any]:
    """`function(whole, share)` on every device's share of its second argument, inside a step."""
    if spread.mesh is None or spread.how == "pmap":
        return function
    return jax.shard_map(
        function, mesh=spread.mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False
    )
