"""Both encoders as ONNX, for programs without JAX: text.onnx and molecule.onnx.

jax2onnx translates a program of JAX operation by operation. It knows no choice by platform, and not
in every version of JAX functions in functions, so `flattened` gives it operations of arrays alone.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from jax.extend.core import Literal

from tmr_jax.data.batching import encode_batches_mol, encode_batches_text
from tmr_jax.data.tables import text_table
from tmr_jax.models.checkpoint import variables
from tmr_jax.models.encode import CANDIDATES, Encoder
from tmr_jax.models.layers.gcn import l2_normalize
from tmr_jax.models.run import TrainedModel
from tmr_jax.types import UserError

TOLERANCE = 1e-4  # of a number of an embedding of length one
# Axes of the inputs: B texts, T tokens, N atoms, E bonds, G molecules and the graph of padding.
AXES = {"tokens": "BT", "mask": "BT", "nodes": "N", "motif": "N", "globals": "G"}
AXES |= {"edges": "E", "senders": "E", "receivers": "E", "n_node": "G", "n_edge": "G"}


def need_jax2onnx() -> None:
    """UserError where it is not installed."""
    if importlib.util.find_spec("jax2onnx") is None:
        raise UserError(
            "expected jax2onnx, which writes ONNX; got an environment without it; install "
            "'tmr-jax[onnx]' in an environment of its own, or leave --onnx out"
        )


def write_onnx(
    folder: Path, model: TrainedModel, params: Any, texts: Sequence[str], smiles: Sequence[str]
) -> None:
    """Writes text.onnx and molecule.onnx, whose output is `embedding`, rows of length one.

    Inputs have the names and types of the fields of `TextBatch` and `MolBatch`. Their sizes are
    free; those of a graph encoder without bond features are of a batch of `CANDIDATES`. A linear
    branch is not in the files. Raises UserError where ONNX Runtime does not give for `texts` and
    `smiles` what JAX gives.
    """
    config, tokenizer = model.config, model.tokenizer
    module: Any = model.model.clone(
        dtype=np.dtype("float32"), attention="plain", backward="autodiff", kernels=False
    )
    table = text_table(texts, tokenizer, config.features.max_tokens)
    buckets = config.train.text_buckets
    ((_, text),) = encode_batches_text(table, len(texts), buckets, tokenizer.pad_token)
    ((_, mol),) = encode_batches_mol(Encoder(model, params).molecule_table(smiles)[0], CANDIDATES)
    # The other graph encoders are traced for TPUs too, whose sums need to know how many atoms.
    dims = "NEG" if config.model.graph.kind == "residual" else ""
    for name, batch, free in (("text", text, "BT"), ("molecule", mol, dims)):
        leaves, tree = jax.tree_util.tree_flatten_with_path(batch)

        def embedding(*arrays: Any, method: str = f"encode_{name}", tree: Any = tree) -> Any:
            batch = jax.tree.unflatten(tree, arrays)
            return l2_normalize(module.apply(variables(params), batch, method=method).pooled)

        inputs = {place[-1].name: np.asarray(leaf) for place, leaf in leaves}
        _write(folder / f"{name}.onnx", embedding, inputs, free)


def _write(path: Path, function: Callable, inputs: dict[str, np.ndarray], free: str) -> None:
    import jax2onnx  # pyright: ignore[reportMissingImports]
    import onnxruntime  # pyright: ignore[reportMissingImports]

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of shapes it leaves out
    sizes = dict(zip(free, export.symbolic_shape(",".join(free)), strict=True)) if free else {}
    axes = {name: [sizes[axis] for axis in AXES[name] if free] for name in inputs}
    shapes = {name: (*axes[name], *x.shape[len(axes[name]) :]) for name, x in inputs.items()}
    specs = [jax.ShapeDtypeStruct(shapes[name], x.dtype) for name, x in inputs.items()]
    # Traced before jax2onnx puts functions of its own in the place of those of jax.numpy.
    program, names = jax.make_jaxpr(function)(*specs), {"input_names": [*inputs]}
    proto: Any = jax2onnx.to_onnx(
        lambda *x: flattened(program, *x)[0], specs, output_names=["embedding"], **names
    )
    path.write_bytes(proto.SerializeToString())
    (out,) = onnxruntime.InferenceSession(path).run(None, inputs)
    with jax.default_matmul_precision("highest"):
        error = np.abs(np.asarray(out) - jax.jit(function)(*inputs.values())).max()
    if not error <= TOLERANCE:
        raise UserError(
            f"expected {path.name} to give embeddings within {TOLERANCE:g} of JAX's; got a "
            f"difference of {error:g}; try another version of jax2onnx, or leave --onnx out"
        )


def flattened(program: Any, *args: Any) -> list[Any]:
    """What a jaxpr computes, without calls and loops of fixed length, by the default of platforms.

    ValueError where a scan has other outputs than its carry.
    """
    jaxpr, consts = getattr(program, "jaxpr", program), getattr(program, "consts", ())
    values = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    values |= dict(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs, kind, how = [read(a) for a in equation.invars], equation.primitive, equation.params
        inner = how.get("jaxpr") or how.get("call_jaxpr")
        if kind.name == "platform_index":
            out = [how["platforms"].index(None)]
        elif kind.name == "cond" and isinstance(inputs[0], int):
            out = flattened(how["branches"][inputs[0]], *inputs[1:])
        elif kind.name == "scan":
            out = _unrolled(inner, how, inputs, len(equation.outvars))
        elif inner is not None:
            out = flattened(inner, *inputs)
        else:
            out = kind.bind(*inputs, **how)
            out = out if kind.multiple_results else [out]
        values |= dict(zip(equation.outvars, out, strict=True))
    return [read(a) for a in jaxpr.outvars]


def _unrolled(body: Any, how: dict[str, Any], inputs: Sequence[Any], carried: int) -> list[Any]:
    """The carry after a scan: its inputs are constants, carry and rows in this order, and of rows
    alone the body sees one axis less."""
    seen = [v.aval.shape for v in getattr(body, "jaxpr", body).invars]
    whole = sum(shape == np.shape(x) for shape, x in zip(seen, inputs, strict=True))
    constants, carry = inputs[: whole - carried], list(inputs[whole - carried : whole])
    for i in range(how["length"])[:: -1 if how["reverse"] else 1]:
        rows = [jax.lax.index_in_dim(x, i, keepdims=False) for x in inputs[whole:]]
        carry = flattened(body, *constants, *carry, *rows)
    return carry
