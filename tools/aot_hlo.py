"""Read XLA's text of a compiled program: operations, loops, copies, cost.

The text of a TPU program carries the compiler's estimate, in cycles, of most operations. The rest
get a surcharge, the largest of three least times:

- bytes: operands and result, wherever they lie, at the full speed of HBM. Of a gather the rows
  that are read (as many bytes as the result), the result and the indices, not the table; of a
  scatter the updates, the rows they change, read and written, and the indices. A copy that
  overlaps other work (`copy-start` to `copy-done`) counts once, with the part that lies in HBM.
- products: 2 operations for each multiplication and addition, at half of the matrix units' peak.
- elementwise operations at half of the vector unit's peak, which is 8 x 128 lanes x 4 units x the
  clock for each core. One that has a unit of its own or takes several steps counts as `COSTLY`
  says. Random bits count 20 operations for each 32-bit word. A sort counts as a bitonic network:
  n / 4 x log2 n x (log2 n + 1) comparisons, of one operation and two more for each of its arrays.
  Kernels (Pallas) count what `tools/aot_jaxpr.py` finds in their text.

Bodies of loops count as often as they run, both sides of a branch count, and shapes count without
the padding of their tiles. The sum says which of two forms of a program is better, and what should
not be there; it is no time.
"""

from __future__ import annotations

import collections
import itertools
import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

MB = 10**6


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def first(pattern: str, text: str) -> str:
    """The group of the pattern's first match; empty: nothing matches."""
    match = re.search(pattern, text)
    return match[1] if match else ""


FREE = words(
    "parameter constant get-tuple-element tuple bitcast after-all add-dependency domain "
    "opt-barrier partition-id replica-id while conditional call"
)
# Custom calls that put names on memory or on facts, and do nothing.
NOTHING = words(
    "AllocateBuffer ConcatBitcast SliceBitcast X64Combine X64SplitLow X64SplitHigh Sharding "
    "AssumeGatherIndicesInBound GatherScatterIndicesBitpacked"
)
ENDS = re.compile(r"-(done|update)$")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective")
MOVES = words(
    "copy transpose reshape broadcast slice concatenate pad convert bitcast-convert reverse "
    "bitcast parameter constant tuple get-tuple-element"
)
COSTLY = {
    **dict.fromkeys(("exponential", "log", "tanh", "rsqrt", "sqrt", "divide", "logistic"), 4),
    **dict.fromkeys(("exponential-minus-one", "log-plus-one", "cbrt"), 8),
    **dict.fromkeys(("erf", "sine", "cosine", "tan", "power", "atan2", "remainder"), 20),
}
ELEMENTWISE = frozenset(COSTLY) | words(
    "abs add and ceil clamp compare convert floor is-finite maximum minimum multiply negate "
    "not or round-nearest-even round-nearest-afz select shift-left shift-right-arithmetic "
    "shift-right-logical sign subtract xor popcnt count-leading-zeros reduce"
)
RANDOM = 20  # elementwise operations for each 32-bit word
NONE = 2**62  # cycles that are no estimate: the compiler writes its largest number


# Shapes


class Shape(NamedTuple):
    dtype: str
    dims: tuple[int, ...]
    space: int  # where it lies: 0 is HBM

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        bits = int(first(r"(\d+)", self.dtype) or 8)
        return -(-self.elements * bits // 8)


_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](\{[^{}]*\})?")


def shapes_of(text: str) -> list[Shape]:
    """The arrays of a type, one or a tuple."""
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        sizes = tuple(int(n) for n in dims.split(",") if n)
        found.append(Shape(dtype, sizes, int(first(r"S\((\d+)\)", layout) or 0)))
    return found


def _bytes(shapes: list[Shape]) -> int:
    return sum(shape.bytes for shape in shapes)


# The text


@dataclass
class Instruction:
    name: str
    opcode: str
    type: str
    operands: list[str]
    attributes: str

    @cached_property
    def shapes(self) -> list[Shape]:
        return shapes_of(self.type)

    @property
    def bytes(self) -> int:
        return _bytes(self.shapes)

    @property
    def cycles(self) -> float:
        """The compiler's estimate; 0: there is none."""
        cycles = float(first(r'"estimated_cycles":"(\d+)"', self.attributes) or 0)
        return 0.0 if cycles >= NONE else cycles

    @property
    def source(self) -> str:
        return first(r'op_name="([^"]*)"', self.attributes)

    @property
    def target(self) -> str:
        return first(r'custom_call_target="([^"]*)"', self.attributes)

    def called(self, how: str) -> str:
        return first(rf"\b{how}=%?([\w.\-<>~]+)", self.attributes)


