"""Options that `tmr serve` and `tmr mcp` share: what is served, and the packages that it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tmr_jax.types import UserError

if TYPE_CHECKING:
    from tmr_jax.search.retriever import Retriever


@dataclass(frozen=True)
class Library:
    """A library, and the model that it is searched with."""

    library: Path
    """Molecules or descriptions to search: a folder built by tmr index, or a file, which is indexed
    first."""
    run: Path | None = None
    """Directory of a trained run, e.g. runs/quickstart, or exported weights; default: the weights
    that come with tmr_jax."""
    smiles_column: str = ""
    """Column of the SMILES in a table; by default the one called so, or that holds some."""
    text_column: str = ""
    """Column of the descriptions in a table, to search those."""
    name_column: str = ""
    """Column of the names in a table; by default the titles of an SDF, or line numbers."""


def opener(chosen: Library) -> Callable[[], Retriever]:
    """A function that opens the library with the model, again at each call."""
    from tmr_jax.search.retriever import load

    columns = (chosen.smiles_column, chosen.name_column, chosen.text_column)
    return partial(load(chosen.run).with_library, chosen.library, *columns)


def need_extra(extra: str, *packages: str) -> None:
    """UserError where a package of an extra of tmr_jax is not installed."""
    for name in packages:
        if find_spec(name) is None:
            raise UserError(
                f"expected the packages of the extra {extra!r}, got none named {name}; "
                f"run pip install 'tmr-jax[{extra}]'"
            )
