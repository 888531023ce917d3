"""Checkpoints of a run: saved while training continues, atomic, and verified when they are read.

orbax writes checkpoints/STEP/, under a temporary name until it is complete. Then
checkpoints/STEP.manifest.json lists the SHA-256 of each of its files, because orbax notices a
missing file but not a flipped bit. A checkpoint without a valid manifest does not count. The two
newest and the one with the best validation score are kept; an older one is deleted when a newer one
is verified. orbax's own `max_to_keep` and `best_fn` delete when a newer one is written, before its
hashes are, count damaged ones, and take no score after the save.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Int

from tmr_jax.data.files import replaced, sha256_of, to_disk
from tmr_jax.models.layers.bert import by_layer, stacked
from tmr_jax.models.runtime import local
from tmr_jax.types import UserError

# orbax is imported where it is used: exported weights are read without it, a third of a second
# sooner.
if TYPE_CHECKING:
    import orbax.checkpoint as ocp

STATISTICS = "batch_stats"  # Linen's name for the running statistics of BatchNorm
TEXT_ENCODER = "text_encoder"


class TrainState(NamedTuple):
    """Batches and random keys follow from (seed, step), so they are not in it."""

    step: Int[Array, ""]  # steps done
    # Nested dict of float32 arrays. Running statistics are kept with the parameters, below
    # STATISTICS, so that they are never separated.
    params: Any
    optimizer: optax.OptState
    adversary: optax.OptState = ()  # of the parameters with their own loss
    average: Any = ()  # of `params` over the steps (`--optim.ema`); (): none is kept


def new_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    frozen: frozenset[str] = frozenset(),
    adversary: optax.GradientTransformation | None = None,
    critic: frozenset[str] = frozenset(),
    averaged: bool = False,
) -> TrainState:
    """The state before the first step. The optimizer has no state for the parameters `frozen`, nor
    for those of the `critic`, which belong to the optimizer `adversary`."""
    first = optimizer.init(without(params, frozen | critic | {STATISTICS}))
    second = () if adversary is None else adversary.init(only(params, critic))
    # Separate arrays: a step donates the state, and no array can be donated twice.
    average = jax.tree.map(jnp.array, params) if averaged else ()
    return TrainState(jnp.zeros((), jnp.int32), params, first, second, average)


def evaluated(state: TrainState) -> Any:
    """The parameters that validation, evaluation and export read: the average where one is kept."""
    return state.average or state.params


def variables(params: Any) -> dict[str, Any]:
    """The collections of `TrainState.params`, as a Linen module is applied to them."""
    collections = {"params": without(params, frozenset({STATISTICS}))}
    return collections | only(params, frozenset({STATISTICS}))


def joined(variables: Any) -> Any:
    """The inverse: parameters together with the statistics, if there are any."""
    return {**variables["params"], **only(variables, frozenset({STATISTICS}))}


def without(params: Any, names: frozenset[str]) -> dict[str, Any]:
    return {name: p for name, p in params.items() if name not in names}


def only(params: Any, names: frozenset[str]) -> dict[str, Any]:
    return {name: p for name, p in params.items() if name in names}


def layerwise(params: Any) -> dict[str, Any]:
    """Parameters with BERT's layers separate, as in checkpoints and hashes."""
    return {n: by_layer(p) if n == TEXT_ENCODER else p for n, p in by_layer(params).items()}


def scanned(params: Any) -> dict[str, Any]:
    """The inverse: BERT's layers stacked, as in the model."""
    return {n: stacked(p) if n == TEXT_ENCODER else p for n, p in stacked(params).items()}


