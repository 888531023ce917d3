"""Features of many molecules and texts as packed arrays, computed once and cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rdkit import rdBase

from tmr_jax.data.features.graph import BadMolecule, Molecule, Motif, canonical, featurise
from tmr_jax.data.features.text import CLEANING, Tokenizer
from tmr_jax.data.files import (
    ARRAYS,
    CACHE_FROM,
    Arrays,
    cache_key,
    cached,
    read_arrays,
    save_arrays,
)
from tmr_jax.types import MolFeatures, UserError

PARALLEL_FROM = 2000  # distinct molecules; below, starting processes costs more than it saves
CHUNK = 250  # molecules between two steps of the progress bar


class MolTable(NamedTuple):
    """M molecules, packed: atoms of molecule i are rows node_offsets[i] to node_offsets[i + 1]."""

    nodes: np.ndarray  # [sum n, F]; uint8 columns of ogb, int64 identifiers of morgan1
    edges: np.ndarray  # uint8 [sum e, F_edge]
    senders: np.ndarray  # int32 [sum e], atom index inside its molecule
    receivers: np.ndarray  # int32 [sum e]
    motif: np.ndarray  # int32 [sum n], motif index inside its molecule
    counts: np.ndarray  # uint8 [M, C], fragments of each molecule
    node_offsets: np.ndarray  # int64 [M + 1]
    edge_offsets: np.ndarray  # int64 [M + 1]
    key: np.ndarray  # uint8 [M, 16]: equal exactly where the model's inputs are equal


class Refused(NamedTuple):
    """A skipped row: its index, a short reason code, the start of its SMILES."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which is unused
    reason: str
    value: str


class TextTable(NamedTuple):
    """M texts, packed: tokens of text i are offsets[i] to offsets[i + 1]."""

    tokens: np.ndarray  # int32 [sum T]
    offsets: np.ndarray  # int64 [M + 1]
    truncated: np.ndarray  # bool [M]


class Vocabulary(NamedTuple):
    """The Morgan identifiers of the training molecules; identifier v is node id 1 + its place."""

    identifiers: np.ndarray  # int64 [V], sorted


def table_size(table: MolTable | TextTable) -> int:
    """How many molecules or texts a table holds (`len` of a NamedTuple counts its fields)."""
    return len(table.node_offsets if isinstance(table, MolTable) else table.offsets) - 1


def table_get(table: MolTable, i: int | np.integer) -> MolFeatures:
    """Molecule i as it came from the featuriser."""
    atoms = slice(*table.node_offsets[i : i + 2])
    bonds = slice(*table.edge_offsets[i : i + 2])
    return MolFeatures(
        nodes=table.nodes[atoms].astype(np.int64),
        edges=table.edges[bonds].astype(np.int64),
        senders=table.senders[bonds],
        receivers=table.receivers[bonds],
        motif=table.motif[atoms],
        counts=table.counts[i : i + 1],
    )


def table_take(table: MolTable, rows: np.ndarray) -> MolTable:
    """The molecules `rows`, in that order; a row may come more than once."""
    rows = np.asarray(rows, np.int64)
    atoms, node_offsets = take_ranges(table.node_offsets, rows)
    bonds, edge_offsets = take_ranges(table.edge_offsets, rows)
    return MolTable(
        nodes=table.nodes[atoms],
        edges=table.edges[bonds],
        senders=table.senders[bonds],
        receivers=table.receivers[bonds],
        motif=table.motif[atoms],
        counts=table.counts[rows],
        node_offsets=node_offsets,
        edge_offsets=edge_offsets,
        key=table.key[rows],
    )


def text_take(table: TextTable, rows: np.ndarray) -> TextTable:
    """The texts `rows`, in that order; a row may come more than once."""
    tokens, offsets = take_ranges(table.offsets, np.asarray(rows, np.int64))
    return TextTable(table.tokens[tokens], offsets, table.truncated[rows])


