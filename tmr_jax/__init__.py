"""Text-molecule retrieval in JAX: train, evaluate honestly, and search your own library."""

__version__ = "0.1.0"
