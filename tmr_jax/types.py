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
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import jraph
    import numpy as np
    from jaxtyping import Array, Bool, Float, Int


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
    names = list(known)
    spelling = {name.lower(): name for name in names}
    near = difflib.get_close_matches(name.lower(), spelling, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(show(spelling[n]) for n in near)}?"
    return otherwise.format(", ".join(map(show, names)))


class Pair(NamedTuple):
    """A description and its molecule; `split` is train, validation or test."""

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
    counts: np.ndarray  # uint8 [1, C], how often the molecule has each fragment; mostly C = 0


class TextBatch(NamedTuple):
    """B padded texts."""

    tokens: Int[Array, "B T"] | Float[Array, "B T W"]  # ids, or a frozen text encoder's states
    mask: Bool[Array, "B T"]  # True where real


class PackedText(NamedTuple):
    """The texts of a batch side by side in rows of one width; a row holds whole texts."""

    tokens: Int[Array, "rows width"]
    text: Int[Array, "rows width"]  # index of the token's text; B: padding
    position: Int[Array, "rows width"]  # of the token in its text
    places: Int[Array, "B T"]  # indices of each text's tokens in the flattened rows
    mask: Bool[Array, "B T"]  # True where real


class MolBatch(NamedTuple):
    """B molecules as one padded graph; graph number B (the last) absorbs all the padding."""

    graph: jraph.GraphsTuple
    motif: Int[Array, " N"]  # motif of each atom, numbered over the whole batch


class Taught(NamedTuple):
    """A teacher's embeddings of pairs: their products are its cosines."""

    text: Float[Array, "B E"]
    mol: Float[Array, "B E"]


class Batch(NamedTuple):
    """B pairs: text i describes molecule i."""

    text: TextBatch | PackedText
    mol: MolBatch
    text_group: Int[Array, " B"]  # the same number for duplicate texts
    mol_group: Int[Array, " B"]  # the same number for duplicate molecules
    described: Int[Array, "B K"] | None = None  # groups of other texts of each molecule; -1: none
    taught: Taught | None = None  # of a training with teachers


class PackedWords(NamedTuple):
    """Token embeddings of all texts in the order of the packed rows, padding included."""

    rows: Float[Array, "P D"]
    text: Int[Array, " P"]  # index of the token's text; B: padding
    places: Int[Array, "B T"]  # indices of each text's tokens in `rows`


class TextOut(NamedTuple):
    """Encoded texts: one embedding per text and one per token."""

    pooled: Float[Array, "B D"]
    tokens: Float[Array, "B T D"]
    mask: Bool[Array, "B T"]
    packed: PackedWords | None = None  # the same tokens, of a packed batch


class MolOut(NamedTuple):
    """Encoded molecules: one embedding per molecule and one per atom or motif."""

    pooled: Float[Array, "B D"]
    nodes: Float[Array, "N D"]  # atoms; with motif="brics" motifs
    node_graph: Int[Array, " N"]  # index of the row's molecule; B: padding


class EncodedBatch(NamedTuple):
    """Encoded pairs, on which the generator trains above frozen encoders."""

    text: TextOut
    mol: MolOut
    text_group: Int[Array, " B"]
    mol_group: Int[Array, " B"]
    described: Int[Array, "B K"] | None = None
    taught: Taught | None = None


class EncodedCorpus(NamedTuple):
    """Distinct texts or molecules, encoded: one row per item, and one per token, atom or motif."""

    pooled: np.ndarray  # float32 [n, D]: h^t or h^g, not normalised
    token_embeddings: np.ndarray  # float32 [P, D]: words or atoms (motifs), item after item
    offsets: np.ndarray  # int64 [n + 1]: item i has the tokens offsets[i] to offsets[i + 1]
    key: np.ndarray  # int64 [n]: 31 bits of a hash of the input


class Pool(NamedTuple):
    """Candidates of an evaluation. An item with target -1 is a candidate but not a query."""

    protocol: str  # e.g. "chebi20-molt5/test-split"
    texts: tuple[str, ...]
    smiles: tuple[str, ...]
    text_target: np.ndarray  # int64 [len(texts)], index into smiles
    mol_target: np.ndarray  # int64 [len(smiles)], index into texts
    # Further right molecules of each text, int64 [len(texts), R], filled up with its target
    further: np.ndarray | None = None


class Ranking(NamedTuple):
    """Per query, the number of candidates that score above its target and that tie with it."""

    greater: np.ndarray  # int64 [Q]
    equal: np.ndarray  # int64 [Q], without the target itself
    pool_size: int


Direction = Literal["t2m", "m2t"]  # of a query: text to molecule, or molecule to text
