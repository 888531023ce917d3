"""The types that flow from a raw pair to its rank, and the errors that a command explains.

Axis legend (a letter never changes meaning, in annotations, comments and einsum strings alike):

    B  pairs in a batch          T  text tokens             D  shared embedding
    N  atoms, flat over a batch  E  directed bonds, flat    G  graphs with padding (G = B + 1)
    F  input features            H  attention heads         M  memory slots
    Q  queries                   C  corpus items            K  retrieved
    S  diffusion steps
"""

# Annotations only: every command imports this file before it parses its arguments, and JAX
# takes a second to import.
from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import jraph
    import numpy as np
    from jaxtyping import Array, Bool, Float, Int

    Graphs = jraph.GraphsTuple


def __getattr__(name: str) -> Any:
    if name == "Graphs":  # of `from tmr_jax.types import Graphs`
        import jraph

        return jraph.GraphsTuple
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class CommandFailed(Exception):
    """An error that a command prints as one line, without a traceback, and exits with."""

    exit_status = 1


class UserError(CommandFailed, ValueError):
    """A mistake in what you gave: arguments, files, a run. The message has three parts: expected
    ...; got ...; what to do."""

    exit_status = 2


def did_you_mean(
    name: str, known: Iterable[str], otherwise: str = "known: {}", show: Callable = str
) -> str:
    """The hint of an error about an unknown name: the nearest known ones, or all of them.

    >>> did_you_mean("tran", ["train", "eval"])
    'did you mean train?'
    >>> did_you_mean("x", ["train", "eval"])
    'known: train, eval'
    """
    spelling = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), spelling, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(show(spelling[n]) for n in near)}?"
    return otherwise.format(", ".join(map(show, spelling.values())))


class Pair(NamedTuple):
    """One description and the molecule it describes; `split` is train, validation or test."""

    id: str
    text: str
    smiles: str
    split: str


class MolFeatures(NamedTuple):
    """Features of one molecule, numpy: n atoms without explicit hydrogens, e = 2 x bonds."""

    nodes: np.ndarray  # int64 [n, F]
    edges: np.ndarray  # int64 [e, F_edge]; F_edge = 0 under morgan1
    senders: np.ndarray  # int32 [e], local atom index
    receivers: np.ndarray  # int32 [e]
    motif: np.ndarray  # int32 [n], local motif index of each atom, 0..motifs-1


class TextBatch(NamedTuple):
    tokens: Int[Array, "B T"] | Float[Array, "B T W"]  # ids, or a frozen text encoder's states
    mask: Bool[Array, "B T"]  # True where real


class PackedText(NamedTuple):
    """The texts of a batch side by side in rows of one width; a row holds whole texts."""

    tokens: Int[Array, "rows width"]
    text: Int[Array, "rows width"]  # which text a place belongs to; B: padding
    position: Int[Array, "rows width"]  # within its text
    places: Int[Array, "B T"]  # of the tokens of each text, in the rows laid end to end
    mask: Bool[Array, "B T"]  # True where real


class MolBatch(NamedTuple):
    """B molecules as one padded graph; graph number B (the last) absorbs all the padding."""

    graph: Graphs
    motif: Int[Array, " N"]  # motif of each atom, numbered over the whole batch


class Batch(NamedTuple):
    """Rows belong together: text i describes molecule i."""

    text: TextBatch | PackedText
    mol: MolBatch
    text_group: Int[Array, " B"]  # equal where two texts are the same text
    mol_group: Int[Array, " B"]  # equal where two molecules are the same molecule


class PackedWords(NamedTuple):
    """The words of all texts side by side, as they lie in packed rows; some places are padding."""

    rows: Float[Array, "P D"]
    text: Int[Array, " P"]  # which text a word belongs to; B: padding
    places: Int[Array, "B T"]  # of the words of each text


class TextOut(NamedTuple):
    pooled: Float[Array, "B D"]
    tokens: Float[Array, "B T D"]
    mask: Bool[Array, "B T"]
    packed: PackedWords | None = None  # the same words, where the batch has them packed


class MolOut(NamedTuple):
    pooled: Float[Array, "B D"]
    nodes: Float[Array, "N D"]  # of the atoms; under motif="brics" of the motifs
    node_graph: Int[Array, " N"]  # which graph a row belongs to; B for padding


class EncodedBatch(NamedTuple):
    """A batch whose sides the encoders have read: what a generator trains on by itself."""

    text: TextOut
    mol: MolOut
    text_group: Int[Array, " B"]
    mol_group: Int[Array, " B"]


class EncodedCorpus(NamedTuple):
    """Distinct texts or molecules as the encoder returns them: a row each, and those of tokens."""

    pooled: np.ndarray  # float32 [n, D]: h^t or h^g, not of length one
    token_embeddings: np.ndarray  # float32 [P, D]: words or atoms (motifs), item after item
    offsets: np.ndarray  # int64 [n + 1]: item i has the tokens offsets[i] to offsets[i + 1]
    key: np.ndarray  # int64 [n]: 31 bits of a hash of the input itself


class Pool(NamedTuple):
    """What an evaluation ranks. A target of -1 says that the item is a candidate but no query."""

    protocol: str  # e.g. "chebi20-molt5/test-split"
    texts: tuple[str, ...]
    smiles: tuple[str, ...]
    text_target: np.ndarray  # int64 [len(texts)], index into smiles
    mol_target: np.ndarray  # int64 [len(smiles)], index into texts


class Ranking(NamedTuple):
    """For each query, how many candidates beat its target and how many tie with it."""

    greater: np.ndarray  # int64 [Q]
    equal: np.ndarray  # int64 [Q], the target itself not counted
    pool_size: int