def take_ranges(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of the ranges `rows` of a packed array, one after another, and their offsets."""
    lengths = offsets[rows + 1] - offsets[rows]
    new = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.repeat(offsets[rows] - new[:-1], lengths) + np.arange(new[-1]), new


# Molecules


def molecule_table(
    smiles: Sequence[str], molecule: Molecule, motif: Motif, cache_dir: str | Path | None = None
) -> tuple[MolTable, np.ndarray, list[Refused]]:
    """Features of every valid SMILES, the rows they belong to, and the rows that were skipped.

    Row i of the table is `smiles[kept[i]]`. Equal SMILES are featurised once, many of them in
    several processes. Without `cache_dir`, `CACHE_FROM` rows or more use the default folder.
    """
    smiles = list(smiles)
    settings = [rdBase.rdkitVersion, molecule, motif]  # another RDKit may give other features
    arrays = _cached_arrays(
        ("molecules", settings, smiles),
        lambda: _featurise_rows(smiles, molecule, motif),
        _molecules_hold,
        cache_dir,
    )
    refused = [Refused(*row) for row in json.loads(arrays["refused"].tobytes())]
    return MolTable(**{f: arrays[f] for f in MolTable._fields}), arrays["kept"], refused


def _featurise_rows(smiles: list[str], molecule: Molecule, motif: Motif) -> Arrays:
    distinct = list(dict.fromkeys(smiles))
    chunks = [distinct[i : i + CHUNK] for i in range(0, len(distinct), CHUNK)] or [[]]
    if len(distinct) < PARALLEL_FROM:
        packed: Iterable = (pack_chunk(chunk, molecule, motif) for chunk in chunks)
    else:
        from tmr_jax.data.workers import in_workers, track

        jobs = [[chunk, molecule, motif] for chunk in chunks]
        packed = track(in_workers(jobs), "molecule features", len(jobs))
    parts = list(packed)
    listed = (reason for part in parts for reason in json.loads(part["reasons"].tobytes()))
    reasons = dict(zip(distinct, listed, strict=True))
    place = {s: i for i, s in enumerate(s for s in distinct if not reasons[s])}
    kept = [i for i, s in enumerate(smiles) if s in place]
    refused = [Refused(i, reasons[s], s[:80]) for i, s in enumerate(smiles) if reasons[s]]
    table = table_take(joined_table(parts), np.array([place[smiles[i]] for i in kept], np.int64))
    return table._asdict() | {"kept": np.array(kept, np.int64), "refused": _as_array(refused)}


def _as_array(value: list) -> np.ndarray:
    """JSON in bytes, which a file of arrays can hold."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def pack_chunk(smiles: list[str], molecule: Molecule, motif: Motif) -> Arrays:
    """Packed arrays of the molecules of one chunk, sizes instead of offsets."""
    features, reasons = [], []
    for s in smiles:
        try:
            features.append(featurise(s, molecule, motif))
            reasons.append("")
        except BadMolecule as error:
            reasons.append(error.reason)
    return pack(features, reasons, molecule, motif)


def pack(
    features: list[MolFeatures], reasons: list[str], molecule: Molecule, motif: Motif
) -> Arrays:
    """Packed arrays of molecules; `reasons` has the reason of each skipped SMILES or ""."""
    methane = featurise("C", molecule, motif)  # first, so that an empty list has columns too
    width = {"ogb": np.uint8, "morgan1": np.int64}.get(molecule, np.uint16)
    joined = {
        field: np.concatenate([getattr(f, field) for f in (methane, *features)])
        for field in MolFeatures._fields
    }
    joined = {field: array[len(getattr(methane, field)) :] for field, array in joined.items()}
    return joined | {
        "nodes": joined["nodes"].astype(width),
        "edges": joined["edges"].astype(np.uint8),
        "node_sizes": np.array([len(f.nodes) for f in features], np.int64),
        "edge_sizes": np.array([len(f.edges) for f in features], np.int64),
        "key": np.array([_digest(f) for f in features], np.uint8).reshape(-1, 16),
        "reasons": _as_array(reasons),
    }


def _digest(features: MolFeatures) -> np.ndarray:
    """128 bits of the canonical input, uint8 [16]."""
    digest = hashlib.blake2b(digest_size=16)
    arrays = features if features.counts.size else features[:-1]  # older keys stay as they were
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def joined_table(parts: list[Arrays]) -> MolTable:
    """The molecules of all chunks, one after another."""
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    fields = {name: whole[name] for name in (*MolFeatures._fields, "key")}
    return MolTable(
        **fields,
        node_offsets=np.concatenate([[0], np.cumsum(whole["node_sizes"])]).astype(np.int64),
        edge_offsets=np.concatenate([[0], np.cumsum(whole["edge_sizes"])]).astype(np.int64),
    )


def _molecules_hold(arrays: Arrays) -> bool:
    """Whether the arrays of a cache file belong together, so that no index can leave its array."""
    if set(arrays) != {*MolTable._fields, "kept", "refused"}:
        return False
    table = MolTable(**{f: arrays[f] for f in MolTable._fields})
    count = table_size(table)
    return (
        _offsets_hold(table.node_offsets, len(table.nodes))
        and _offsets_hold(table.edge_offsets, len(table.edges))
        and len(table.senders) == len(table.receivers) == len(table.edges)
        and len(table.motif) == len(table.nodes)
        and table.key.shape == (count, 16)
        and table.counts.ndim == 2
        and len(table.counts) == count
        and len(table.edge_offsets) - 1 == count == len(arrays["kept"])
        and _inside(table.motif, table.node_offsets, table.node_offsets)
        and _inside(table.senders, table.edge_offsets, table.node_offsets)
        and _inside(table.receivers, table.edge_offsets, table.node_offsets)
    )


def _inside(indices: np.ndarray, offsets: np.ndarray, node_offsets: np.ndarray) -> bool:
    """Whether every index of a molecule's range is one of its atoms'."""
    sizes = np.repeat(np.diff(node_offsets), np.diff(offsets))
    return indices.dtype == np.int32 and bool(((indices >= 0) & (indices < sizes)).all())


def _offsets_hold(offsets: np.ndarray, total: int) -> bool:
    """Whether packed ranges start at 0, end at `total` and never decrease."""
    return (
        offsets.dtype == np.int64
        and offsets.ndim == 1
        and len(offsets) > 0
        and (int(offsets[0]), int(offsets[-1])) == (0, total)
        and bool((np.diff(offsets) >= 0).all())
    )


def _cached_arrays(
    parts: tuple[str, list, list[str]],
    compute: Callable[[], Arrays],
    is_valid: Callable[[Arrays], bool],
    folder: str | Path | None,
) -> Arrays:
    """`compute()`, from the cache where there are many rows or the caller names a folder."""
    if folder is None and len(parts[2]) < CACHE_FROM:
        return compute()
    return cached(cache_key(*parts), compute, is_valid, ARRAYS, folder)


# Texts


def text_table(
    texts: Sequence[str], tokenizer: Tokenizer, max_tokens: int, cache_dir: str | Path | None = None
) -> TextTable:
    """Token ids of every text; UserError with the row number where a text is empty."""
    texts = list(texts)
    arrays = _cached_arrays(
        ("texts", [tokenizer.sha256, max_tokens, CLEANING], texts),
        lambda: _packed_texts(*tokenizer.encode(texts, max_tokens))._asdict(),
        _texts_hold,
        cache_dir,
    )
    return TextTable(**arrays)


def passing_text_table(texts: Sequence[str], tokenizer: Tokenizer, max_tokens: int) -> TextTable:
    """`text_table` of texts that are read once: without a cache file, and few at a time.

    A tokenizer holds every piece of a text in memory until the text is cut.
    """
    starts = range(0, len(texts), CHUNK)
    parts = [tokenizer.encode(texts[start : start + CHUNK], max_tokens) for start in starts]
    rows = [row for part, _ in parts for row in part]
    return _packed_texts(rows, np.concatenate([np.zeros(0, bool), *(cut for _, cut in parts)]))


def _packed_texts(rows: list[np.ndarray], truncated: np.ndarray) -> TextTable:
    tokens = np.concatenate([np.zeros(0, np.int32), *rows])
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return TextTable(tokens, offsets, truncated)


def _texts_hold(arrays: Arrays) -> bool:
    return (
        set(arrays) == set(TextTable._fields)
        and _offsets_hold(arrays["offsets"], len(arrays["tokens"]))
        and len(arrays["truncated"]) == len(arrays["offsets"]) - 1
    )


# Vocabulary of morgan1


def build_vocabulary(table: MolTable) -> Vocabulary:
    """Every identifier of a morgan1 table of training molecules."""
    return Vocabulary(np.unique(table.nodes).astype(np.int64))


def apply_vocabulary(table: MolTable, vocabulary: Vocabulary) -> tuple[MolTable, int]:
    """Identifiers -> ids 1..V, int32; 0 for an unknown one, and how many atoms those are.

    Unknown identifiers become one input, so the molecules that have any are put in the order of
    their new features, and have new keys.
    """
    nodes = vocabulary_ids(table.nodes, vocabulary)
    changed = ("senders", "receivers", "motif", "key")
    ids = table._replace(nodes=nodes, **{name: getattr(table, name).copy() for name in changed})
    molecule_of = np.repeat(np.arange(table_size(table)), np.diff(table.node_offsets))
    for i in np.unique(molecule_of[nodes[:, 0] == 0]):
        _reorder(ids, i)
    return ids, int((nodes == 0).sum())


def vocabulary_ids(nodes: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """int32 [n, 1]: place of each identifier in the vocabulary, from 1; 0 for an unknown one."""
    known = vocabulary.identifiers
    place = np.searchsorted(known, nodes) + 1
    return np.where(np.isin(nodes, known), place, 0).astype(np.int32)


def _reorder(table: MolTable, i: np.integer) -> None:
    """Molecule i of a morgan1 table, in place, in the order of its present features."""
    features = canonical(table_get(table, i))
    atoms = slice(*table.node_offsets[i : i + 2])
    bonds = slice(*table.edge_offsets[i : i + 2])
    table.nodes[atoms] = features.nodes
    table.motif[atoms] = features.motif
    table.senders[bonds] = features.senders
    table.receivers[bonds] = features.receivers
    table.key[i] = _digest(features)


def save_vocabulary(path: str | Path, vocabulary: Vocabulary) -> None:
    save_arrays(Path(path), vocabulary._asdict())


def load_vocabulary(path: str | Path) -> Vocabulary:
    """Raises UserError where the file is not a vocabulary, FileNotFoundError without a file."""
    arrays = read_arrays(Path(path))
    identifiers = arrays.get("identifiers", np.zeros(0))
    if identifiers.dtype != np.int64 or identifiers.ndim != 1 or (np.diff(identifiers) <= 0).any():
        raise UserError(
            f"expected sorted int64 identifiers in {path}, got {sorted(arrays)}; "
            "train again, or copy vocab.npz from the run it belongs to"
        )
    return Vocabulary(identifiers)