def parameters_sha256(params: Any) -> str:
    """SHA-256 of all parameters by name: it does not depend on how files pack them."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(layerwise(params)):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


KEPT = 2  # newest ones: the second is there in case the first turns out damaged
FOLDER = "checkpoints"
# Goes up when a step draws other random numbers or rounds differently, or the optimizer keeps other
# arrays: a run resumed across such a change would end with numbers that no version gives.
# 2: dropout masks are a function of their place, BERT's layers are one array each. 3: Memory Bank
# folds key and bank together.
DRAWS = 3


class Manifest(NamedTuple):
    """The content of checkpoints/STEP.manifest.json."""

    step: int
    score: float | None  # on the validation pool, higher is better; None: not validated
    files: dict[str, str]  # path inside the step's folder -> SHA-256
    params: dict[str, list]  # "a/b/c" -> [shape, dtype]: enough to read them without a model
    draws: int = 1  # DRAWS of the program that wrote it


Which = Literal["best", "newest"]
ORDERS: dict[Which, Callable[[Manifest], tuple[float, int]]] = {
    "best": lambda m: (-np.inf if m.score is None else m.score, m.step),
    "newest": lambda m: (m.step, m.step),
}


class Restored(NamedTuple):
    state: TrainState
    step: int
    score: float | None


class Checkpoints:
    """The checkpoints of one run for the trainer; `report` prints a line for the user."""

    def __init__(self, run: Path, report: Callable[[str], None] = print) -> None:
        import orbax.checkpoint as ocp

        self._folder, self._report = run.absolute() / FOLDER, report
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,  # see the top of this file
            enable_async_checkpointing=True,
            multiprocessing_options=_alone(),
            create=False,  # the folder exists
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._pending: Manifest | None = None  # saved, its files not hashed yet
        self._thread = ThreadPoolExecutor(1)
        self._hashing: Future[None] | None = None
        self._bad: set[int] = set()

    def save(self, state: TrainState, step: int, score: float | None = None) -> None:
        """Starts a save, after the one before it; returns when the state may change.

        A step that is already saved only gets its score.
        """
        import orbax.checkpoint as ocp

        self.wait()
        known = _manifest(self._folder, step)
        if known is not None and step not in self._bad:
            _write_manifest(self._folder, known._replace(score=score))
            return
        self._remove(step)
        # The next step reuses the memory of the state, and on CPU orbax would read from it. With
        # several processes one saves, and orbax refuses arrays of one process's devices.
        copy = jnp.copy if jax.process_count() == 1 else np.array
        arrays = local((layerwise(evaluated(state)), _leaves(_resumed(state))))
        params, leaves = jax.tree.map(copy, arrays)
        self._pending = Manifest(step, score, {}, describe(params), DRAWS)
        items = {"params": params, "optimizer": leaves}
        saves = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._manager.save(step, args=ocp.args.Composite(**saves), force=True)

    def poll(self) -> None:
        """Advances a save to its hashes, and then finishes it, without waiting."""
        if self._pending is None or self._manager.is_saving_in_progress():
            return
        if self._hashing is None:
            self._manager.check_for_errors()
            self._hashing = self._thread.submit(self._hash, self._pending)
        elif self._hashing.done():
            self._finish(self._hashing)

    def wait(self) -> None:
        """Returns when the last save is on disk and listed in its manifest."""
        if self._pending is None:
            return
        self._manager.wait_until_finished()
        self.poll()
        if self._hashing is not None:
            self._finish(self._hashing)

    def restore(self, like: TrainState) -> Restored | None:
        """The newest intact state, with the structure of `like`; None where there is no checkpoint.

        Damaged newer ones are reported. Raises UserError, and deletes nothing, where all are
        damaged, where they are of another version, or of another model.
        """
        choice = _first_intact(self._folder, "newest", self._report)
        if choice is None:
            return None
        manifest, self._bad = choice
        if manifest.draws != DRAWS:
            raise UserError(
                f"expected a checkpoint of this tmr_jax in {self._folder / str(manifest.step)}; "
                "got one of another version, whose steps draw other random numbers or round "
                "differently, so this run cannot be resumed bit by bit; evaluate or search it, "
                "resume it with the commit in git.txt, or start again with --fresh"
            )
        params = jax.eval_shape(layerwise, like.params)
        if manifest.params != describe(params):
            change = difference(manifest.params, describe(params))
            raise UserError(
                f"expected this model's parameters in {self._folder / str(manifest.step)}; got "
                f"{change}; the code has changed since: go back to the commit in git.txt, or "
                "start again with --fresh"
            )
        items = {"params": params, "optimizer": _leaves(_resumed(like))}
        read = _read(self._folder / str(manifest.step), jax.tree.map(_abstract, items))
        flat = [read["optimizer"][name] for name in sorted(read["optimizer"])]
        first, second, raw = jax.tree.unflatten(jax.tree.structure(_resumed(like)), flat)
        params = scanned(read["params"])
        step, average = jnp.asarray(manifest.step, jnp.int32), params if raw else ()
        state = TrainState(step, raw or params, first, second, average)
        return Restored(state, manifest.step, manifest.score)

    def close(self) -> None:
        self.wait()
        self._thread.shutdown()
        self._manager.close()

    def _hash(self, manifest: Manifest) -> None:
        place = self._folder / str(manifest.step)
        paths = sorted(path for path in place.rglob("*") if path.is_file())
        files = {str(path.relative_to(place)): sha256_of(path) for path in paths}
        _write_manifest(self._folder, manifest._replace(files=files))

    def _finish(self, hashing: Future[None]) -> None:
        assert self._pending is not None
        step, self._pending, self._hashing = self._pending.step, None, None
        hashing.result()  # raises what went wrong there
        self._bad.discard(step)
        self._prune()

    def _prune(self) -> None:
        intact = [m for m in _manifests(self._folder) if m.step not in self._bad]
        newest = sorted(m.step for m in intact)[-KEPT:]
        kept = {*newest, max(intact, key=ORDERS["best"]).step}
        for step in {*self._manager.all_steps(), *(m.step for m in intact), *self._bad} - kept:
            self._remove(step)

    def _remove(self, step: int) -> None:
        """The manifest first: a half-deleted checkpoint must not look intact."""
        _manifest_path(self._folder, step).unlink(missing_ok=True)
        if step in self._manager.all_steps():
            self._manager.delete(step)
        self._bad.discard(step)


class NoCheckpoints:
    """For a process that does not lead: the leading one saves for all."""

    def save(self, *args: object) -> None:
        """As `Checkpoints` has it, and so are the others."""

    poll = restore = close = save


def note(text: str) -> None:
    """Prints a line on standard error: standard output may be JSON."""
    print(text, file=sys.stderr)


def restore_params(
    run: str | Path, which: Which = "best", report: Callable[[str], None] = note
) -> tuple[dict[str, Any], int]:
    """The parameters of a run and their step; needs neither model nor optimizer.

    `best` is the one with the best validation score, or the newest where none has a score; damaged
    ones are reported and skipped. Raises UserError where there is no intact checkpoint.
    """
    folder = Path(run).absolute() / FOLDER
    choice = _first_intact(folder, which, report)
    if choice is None:
        raise UserError(
            f"expected a checkpoint in {folder}; got none; train the run: "
            f"tmr train --run {run} --exp NAME"
        )
    manifest = choice[0]
    leaves = {
        path: _abstract(jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype)))
        for path, (shape, dtype) in manifest.params.items()
    }
    tree = unflatten_dict(leaves, sep="/")
    return scanned(_read(folder / str(manifest.step), {"params": tree})["params"]), manifest.step


# Choosing


def _first_intact(
    folder: Path, which: Which, report: Callable[[str], None]
) -> tuple[Manifest, set[int]] | None:
    """The first intact checkpoint, and the steps of the damaged ones.

    None where there is no checkpoint at all; UserError where all are damaged.
    """
    listed = _manifests(folder)
    steps = {int(p.name) for p in folder.glob("*") if p.is_dir() and p.name.isdecimal()}
    unlisted = sorted(steps - {m.step for m in listed}, reverse=True)
    faults = dict.fromkeys(unlisted, "its manifest is missing or unreadable")
    sound = None
    for manifest in sorted(listed, key=ORDERS[which], reverse=True):
        fault = _fault(folder / str(manifest.step), manifest)
        if not fault:
            sound = manifest
            break
        faults[manifest.step] = fault
    if sound is None and not faults:
        return None
    for step in sorted(faults, reverse=True):
        if sound is None or step > sound.step or step in {m.step for m in listed}:
            report(f"checkpoint {folder / str(step)} is damaged: {faults[step]}")
    if sound is None:
        raise UserError(
            f"expected an intact checkpoint in {folder}; got {len(faults)}, all damaged (steps "
            f"{', '.join(map(str, sorted(faults)))}); nothing was deleted: restore a copy of one, "
            "or start again with --fresh, which moves this run aside"
        )
    if faults:
        report(f"using checkpoint {folder / str(sound.step)}")
    return sound, set(faults)


# Manifests


def _manifest_path(folder: Path, step: int) -> Path:
    return folder / f"{step}.manifest.json"


def _manifests(folder: Path) -> list[Manifest]:
    names = [p.name.removesuffix(".manifest.json") for p in folder.glob("*.manifest.json")]
    manifests = [_manifest(folder, int(name)) for name in names if name.isdecimal()]
    return [m for m in manifests if m is not None]


def _manifest(folder: Path, step: int) -> Manifest | None:
    """None where it is missing or unreadable."""
    try:
        content = json.loads(_manifest_path(folder, step).read_text(encoding="utf-8"))
        manifest = Manifest(**content)
        return manifest if manifest.step == step and manifest.files and manifest.params else None
    except (OSError, ValueError, TypeError):
        return None


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    with replaced(_manifest_path(folder, manifest.step)) as partial:
        partial.write_text(json.dumps(manifest._asdict(), indent=1), encoding="utf-8")
        to_disk(partial)


def _fault(place: Path, manifest: Manifest) -> str:
    """How the files of a checkpoint are damaged; "" where they are intact."""
    for name, expected in manifest.files.items():
        path = place / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256_of(path) != expected:
            return f"{name} has another SHA-256 than in its manifest"
    return ""


# Trees


def _leaves(tree: Any) -> dict[str, Any]:
    """Leaves by number: the optimizer's types stay out of the file."""
    return {f"{i:05d}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def _resumed(state: TrainState) -> tuple[Any, Any, Any]:
    """What only a resumed training reads: the parameters, too, where it is their average that the
    others read."""
    return state.optimizer, state.adversary, state.params if state.average else ()


def describe(params: Any) -> dict[str, list]:
    """Shape and type of each parameter by its name."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        "/".join(str(key.key) for key in path): [list(leaf.shape), str(leaf.dtype)]
        for path, leaf in flat
    }


def difference(saved: dict[str, list], expected: dict[str, list]) -> str:
    """The first one in which two such descriptions differ."""
    for name in sorted(saved.keys() | expected.keys()):
        if saved.get(name) != expected.get(name):
            return f"{name} {saved.get(name, 'absent')} instead of {expected.get(name, 'absent')}"
    return "the same ones in another order"


def _abstract(leaf: Any) -> Any:
    """How to read an array: to where it is now, else to the first device; with several processes
    as a NumPy array."""
    if jax.process_count() > 1:
        return np.empty(leaf.shape, leaf.dtype)
    sharding = getattr(leaf, "sharding", None)
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


# orbax


def _alone() -> ocp.options.MultiprocessingOptions:
    """Of several processes one saves or reads, without the others."""
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process-{process}",
    )


def _read(place: Path, items: dict[str, Any]) -> dict[str, Any]:
    """The items of a checkpoint, each with the structure given."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
        return {name: reader.restore(place / name, tree) for name, tree in items.items()}
