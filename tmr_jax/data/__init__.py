"""Files in, Pairs and Batches out: the one place that knows which data set has which reader."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmr_jax.config import DataConfig, TableConfig
from tmr_jax.types import UserError, did_you_mean

if TYPE_CHECKING:
    from tmr_jax.data.datasets.table import Report
    from tmr_jax.types import Pair

__all__ = ["DataConfig", "TableConfig", "load_pairs", "load_pairs_with_report"]

DEFAULT_VERSIONS = {"chebi20": "text2mol", "pcdes": "file-order"}


def load_pairs(config: DataConfig) -> list[Pair]:
    """Every pair of the configured data set; see `load_pairs_with_report`."""
    return load_pairs_with_report(config)[0]


def load_pairs_with_report(config: DataConfig) -> tuple[list[Pair], Report]:
    """Every pair of the configured data set and the report of its rows: in, kept, refused.

    Raises UserError (MissingPart, WrongContent) where a file is missing or has other content.
    """
    if config.name not in READERS:
        raise UserError(
            f"expected a data set; got {config.name!r}; {did_you_mean(config.name, list(READERS))}"
        )
    pairs, report = READERS[config.name](config)
    if config.names:
        _reader("iupac").add_names(pairs, report, Path(config.names))
    return pairs, report


def _reader(name: str) -> Any:
    """The module of a data set, which is imported when it is asked for."""
    return importlib.import_module(f"tmr_jax.data.datasets.{name}")


READERS: dict[str, Callable[[DataConfig], tuple[list[Pair], Report]]] = {
    "chebi": lambda c: _reader("chebi").load(),
    "chebi20": lambda c: _reader("chebi20").load(c.version or DEFAULT_VERSIONS["chebi20"]),
    "pcdes": lambda c: _reader("pcdes").load(c.version or DEFAULT_VERSIONS["pcdes"]),
    "open": lambda c: _reader("open_pairs").load(c.version),
    "table": lambda c: _reader("table").load(c.table, c.seed),
}