Computation = dict[str, Instruction]


class Module(NamedTuple):
    entry: str
    computations: dict[str, Computation]

    def inside(self, one: Instruction) -> Computation:
        """What a fusion holds."""
        return self.computations.get(one.called("calls"), {})


def parse(text: str) -> Module:
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-<>~]+) \(", line)):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif current is not None and (one := _instruction(line)):
            current[one.name] = one
    return Module(entry, computations)


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(?:ROOT )?%?([\w.\-<>~]+) = ", line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.find(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.find("(")
    opcode, rest = rest[:opening], rest[opening:]
    end = _closing(rest)
    operands, attributes = rest[1:end], rest[end + 1 :]
    names = re.findall(r"%([\w.\-<>~]+)", operands) or [operands]
    return Instruction(head[1], opcode, kind, names, attributes)


def _closing(text: str) -> int:
    """Where the parenthesis that `text` starts with is closed."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)


# What runs, and how often


class Run(NamedTuple):
    one: Instruction
    within: Computation
    times: int


def executed(module: Module) -> tuple[list[Run], list[int]]:
    """All operations that are run, in loops, calls and branches too; and the number of trips of
    each loop, 0 where it is unknown."""
    loops: list[int] = []
    return list(_walk(module, module.entry, 1, loops)), loops


def _walk(module: Module, name: str, times: int, loops: list[int]) -> Iterator[Run]:
    within = module.computations.get(name, {})
    for one in within.values():
        if one.opcode == "while":
            trips = trip_count(module, one, within)
            loops.append(trips)
            yield from _walk(module, one.called("body"), times * max(trips, 1), loops)
        elif one.opcode == "conditional":
            for branch in _branches(one):
                yield from _walk(module, branch, times, loops)
        elif one.opcode in ("call", "call-start"):
            yield from _walk(module, one.called("to_apply"), times, loops)
        elif one.opcode == "async-start":
            yield from _walk(module, one.called("calls"), times, loops)
        elif one.opcode not in FREE and not ENDS.search(one.opcode) and one.target not in NOTHING:
            yield Run(one, within, times)


def _branches(one: Instruction) -> list[str]:
    several = first(r"branch_computations=\{([^}]*)\}", one.attributes)
    if several:
        return re.findall(r"[\w.\-<>~]+", several)
    return [one.called("true_computation"), one.called("false_computation")]


def trip_count(module: Module, loop: Instruction, within: Computation) -> int:
    """How often a counted loop runs: what is known of it, or the bound in its condition."""
    known = first(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known)
    condition = module.computations.get(loop.called("condition"), {})
    bounds = [*_constants(condition)]
    for one in condition.values():
        bounds += _constants(module.inside(one))
    return max(bounds or _initial_bounds(condition, loop, within), default=0)


def _constants(computation: Computation) -> list[int]:
    return [n for one in computation.values() if (n := _constant(one)) is not None]


def _constant(one: Instruction | None) -> int | None:
    """The number that a scalar integer constant is."""
    if one is None or one.opcode != "constant" or not re.match(r"[su]\d+\[\]", one.type):
        return None
    return int(one.operands[0]) if re.fullmatch(r"-?\d+", one.operands[0]) else None


def _initial_bounds(condition: Computation, loop: Instruction, within: Computation) -> list[int]:
    """Bounds among the constants of the tuple that the loop starts from."""
    start = within.get(loop.operands[0])
    found = []
    for one in condition.values():
        place = first(r"index=(\d+)", one.attributes)
        if one.opcode == "get-tuple-element" and place and start and start.opcode == "tuple":
            bound = _constant(within.get(start.operands[int(place)]))
            found += [bound] if bound else []
    return found


# Work without an estimate


class Work(NamedTuple):
    bytes: float = 0.0
    matrix: float = 0.0  # operations of products
    elements: float = 0.0  # elementwise operations

    def times(self, n: float) -> Work:
        return Work(*(n * part for part in self))

    def plus(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


class Speeds(NamedTuple):
    """Of one device, a second."""

    clock: float
    bytes: float
    matrix: float
    elements: float

    def seconds(self, work: Work) -> float:
        halves = work.matrix / (self.matrix / 2), work.elements / (self.elements / 2)
        return max(work.bytes / self.bytes, *halves)


Kernels = Callable[[Instruction], Work | None]  # of a Pallas kernel, where it is known


def no_kernels(_: Instruction) -> Work | None:
    return None


def is_kernel(one: Instruction) -> bool:
    return one.target == "tpu_custom_call"


def work_of(module: Module, run: Run, kernels: Kernels = no_kernels) -> Work:
    """Of one execution of an operation that has no estimate."""
    one, shapes = run.one, _operand_shapes(run.one, run.within)
    if one.opcode in OVERLAPPING:
        return Work(_overlapping(one, shapes))
    if one.opcode == "fusion":
        return _fused(module.inside(one), one, shapes)
    if is_kernel(one):
        work = kernels(one)  # none, where it only gives memory that nobody has written to
        return Work(one.bytes + sum(map(_bytes, shapes))) if work is None else work
    return _calculated(one, shapes)._replace(bytes=_moved(one, [_bytes(s) for s in shapes]))


def _operand_shapes(one: Instruction, within: Computation) -> list[list[Shape]]:
    return [within[name].shapes if name in within else [] for name in one.operands]


def _read(run: Run) -> list[Shape]:
    return list(itertools.chain(*_operand_shapes(run.one, run.within)))


OVERLAPPING = frozenset(
    f"{name}-start" for name in ("copy", "slice", "dynamic-slice", "dynamic-update-slice")
)


def _overlapping(one: Instruction, operands: list[list[Shape]]) -> int:
    """Of a copy between two memories what lies in HBM, both sides where both do; of a part of an
    array that part."""
    if one.opcode == "copy-start":
        return sum(s.bytes for s in one.shapes[:2] if s.space == 0)
    if one.opcode == "dynamic-update-slice-start":
        return _bytes(operands[1])
    return _bytes(_elements_of(one.type)[1])


def _elements_of(kind: str) -> list[list[Shape]]:
    """The arrays of each element of a tuple."""
    found, depth, start = [], 0, 1
    for match in re.finditer(r"[(){}\[\],]", kind):
        depth += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(match[0], 0)
        if (match[0] == "," and depth == 1) or depth == 0:
            found.append(shapes_of(kind[start : match.start()]))
            start = match.end()
    return found


def _moved(one: Instruction, operands: list[int]) -> float:
    """Bytes that an operation by itself reads and writes; `operands` are those of each operand."""
    if one.opcode == "gather":
        return 2 * one.bytes + sum(operands[1:])
    if one.opcode == "dynamic-slice":
        return 2 * one.bytes
    if one.opcode == "dynamic-update-slice":
        return 2 * operands[1]
    if one.opcode == "scatter":
        count = (len(operands) - 1) // 2
        return 3 * sum(operands[count + 1 :]) + operands[count]
    if one.opcode.endswith("-start"):  # names its operands among its results
        return max(one.bytes, sum(operands))
    return one.bytes + sum(operands)


def _calculated(one: Instruction, shapes: list[list[Shape]]) -> Work:
    """Products and elementwise operations of one operation, its bytes left out."""
    elements = max((s.elements for s in one.shapes), default=0)
    if one.opcode == "rng-bit-generator" or one.opcode == "rng":
        words = sum(-(-s.bytes // 4) for s in one.shapes)
        return Work(elements=RANDOM * words)
    if one.opcode == "sort":
        return Work(elements=_sorting(one))
    if one.opcode == "reduce":  # what it reads
        return Work(elements=max((s.elements for s in itertools.chain(*shapes)), default=0))
    if one.opcode == "reduce-window":
        window = first(r"size=([\dx]+)", one.attributes) or "1"
        size = math.prod(int(n) for n in window.split("x"))
        return Work(elements=elements * (1 + math.ceil(math.log2(max(size, 1)))))
    if one.opcode in ("dot", "convolution"):
        return Work(matrix=_products(one, shapes))
    if one.opcode in ELEMENTWISE:
        return Work(elements=elements * COSTLY.get(one.opcode, 1))
    return Work()


def _sorting(one: Instruction) -> float:
    along = first(r"dimensions=\{(\d+)\}", one.attributes)
    dims = one.shapes[0].dims
    n = dims[int(along)] if along and dims else 1
    rounds = math.ceil(math.log2(max(n, 2)))
    each = 1 + 2 * len(one.shapes)
    return one.shapes[0].elements / 4 * rounds * (rounds + 1) * each


def _products(one: Instruction, shapes: list[list[Shape]]) -> float:
    """2 x elements of the result x length of the sums."""
    if len(shapes) < 2 or not shapes[0] or not shapes[1]:
        return 0.0
    left, right = shapes[0][0].dims, shapes[1][0].dims
    if one.opcode == "dot":
        sums = first(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
        length = math.prod(left[int(n)] for n in sums.split(",") if n)
    else:
        kernel = first(r"dim_labels=\w+_(\w+)->", one.attributes)
        out = kernel.index("o") if "o" in kernel else len(right) - 1
        length = math.prod(right) / max(right[out], 1)
    return 2.0 * one.shapes[0].elements * length


def _fused(inside: Computation, fusion: Instruction, shapes: list[list[Shape]]) -> Work:
    """A fusion: what goes in and out of it, of tables only the rows, and all that is within."""
    operands: dict[int, float] = {n: _bytes(s) for n, s in enumerate(shapes)}
    moved, result = 0.0, float(fusion.bytes)
    total = Work()
    for one in inside.values():
        own = _operand_shapes(one, inside)
        total = total.plus(_calculated(one, own))
        if one.opcode in ("gather", "dynamic-slice"):
            table = _parameter(one.operands[0], inside)
            if table is not None:
                operands[table] = 0
            moved += one.bytes
        elif one.opcode in ("scatter", "dynamic-update-slice"):
            count = (len(one.operands) - 1) // 2 if one.opcode == "scatter" else 1
            updates = own[count + 1 :] if one.opcode == "scatter" else own[1:2]
            places = [_parameter(name, inside) for name in one.operands[:count]]
            for place in places:
                if place is not None:
                    operands[place] = 0
            if None not in places:  # else the fusion writes the whole of what it starts from
                result -= one.bytes
            moved += 2 * sum(map(_bytes, updates))
    return total._replace(bytes=sum(operands.values()) + moved + max(result, 0.0))


def _parameter(name: str, inside: Computation) -> int | None:
    """Which operand of a fusion a value within it is, where it is one as it is."""
    through = ("bitcast", "reshape", "transpose", "copy", "convert", "custom-call")
    one = inside.get(name)
    while one is not None and one.opcode in through:
        one = inside.get(one.operands[0])
    return int(one.operands[0]) if one is not None and one.opcode == "parameter" else None


# Names of parts and kinds

BACK = r"transpose\(|rematted_computation"
INSIDE = r"attention(?!_output|_norm)|attend|pallas_call|flash|splash|bhqk|bqhd|bkhd|softmax"
TEXT = r"text_encoder|[Bb]ert"
PARTS = (  # of a training step, by an operation's name in JAX: the first that fits
    ("dropout", r"_keep|_drop\b|[Dd]ropout|rng_bit|random_bits|threefry|_bernoulli"),
    ("attention bwd", rf"(?:{BACK}).*(?:{TEXT}).*(?:{INSIDE})"),
    ("attention fwd", rf"(?:{TEXT}).*(?:{INSIDE})"),
    ("text bwd", rf"(?:{BACK}).*(?:{TEXT}).*layer"),
    ("text fwd", rf"(?:{TEXT}).*layer"),
    ("embeddings", TEXT),
    ("local score", r"local_scores|_local\b"),
    ("denoiser", r"_generat|denois|reconstruct|hdan|Hdan"),
    ("molecules", r"encode_molecule|graph_encoder"),
    ("text after BERT", r"encode_text"),
    ("losses", r"\.loss|loss|adversary|critic|perturb|rank"),
    ("batch", r"^tables|^chosen|searchsorted|argsort"),
    ("batch", r"/while/body/(?:eval_jaxpr|closed_call)/(?:gather|jit\(_take)"),
    ("update", r"global_norm|is_finite|/cond/|(?:eval_jaxpr|closed_call)/(?:jit\(\w+\)/)?\w+$"),
)


def part_of(source: str, arrays: Sequence[Shape] = ()) -> str:
    """Of what the operation reads and writes, `arrays`, a square of tokens tells attention."""
    if not source:
        return "no name"
    part = next((name for name, pattern in PARTS if re.search(pattern, source)), "rest")
    square = any(len(s.dims) == 4 and s.dims[2] == s.dims[3] > 16 for s in arrays)
    if square and part in ("text fwd", "text bwd"):
        return part.replace("text ", "attention ")
    return part


def source_of(run: Run) -> str:
    """JAX's name of an operation; of one without, that of the largest thing it reads."""
    one, seen = run.one, 0
    while not one.source and seen < 8:
        known = [run.within[name] for name in one.operands if name in run.within]
        if not known:
            return ""
        one, seen = max(known, key=lambda x: x.bytes), seen + 1
    return one.source


def kind_of(module: Module, one: Instruction) -> str:
    """What an operation is, in a word."""
    if is_kernel(one):
        return "kernel"
    found = [one.opcode.removesuffix("-start"), *(o.opcode for o in module.inside(one).values())]
    if any(x in ("dot", "convolution") for x in found):
        return "product"
    if any(x.startswith(COLLECTIVES) for x in found):
        return next(x for x in found if x.startswith(COLLECTIVES))
    if one.opcode.startswith("rng"):
        return "random bits"
    if one.opcode != "fusion":
        return one.opcode
    inner = ("scatter", "gather", "sort", "reduce-window", "reduce", "transpose", "copy")
    return next((f"fusion:{name}" for name in inner if name in found), "fusion")


# The report


class Row(NamedTuple):
    """One operation, all of its runs."""

    kind: str
    part: str
    source: str
    type: str
    times: int
    estimate: float  # seconds, by the compiler's cycles
    surcharge: float  # seconds, where there are none


def rows_of(module: Module, runs: list[Run], speeds: Speeds, kernels: Kernels) -> list[Row]:
    rows = []
    for run in runs:
        one, source = run.one, source_of(run)
        cycles = one.cycles
        work = Work() if cycles else work_of(module, run, kernels)
        part = part_of(source, [*one.shapes, *_read(run)])
        if part == "no name" and re.match(r"\(?u(16|32)\[", one.type):
            part = "dropout"  # halves of words of random bits have no name of their own
        seconds = run.times * cycles / speeds.clock, run.times * speeds.seconds(work)
        rows.append(Row(kind_of(module, one), part, source, one.type, run.times, *seconds))
    return rows


def copies(module: Module, runs: list[Run], above: float) -> list[dict[str, Any]]:
    """Arrays of more than `above` MB in HBM that are only written once more, as they were.

    What is fetched ahead of its use, from HBM to the memory of the core, is none of them.
    """
    rows = []
    for run in runs:
        one, inside = run.one, module.inside(run.one)
        opcodes = {o.opcode for o in inside.values()} or {one.opcode}
        written = max((s.bytes for s in one.shapes if s.space == 0), default=0)
        read = max((s.bytes for s in _read(run)), default=0)
        if opcodes <= MOVES and written > above * MB and read > above * MB / 4:
            key = kind_of(module, one), plain(one.type), short(source_of(run))
            rows.append((key, (run.times, run.times * (written / MB))))
    return [
        {"kind": kind, "type": shape, "source": source, "times": times, "mb": round(mb, 1)}
        for (kind, shape, source), (times, mb) in added(rows, lambda row: row[1]).items()
    ]


def added(
    rows: Iterable[tuple[Hashable, Sequence[float]]],
    size: Callable[[list[Any]], float] = sum,
) -> dict[Any, list[Any]]:
    """The numbers of rows with the same key summed, the largest `size` first."""
    sums: dict[Hashable, list[Any]] = {}
    for key, numbers in rows:
        before = sums.get(key, [0] * len(numbers))
        sums[key] = [a + b for a, b in zip(before, numbers, strict=True)]
    return dict(sorted(sums.items(), key=lambda item: -size(item[1])))


def plain(kind: str) -> str:
    """A type without its layouts."""
    return re.sub(r"\{[^{}]*\}", "", kind)


def short(source: str) -> str:
    """A name without the numbers of layers and the wrappers of jit."""
    source = re.sub(r"_\d+\b", "_*", source)
    return re.sub(
        r"jit\([^)]*\)/|\w+\.<locals>\.|while/body/|(eval_jaxpr|closed_call)/", "", source
    )


def reads_float32(module: Module, run: Run) -> str:
    """ "" unless it is a product of float32; else the precision it asks for."""
    parts = module.inside(run.one) or {run.one.name: run.one}
    within = module.inside(run.one) or run.within
    for one in parts.values():
        if one.opcode in ("dot", "convolution"):
            types = {s.dtype for s in itertools.chain(*_operand_shapes(one, within))}
            if "f32" in types:
                return first(r"operand_precision=\{(\w+)", one.attributes) or "default"
    return ""


def summary(
    module: Module,
    speeds: Speeds | None,
    kernels: Kernels = no_kernels,
    above: float = 64,
    top: int = 15,
    share: float = 1.0,
) -> dict:
    """All that is said of a program; times in ms, those of `share` of a run. Without `speeds`
    (GPU) there are no times."""
    runs, loops = executed(module)
    found = {
        "launches": sum(run.times for run in runs) * share,
        "operations": len(runs),
        "copies": copies(module, runs, above),
        "loops": _counted(f"{trips or '?'} times" for trips in loops),
        "sorts": _counted(plain(one.type) for one in _within(module, runs, "sort")),
        "scatters": len(_within(module, runs, "scatter")),
        "gathers": len(_within(module, runs, "gather")),
        "collectives": _collectives(module, runs),
        "kernels": sum(is_kernel(run.one) for run in runs),
    }
    if speeds is None:
        return found
    rows = rows_of(module, runs, speeds, kernels)
    scale = 1e3 * share
    estimate, extra = (sum(getattr(r, x) for r in rows) for x in ("estimate", "surcharge"))
    precise = [reads_float32(module, run) for run in runs]
    return found | {
        "estimate_ms": estimate * scale,
        "surcharge_ms": extra * scale,
        "beside_ms": sum(r.surcharge for r in rows if r.kind in OVERLAPPING) * scale,
        "parts": _sums(rows, lambda r: r.part, scale),
        "unestimated": _sums([r for r in rows if r.surcharge], lambda r: r.kind, scale),
        "operations_top": _top(rows, top, scale),
        "float32": {
            "products": sum(map(bool, precise)),
            "asked": dict(collections.Counter(filter(None, precise))),
            "ms": sum(r.estimate for r, p in zip(rows, precise, strict=True) if p) * scale,
        },
    }


def _within(module: Module, runs: list[Run], opcode: str) -> list[Instruction]:
    return [one for run in runs for one in _parts(module, run) if one.opcode == opcode]


def _parts(module: Module, run: Run) -> list[Instruction]:
    return [run.one, *module.inside(run.one).values()]


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(collections.Counter(words).most_common())


def _collectives(module: Module, runs: list[Run]) -> dict[str, dict[str, float]]:
    """Of each kind how many are run, and the MB of their results."""
    rows = []
    for run in runs:
        for one in _parts(module, run):
            if not one.opcode.startswith(COLLECTIVES) or ENDS.search(one.opcode):
                continue
            size = one.bytes
            if one.opcode.endswith("-start"):  # names its operands, too
                size = max((_bytes(part) for part in _elements_of(one.type)), default=size)
            numbers = run.times, run.times * size / MB
            rows.append((one.opcode.removesuffix("-start"), numbers))
    return {name: {"runs": runs, "mb": mb} for name, (runs, mb) in added(rows).items()}


def _sums(rows: list[Row], key: Callable[[Row], str], scale: float) -> dict[str, list[float]]:
    """Estimate and surcharge by a name."""
    return added((key(r), (r.estimate * scale, r.surcharge * scale)) for r in rows)


def _top(rows: list[Row], count: int, scale: float) -> list[dict[str, Any]]:
    """The operations of one kind and source that take longest."""
    keys = [(row.kind, short(row.source) or plain(row.type)[:60]) for row in rows]
    numbers = ((r.estimate * scale, r.surcharge * scale, r.times) for r in rows)
    types = {key: row.type[:60] for key, row in zip(keys, rows, strict=True)}
    sums = added(zip(keys, numbers, strict=True), lambda row: row[0] + row[1])
    return [
        {"kind": key[0], "source": key[1], "type": types[key], "runs": times, "ms": ms}
        for key, (*ms, times) in itertools.islice(sums.items(), count)
    ]
