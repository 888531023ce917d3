"""Text-molecule retrieval in JAX: train, evaluate, and search your own molecules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tmr_jax.search.retriever import Hit, Retriever, load

__version__ = "0.1.0"
__all__ = ["Hit", "Retriever", "load"]


def __getattr__(name: str) -> Any:
    # JAX takes a second to import, which `import tmr_jax` alone does not need.
    if name in __all__:
        from tmr_jax.search import retriever

        return getattr(retriever, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
