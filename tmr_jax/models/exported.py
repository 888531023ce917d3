"""Exported weights: the parameters of a run in one safetensors file, 8 bits by output channel, or
all in float32.

A folder of them has the files of a run that `load_model` reads, model.safetensors in place of
checkpoints, and SHA256SUMS. `load_run` reads it like a run; tmr_jax/eval/export.py writes it.

A matrix W is stored as integers round(W / s), int8, under its name, and as scales s, float32, under
NAME.scale. s is max |W| / 127 of an output channel (the last axis), or of a row of an embedding, so
no number changes by more than s / 2. A matrix that changes by more than `MOST` of its norm is
divided first by scales of the other axis, NAME.across; one that still does is stored in bfloat16.
Vectors are small and stay float32. Names are those of checkpoints.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tmr_jax.data.files import sha256_of, write_text
from tmr_jax.models.checkpoint import layerwise, scanned
from tmr_jax.models.runtime import SUMS
from tmr_jax.types import UserError

MOST = 0.01  # of a matrix's norm; one of normally distributed numbers changes by 0.007
SHORTEST = 16  # numbers that share a scale, at least
SCALE, ACROSS = ".scale", ".across"
TYPES = {"I8": np.int8, "BF16": jnp.bfloat16, "F32": np.float32}  # by their name in safetensors


def quantised(name: str, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors that store a parameter. Raises UserError for NaN and infinity."""
    if not np.isfinite(weights).all():
        raise UserError(f"expected finite parameters; got NaN or infinity in {name}; train again")
    last = weights.ndim - 1
    axes = (last,) if name.endswith("embedding") else tuple(range(last))
    if last < 1 or np.prod([weights.shape[axis] for axis in axes]) < SHORTEST:
        return {name: weights}
    integers, scale = _integers(weights, axes)
    if _is_near(integers * scale, weights):
        return {name: integers, name + SCALE: scale}
    # An outlier takes precision from its channel: half of it, in logarithms, goes across.
    across = np.sqrt(_largest(weights, tuple({*range(weights.ndim)} - {*axes})))
    integers, scale = _integers(weights / across, axes)
    if _is_near(integers * scale * across, weights):
        return {name: integers, name + SCALE: scale, name + ACROSS: across}
    return {name: weights.astype(jnp.bfloat16)}


def _integers(weights: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    scale = _largest(weights, axes) / np.float32(127)
    return np.rint(weights / scale).astype(np.int8), scale


def _largest(weights: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The largest magnitude along the axes; 127 where all numbers are 0."""
    largest = np.abs(weights).max(axes, keepdims=True)
    return np.where(largest > 0, largest, np.float32(127))


def _is_near(rounded: np.ndarray, weights: np.ndarray) -> bool:
    return bool(np.linalg.norm(rounded - weights) <= MOST * np.linalg.norm(weights))


def dequantised(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters in float32. Raises ValueError where integers and scales do not match."""
    scales, across = (
        {n.removesuffix(end): x for n, x in tensors.items() if n.endswith(end)}
        for end in (SCALE, ACROSS)
    )
    weights = {n: x for n, x in tensors.items() if not n.endswith((SCALE, ACROSS))}
    if alone := scales.keys() ^ {n for n, x in weights.items() if x.dtype == np.int8}:
        raise ValueError(f"integers without scales, or scales without integers, of {min(alone)}")
    if alone := across.keys() - scales.keys():
        raise ValueError(f"scales of one axis only of {min(alone)}")
    one = np.float32(1)
    products = {n: np.multiply(x, scales.get(n, one), dtype=np.float32) for n, x in weights.items()}
    products |= {n: products[n] * x for n, x in across.items()}
    return {n: np.asarray(x) for n, x in products.items()}  # a product of scalars is no array


def write_weights(path: Path, params: Any, about: dict[str, str], exact: bool = False) -> None:
    """Writes model.safetensors, `about` and the number of parameters by type in its header.

    In 8 bits, or, if `exact`, in float32.
    """
    from safetensors.numpy import save

    tensors, counts = {}, Counter()
    for name, x in flatten_dict(layerwise(params), sep="/").items():
        array = np.asarray(x, np.float32)
        stored = {name: array} if exact else quantised(name, array)
        tensors |= {n: np.asarray(part, order="C") for n, part in stored.items()}
        counts[stored[name].dtype.name] += stored[name].size
    kinds = ", ".join(f"{n:,} in {kind}" for kind, n in counts.items())
    path.write_bytes(save(tensors, {**about, "parameters": kinds}))


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters as NumPy arrays of float32, and what the header says of them.

    Raises UserError where the file is cut off or has other tensors than `write_weights` writes.
    """
    from safetensors import SafetensorError, deserialize

    try:
        content = path.read_bytes()
        tensors = {}
        for name, entry in deserialize(content):  # after comparing the header with the size
            if entry["dtype"] not in TYPES:
                raise ValueError(f"{name} in {entry['dtype']}, not in one of {', '.join(TYPES)}")
            flat = np.frombuffer(entry["data"], TYPES[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"])
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = header.get("__metadata__", {})
        if not {"which", "step"} <= about.keys():
            raise ValueError("a file of another program, which names no checkpoint")
        params = scanned(unflatten_dict(dequantised(tensors), sep="/"))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"expected exported weights in {path}; got {error}; copy the folder again, or export "
            "the run again"
        ) from error
    return params, about


def write_sums(folder: Path) -> None:
    """SHA256SUMS of all other files of the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = (f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
    write_text(folder / SUMS, "".join(lines))


def verify(folder: Path, names: Iterable[str]) -> None:
    """UserError where one of the files does not have the content that SHA256SUMS says."""
    path = folder / SUMS
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in names:
        found = sha256_of(folder / name) if (folder / name).is_file() else "no file"
        if found != listed.get(name):
            raise UserError(
                f"expected {folder / name} with the SHA-256 in {SUMS}, "
                f"{listed.get(name, 'which lists none')}; got {found}; copy the folder again, or "
                "pass a run"
            )
