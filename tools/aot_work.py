"""The programs that tools/aot.py compiles, built as the project builds them, and the targets.

Parameters, states and batches are shapes only; nothing runs. Texts, molecules and sizes are those
of tools/bench/gpu.py.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tmr_jax.config import Experiment
from tmr_jax.data.batching import declare_rows, declare_shapes, encode_batches_mol
from tmr_jax.eval import rank, rerank_steps
from tmr_jax.eval.rerank import _applied, settings_of
from tmr_jax.models.checkpoint import variables
from tmr_jax.models.encode import in_precision
from tmr_jax.models.layers.bert import text_operations
from tmr_jax.train.loader import device_tables, plan_steps, take_batch
from tmr_jax.train.step import AXIS, compile_ahead, make_sharding, make_train_call
from tmr_jax.types import TextBatch
from tools.aot_hlo import Speeds
from tools.bench import gpu as bench
from tools.bench.common import altered
from tools.bench.curves import MINILM

GIB = 2**30
LANES = 8 * 128 * 4  # elementwise operations of one core's vector unit in a cycle


# Targets


@dataclass(frozen=True)
class Target:
    """One device as its makers describe it; peaks are those of bfloat16."""

    platform: str
    topology: str
    peak: float = 0.0  # operations a second
    bandwidth: float = 0.0  # of HBM, bytes a second
    # Operations of its matrix units in a cycle, which with the peak gives the clock. For v6e and
    # tpu7x four units of 256 x 256 are taken: with fewer, the compiler's own cycles of one large
    # product would be above the peak.
    per_cycle: int = 1
    cores: int = 1
    options: tuple[tuple[str, str], ...] = ()

    @property
    def speeds(self) -> Speeds | None:
        """None where the compiler has no estimate."""
        if not self.peak:
            return None
        clock = self.peak / self.per_cycle
        return Speeds(clock, self.bandwidth, self.peak, self.cores * LANES * clock)


SMALL, LARGE = 2 * 128**2, 2 * 256**2  # operations of a matrix unit in a cycle
MEGACORE = (("chip_config_name", "megacore"),)
TARGETS = {
    "v5e": Target("tpu", "v5e:2x4", 197e12, 819e9, 4 * SMALL),
    "v6e": Target("tpu", "v6e:2x4", 918e12, 1640e9, 4 * LARGE),
    "v5p": Target("tpu", "v5p:2x2x2", 459e12, 2765e9, 8 * SMALL, 2),
    "v4": Target("tpu", "v4:2x2x2", 275e12, 1228e9, 8 * SMALL, 2, MEGACORE),
    # A device is one of the two cores of a chip.
    "tpu7x": Target("tpu", "tpu7x:2x2x1", 1153.5e12, 3690e9, 4 * LARGE),
    "h100": Target("cuda", "1x1x{}"),
}
# What XLA wants to know of an H100 SXM to compile for it.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
runtime_version { major: 12 minor: 8 patch: 0 }
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@functools.cache
def devices_of(name: str, count: int) -> tuple[Any, ...]:
    """The first `count` devices of a target that is not there; of "cpu" those of this process."""
    if name == "cpu":
        return tuple(jax.devices("cpu")[:count])
    target = TARGETS[name]
    if target.platform == "cuda":
        found = topologies.get_topology_desc(
            platform="cuda", target_config=H100, topology=target.topology.format(count)
        )
    else:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=target.topology, **dict(target.options)
        )
    return tuple(found.devices[:count])


def backend_of(target: str) -> str:
    if target == "cpu":
        return "cpu"
    return "gpu" if TARGETS[target].platform == "cuda" else "tpu"


# What is compiled


class Piece(NamedTuple):
    """One compiled function; `share` of one call of it belongs to what is reported."""

    name: str
    jitted: Any
    arguments: tuple[Any, ...]
    share: float = 1.0
    compiled: Callable[[Any, str], Any] = lambda lowered, backend: lowered.compile()


class Program(NamedTuple):
    pieces: tuple[Piece, ...]
    items: int  # pairs, texts, molecules or queries
    useful: float = 0.0  # operations of BERT on real tokens
    shape: str = ""


class Spec(NamedTuple):
    """A program by its name."""

    kind: str  # difftmr, difftmr_random, mbank, dual; encode_text, encode_mol, rerank_t2m ...
    size: str = "scibert"
    batch: int = 0
    chunk: int = 0
    layers: int = 0  # 0: all

    @property
    def name(self) -> str:
        parts = [self.kind, self.size, str(self.batch or ""), "chunked" if self.chunk else ""]
        parts.append(f"{self.layers}layers" if self.layers else "")
        return "-".join(part for part in parts if part)

    @property
    def trains(self) -> bool:
        return bool(self.batch)


SIZES = {"scibert": bench.SCIBERT, "minilm": MINILM}
CHUNK = 512
TRAINED = ("difftmr", "difftmr_random", "mbank", "dual")
OTHERS = ("encode_text", "encode_mol", "rank", "rerank_t2m", "rerank_m2t")


def product() -> list[Spec]:
    """Every program there is."""
    steps = [Spec(*x) for x in itertools.product(TRAINED, SIZES, (32, 512))]
    # BatchNorm needs the whole batch, so Memory Bank has no chunks.
    chunked = [Spec(k, s, 4096, CHUNK) for k in TRAINED if k != "mbank" for s in SIZES]
    encoders = [Spec("encode_text", s) for s in SIZES]
    return [*steps, *chunked, *encoders, *(Spec(kind) for kind in OTHERS[1:])]


def built(
    spec: Spec,
    target: str,
    devices: int = 1,
    change: Callable[[Experiment], Experiment] = lambda x: x,
    shrunk: bool = False,
) -> Program:
    """The program for a target; `change` is of the experiment, `shrunk` is a toy for tests."""
    if spec.trains:
        return _training(spec, target, devices, change, shrunk)
    work = _worked(spec._replace(kind="difftmr", batch=32), target, 1, change, shrunk)
    if spec.kind == "rank":
        return _ranking(work, devices_of(target, devices))
    one = _sharding(devices_of(target, 1))
    if spec.kind.startswith("rerank"):
        return _reranking(spec.kind.split("_")[1], work, one, shrunk)
    return {"encode_text": _texts, "encode_mol": _molecules}[spec.kind](work, one, shrunk)


def _sharding(devices: tuple[Any, ...], *axes: str | None) -> NamedSharding:
    """Of arrays that each device has whole, or that are cut along an axis."""
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(*axes))


def abstract(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


class Worked(NamedTuple):
    task: bench.Work
    size: bench.Sizes
    params: Any  # shapes


def _worked(
    spec: Spec, target: str, devices: int, change: Callable[..., Any], shrunk: bool
) -> Worked:
    base = bench.SHRUNK if shrunk else bench.FULL
    bert = base.bert if shrunk else SIZES[spec.size]
    if spec.layers:
        bert = dataclasses.replace(bert, layers=spec.layers)
    size = base._replace(bert=bert)
    config = bench.experiment("packed", spec.batch, size.width, spec.kind)
    config = change(altered(config, {"train.chunk": spec.chunk}))
    task = bench.work(size, "packed", spec.batch, config, backend_of(target))
    return Worked(task, size, bench.parameters(task, shapes=True))


# Training


def _training(
    spec: Spec, target: str, count: int, change: Callable[..., Any], shrunk: bool
) -> Program:
    """The call that takes one step of packed texts from tables on the devices."""
    task, size, params = _worked(spec, target, count, change, shrunk)
    config, model = task.config, task.model
    devices = devices_of(target, count)
    sharding = make_sharding(devices, "jit", config.train.batch_size, config.train.chunk)
    rows = np.asarray(task.data.composition.epoch(0, 0))[:1]
    data = _shared(task.data, config, size, rows, sharding.parts)
    pairs, padded = plan_steps(rows, data.text, data.mol, data.shapes, data.shards)
    step, state = bench.step_of(config, model, params, sharding)
    take = partial(take_batch, pad_token=0, chunks=sharding.chunks)
    call = make_train_call(step, take, 1, sharding)
    tables = device_tables(data.text, data.mol, data.text_group, data.mol_group)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, tables, key = abstract((state, tables, key), _sharding(devices))
    chosen = abstract(pairs, _sharding(devices, None, AXIS))
    arguments = state, tables, chosen, key, padded
    lengths = np.diff(data.text.offsets)[rows]
    shape = f"{padded.rows} x {padded.row} tokens, {padded.nodes} atoms"
    if sharding.parts > 1:
        shape += f" in each of {sharding.parts} parts"
    useful = text_operations(size.bert, lengths)
    step = Piece("step", call, arguments, compiled=compile_ahead)
    return Program((step,), rows.size, useful, shape)


def _shared(data: Any, config: Experiment, size: bench.Sizes, rows: np.ndarray, parts: int) -> Any:
    """The training set with the shapes of a part of a batch."""
    if parts == 1:
        return data
    cut = rows.reshape(-1, rows.shape[1] // parts)
    shapes = declare_shapes(data.mol, config.train.text_buckets, cut.shape[1], cut)
    tall = declare_rows(np.diff(data.text.offsets), cut, size.width)
    return data._replace(shapes=shapes._replace(text=(size.width,), rows=tall), shards=parts)


# Encoders


def _texts(work: Worked, one: NamedSharding, shrunk: bool) -> Program:
    count, width = (4 if shrunk else 64), work.size.width
    rows = jnp.zeros((count, width), jnp.int32)
    batch = abstract(TextBatch(rows, rows.astype(bool)), one)
    useful = text_operations(work.size.bert, np.full(count, width)) / 3  # forward alone
    return _encoder("encode_text", work, one, batch, count, f"{count} x {width} tokens", useful)


def _molecules(work: Worked, one: NamedSharding, shrunk: bool) -> Program:
    count = 8 if shrunk else 2_048
    _, batch = next(iter(encode_batches_mol(bench.molecules(2 * count, 4), count)))
    return _encoder("encode_molecule", work, one, abstract(batch, one), count, f"{count} molecules")


def _encoder(
    method: str,
    work: Worked,
    one: NamedSharding,
    batch: Any,
    count: int,
    shape: str,
    useful: float = 0.0,
) -> Program:
    model = work.task.model
    params = jax.eval_shape(partial(in_precision, dtype=model.dtype), work.params)
    encode = jax.jit(lambda p, x: model.apply(variables(p), x, method=method))
    return Program((Piece(method, encode, (abstract(params, one), batch)),), count, useful, shape)


# Ranks


def _ranking(work: Worked, devices: tuple[Any, ...]) -> Program:
    """One block of queries, each with one right candidate, among a pool shared by the devices."""
    count, split = rank.counter(devices)
    whole, each = NamedSharding(split.mesh, PartitionSpec()), rank.COLUMNS * len(devices)
    pool, dim = -(-work.size.pool // each) * each, work.task.config.model.dim
    queries = rank.QUERIES
    arguments = (
        jax.ShapeDtypeStruct((queries, dim), jnp.float32, sharding=whole),
        jax.ShapeDtypeStruct((pool, dim), jnp.float32, sharding=split),
        jax.ShapeDtypeStruct((pool,), jnp.int32, sharding=split),
        jax.ShapeDtypeStruct((queries, 1), jnp.int32, sharding=whole),
    )
    said = f"{queries} queries among {work.size.pool:,}"
    return Program((Piece("rank", count, arguments),), queries, 0.0, said)


# The second stage, from what it really asks for


REPORTED = 16  # queries
FEWER = {"t2m": 6, "m2t": 20}  # times fewer candidates than are reported: only sizes are of use
ASKING = 512  # queries that are recorded


def _shape(x: Any) -> Any:
    """A static argument stays as it is; 64 bits become 32, as in a call."""
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        return x
    key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.ShapeDtypeStruct(x.shape, x.dtype if key else jax.dtypes.canonicalize_dtype(x.dtype))


def _reranking(direction: Any, work: Worked, one: NamedSharding, shrunk: bool) -> Program:
    """The compiled pieces, with the shapes that a pool of ChEBI-20's size gives them.

    The stage is run over a pool that is smaller by `FEWER`, with every compiled function in it
    replaced by a recorder; what is as long as the parts of that pool is then made as long as those
    of the whole one. Each shape of a piece counts as often as the queries need it.
    """
    task, dim = work.task, work.task.config.model.dim
    fewer = 1 if shrunk else FEWER[direction]
    asking = 4 if shrunk else ASKING
    counts = (asking, work.size.pool // fewer)
    texts, mols = counts if direction == "t2m" else counts[::-1]
    lengths = np.diff(bench.texts(texts, work.size, 2).offsets)
    atoms = np.diff(bench.molecules(mols, 3).node_offsets)
    text, mol = (bench.side(len(n), n, dim, i) for i, n in enumerate((lengths, atoms)))
    long = len((mol if direction == "t2m" else text).token_embeddings)
    settings, apply = settings_of(task.config), _applied(task.model)
    stage = (apply, work.params, text, mol, direction, np.arange(asking), settings)

    def grown(x: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        shape = tuple(n * fewer if n >= long else n for n in x.shape)
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=one)

    pieces = []
    for jitted, shapes, count in _recorded(lambda: rerank_steps.rerank(*stage)):
        name, share = _name(jitted), count * REPORTED / asking
        if "weigh" not in name:  # the weights of the words are of a pool, not of a query
            pieces.append(Piece(name, jitted, jax.tree.map(grown, shapes), share))
    return Program(tuple(pieces), REPORTED, 0.0, f"{REPORTED} queries among {work.size.pool:,}")


def _recorded(stage: Callable[[], Any]) -> list[tuple[Any, Any, int]]:
    """The compiled functions that `stage` calls, for each of their shapes, and how often."""
    calls: dict[tuple[int, str], tuple[Any, Any, int]] = {}

    def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        jitted = jax.jit(function, **options)

        def record(*arguments: Any) -> Any:
            """Answers with zeros."""
            shapes = jax.tree.map(_shape, arguments)
            key = id(jitted), str(shapes)
            calls[key] = jitted, shapes, calls.get(key, (0,))[-1] + 1
            answer = jitted.eval_shape(*shapes)
            return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), answer)

        return record

    # What a backend decides, it decides for an accelerator.
    instead = SimpleNamespace(**vars(jax) | {"jit": jit, "default_backend": lambda: "tpu"})
    with mock.patch.object(rerank_steps, "jax", instead):
        _clear_caches()
        stage()
    _clear_caches()
    if not calls:
        raise RuntimeError("expected the second stage to compile functions with jax.jit; got none")
    return list(calls.values())


def _clear_caches() -> None:
    """Of compiled functions."""
    for function in vars(rerank_steps).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def _name(jitted: Any) -> str:
    function = jitted.__wrapped__
    while isinstance(function, functools.partial):
        if "method" in function.keywords:
            return function.keywords["method"]
        function = function.func
    return getattr(function, "__name__", "piece").strip("_")
