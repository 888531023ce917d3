"""Both encoders as ONNX, for programs without JAX: text.onnx and molecule.onnx.

jax2onnx translates one operation of JAX after another, and knows neither what depends on the
platform nor, in every version of JAX, functions in functions. `flattened` therefore gives it the
operations of plain arrays alone; a layer that runs in a loop becomes as many layers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from tmr_jax.data.batching import encode_batches_mol, encode_batches_text
from tmr_jax.data.tables import text_table
from tmr_jax.models.checkpoint import variables
from tmr_jax.models.encode import CANDIDATES, Encoder
from tmr_jax.models.layers.gcn import l2_normalize
from tmr_jax.models.run import TrainedModel
from tmr_jax.types import UserError

AXES = {"tokens": "BT", "mask": "BT", "nodes": "N", "motif": "N"}  # the first of each input
AXES |= dict.fromkeys(("edges", "senders", "receivers"), "E")
AXES |= dict.fromkeys(("globals", "n_node", "n_edge"), "G")  # G: the molecules, and the padding
TOLERANCE = 1e-4  # of a number of an embedding of length one


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

    Inputs have the names and types of the fields of `TextBatch` and `MolBatch`. Numbers of texts
    and tokens are free, and so are those of molecules, atoms and bonds of a residual graph encoder.
    ONNX Runtime must give for `texts` and `smiles` what JAX gives. Raises UserError where jax2onnx
    is missing or the numbers differ. A linear branch is not in it.
    """
    need_jax2onnx()
    config = model.config
    module: Any = model.model.clone(
        dtype=np.dtype("float32"), attention="plain", backward="autodiff", kernels=False
    )
    words = text_table(texts, model.tokenizer, config.features.max_tokens)
    buckets, pad = config.train.text_buckets, model.tokenizer.pad_token
    ((_, text),) = encode_batches_text(words, len(texts), buckets, pad)
    ((_, mol),) = encode_batches_mol(Encoder(model, params).molecule_table(smiles)[0], CANDIDATES)

    def encoder(method: str, example: Any) -> Callable[..., Any]:
        tree = jax.tree.structure(example)

        def embedding(*leaves: Any) -> Any:
            batch = jax.tree.unflatten(tree, leaves)
            return l2_normalize(module.apply(variables(params), batch, method=method).pooled)

        return embedding

    _write(folder / "text.onnx", encoder("encode_text", text), text, "BT")
    # The other graph encoders are traced for TPUs too, whose sums need a number of atoms.
    dims = "NEG" if config.model.graph.kind == "residual" else ""
    _write(folder / "molecule.onnx", encoder("encode_molecule", mol), mol, dims)


def _write(path: Path, function: Callable[..., Any], example: Any, dims: str) -> None:
    import jax2onnx
    import onnxruntime

    found = jax.tree_util.tree_leaves_with_path(example)
    inputs = {path[-1].name: np.asarray(leaf) for path, leaf in found}
    shapes = _shapes(inputs, dims)
    specs = [jax.ShapeDtypeStruct(shapes[name], x.dtype) for name, x in inputs.items()]
    # Traced before jax2onnx puts functions of its own in the place of those of jax.numpy.
    program = jax.make_jaxpr(function)(*specs)
    proto: Any = jax2onnx.to_onnx(
        lambda *leaves: flattened(program, *leaves)[0],
        specs,
        input_names=[*inputs],
        output_names=["embedding"],
    )
    path.write_bytes(proto.SerializeToString())
    (out,) = onnxruntime.InferenceSession(path).run(None, inputs)
    error = np.abs(np.asarray(out) - jax.jit(function)(*inputs.values())).max()
    if not error <= TOLERANCE:
        raise UserError(
            f"expected {path.name} to give embeddings within {TOLERANCE:g} of JAX's; got a "
            f"difference of {error:g}; try another version of jax2onnx, or leave --onnx out"
        )


def _shapes(inputs: dict[str, np.ndarray], dims: str) -> dict[str, tuple]:
    """The shapes, the numbers in `dims` free: B texts, T tokens, N atoms, E bonds, G graphs."""
    if not dims:
        return {name: x.shape for name, x in inputs.items()}
    free = dict(zip(dims, jax.export.symbolic_shape(",".join(dims)), strict=True))
    axes = {name: tuple(free[dim] for dim in AXES[name]) for name in inputs}
    return {name: (*axes[name], *x.shape[len(axes[name]) :]) for name, x in inputs.items()}


def flattened(program: Any, *args: Any) -> list[Any]:
    """What a jaxpr computes, operation by operation: no calls, no scan, one platform, the default.

    Of a scan only the carry comes out; KeyError where its other outputs are used.
    """
    jaxpr = getattr(program, "jaxpr", program)
    consts = map(np.asarray, getattr(program, "consts", ()))
    values = dict(zip(jaxpr.constvars, consts, strict=True))
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
            out = _unrolled(inner, how["length"], inputs, len(equation.outvars))
        elif inner is not None:
            out = flattened(inner, *inputs)
        else:
            out = kind.bind(*inputs, **how)
            out = out if kind.multiple_results else [out]
        values |= dict(zip(equation.outvars, out, strict=True))
    return [read(a) for a in jaxpr.outvars]


def _unrolled(body: Any, length: int, inputs: Sequence[Any], carried: int) -> list[Any]:
    """The carry after a scan without other outputs: constants, carry and rows come in this order,
    and of rows alone the body sees one less axis."""
    seen = [v.aval.shape for v in getattr(body, "jaxpr", body).invars]
    whole = sum(shape == x.shape for shape, x in zip(seen, inputs, strict=True))
    constants, carry = inputs[: whole - carried], list(inputs[whole - carried : whole])
    for i in range(length):
        rows = [jax.lax.index_in_dim(x, i, keepdims=False) for x in inputs[whole:]]
        carry = flattened(body, *constants, *carry, *rows)
    return carry
