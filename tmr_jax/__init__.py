"""Text-molecule retrieval in JAX: train, evaluate honestly, and search your own library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tmr_jax.search.retriever import Hit, Retriever, load

__version__ = "0.1.0"
__all__ = ["Hit", "Retriever", "load"]


def __getattr__(name: str) -> Any:
    # JAX takes a second to import; `import tmr_jax` alone does not need it.
    if name in __all__:
        from tmr_jax.search import retriever

        return getattr(retriever, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
