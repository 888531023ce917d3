"""What a traced function calculates: products and elementwise operations, loops by their trips.

XLA's own count has the body of a loop once, and nothing of what is in a Pallas kernel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tools.aot_hlo import RANDOM, Instruction, Kernels, Work, first, words

COSTLY = {  # as in aot_hlo, by jax's names
    **dict.fromkeys(("exp", "exp2", "log", "tanh", "rsqrt", "sqrt", "div", "logistic"), 4),
    **dict.fromkeys(("expm1", "log1p", "cbrt"), 8),
    **dict.fromkeys(("erf", "erfc", "erf_inv", "sin", "cos", "tan", "pow", "atan2", "rem"), 20),
}
PLAIN = words(
    "abs add add_any and ceil clamp convert_element_type eq floor ge gt integer_pow is_finite "
    "le lt max min mul ne neg not or round select_n shift_left shift_right_arithmetic "
    "shift_right_logical sign square sub xor iota"
)
SUMS = words("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax")


class Kernel(NamedTuple):
    name: str
    shapes: tuple[tuple[int, ...], ...]  # of its results
    work: Work  # of one call, the whole grid


def counted(jaxpr: Any) -> Work:
    """Of a closed or open jaxpr, loops as often as they run where that is known, all branches."""
    total = Work()
    for eqn in _open(jaxpr).eqns:
        total = total.plus(_calculated(eqn))
        for inner, times in _inner(eqn):
            total = total.plus(counted(inner).times(times))
    return total


def kernels_of(jaxpr: Any) -> list[Kernel]:
    """The Pallas kernels that are called anywhere within."""
    found = []
    for eqn in _open(jaxpr).eqns:
        if eqn.primitive.name == "pallas_call":
            shapes = tuple(tuple(v.aval.shape) for v in eqn.outvars)
            work = Work(bytes=moved(eqn.params["grid_mapping"]))
            for inner, grid in _inner(eqn):
                work = work.plus(counted(inner).times(grid))
            found.append(Kernel(_name(eqn), shapes, work))
            continue
        for inner, _ in _inner(eqn):
            found += kernels_of(inner)
    return found


def moved(grid_mapping: Any) -> float:
    """Bytes that a kernel's blocks bring in and take out: each as often as its place changes.

    A block stays while only those later axes of the grid advance that its index does not depend on.
    An array that the kernel does not touch costs nothing.
    """
    grid, total = grid_mapping.grid, 0.0
    for mapping in grid_mapping.block_mappings:
        aval = mapping.block_aval
        if "any" in str(getattr(aval, "memory_space", "")).lower():
            continue
        named = _named(mapping.index_map_jaxpr.jaxpr, len(grid))
        times = math.prod(grid[: max(named, default=-1) + 1])
        size = math.prod(getattr(aval, "inner_aval", aval).shape)
        total += times * size * aval.dtype.itemsize
    return total


def _named(jaxpr: Any, axes: int) -> set[int]:
    """The axes of the grid that the place of a block depends on."""
    from_axis = {v: {i} for i, v in enumerate(jaxpr.invars[:axes])}
    for eqn in jaxpr.eqns:
        read = set().union(*(from_axis.get(v, set()) for v in eqn.invars if _variable(v)))
        from_axis |= dict.fromkeys(eqn.outvars, read)
    return set().union(*(from_axis.get(v, set()) for v in jaxpr.outvars if _variable(v)))


def _variable(v: Any) -> bool:
    return not hasattr(v, "val")  # else a literal, which has no hash


def lookup(kernels: list[Kernel], unknown: set[str]) -> Kernels:
    """Instruction -> work of the kernel it calls, by name and shape; else the largest by name.

    Of those that are not found it is None, and their names go to `unknown`.
    """

    def work(one: Instruction) -> Work | None:
        named = first(r"([\w.\-]+)\)*/pallas_call", one.source)
        instruction = re.sub(r"\.\d+$", "", one.name)
        same = [k for k in kernels if k.name in (named, instruction)]
        if not same:
            unknown.add(named or instruction)
            return None
        shapes = {shape.dims for shape in one.shapes}
        exact = [k for k in same if set(k.shapes) <= shapes]
        return max((k.work for k in exact or same), key=lambda w: (w.matrix, w.elements))

    return work


def _open(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr


def _name(eqn: Any) -> str:
    name = eqn.params.get("name") or eqn.params.get("name_and_src_info")
    return str(getattr(name, "name", name))


def _inner(eqn: Any) -> Iterator[tuple[Any, float]]:
    """The jaxprs that an equation runs, and how often."""
    kind, params = eqn.primitive.name, eqn.params
    times = 1.0
    if kind.startswith(("reduce", "scatter", "sort")):  # their bodies are one operation
        return
    if kind == "scan":
        times = params["length"]
    elif kind == "pallas_call":
        times = math.prod(n for n in params["grid_mapping"].grid if isinstance(n, int))
    elif kind == "shard_map":
        times = params["mesh"].size
    for name, value in params.items():
        if name == "cond_jaxpr":
            continue
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(_open(one), "eqns"):
                yield one, times


def _calculated(eqn: Any) -> Work:
    kind = eqn.primitive.name
    out = _elements(eqn.outvars)
    if kind == "dot_general":
        (left, _), _ = eqn.params["dimension_numbers"]
        sums = math.prod(eqn.invars[0].aval.shape[n] for n in left)
        return Work(matrix=2.0 * out * sums)
    if kind in SUMS or kind.startswith("cum"):
        return Work(elements=_elements(eqn.invars))
    if kind in PLAIN or kind in COSTLY:
        return Work(elements=out * COSTLY.get(kind, 1))
    if kind in ("prng_random_bits", "random_bits", "rng_bit_generator"):
        return Work(elements=RANDOM * out)
    return Work()


def _elements(variables: Any) -> float:
    return float(sum(math.prod(getattr(v.aval, "shape", ())) for v in variables))
