"""Random BERT weights and tokens from seeds, so that golden arrays need not store them.

Both tests/golden/make_bert.py (PyTorch) and tests/models/layers/test_bert.py (JAX) make the same
numbers here; numpy's RandomState keeps its streams the same in every version of numpy.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

# Keys as in a Hugging Face config.json. `base` has the shape of SciBERT, with fewer words.
CONFIGS: dict[str, dict[str, Any]] = {
    "small": {
        "vocab_size": 211,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 160,
        "max_position_embeddings": 40,
    },
    "base": {
        "vocab_size": 503,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 64,
    },
}
LENGTHS = {"small": (40, 1, 17, 33), "base": (24, 9)}  # real tokens of each row
MINILM_TEXTS = (
    "The molecule is a monocarboxylic acid that is propanoic acid substituted by an amino group.",
    "Water.",
    "It is a (2S)-flavanone with hydroxy groups at positions 5, 7 and 4'; a plant metabolite.",
)


def config_of(size: str) -> dict[str, Any]:
    """A whole config.json of this size."""
    common = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 0,
    }
    return common | CONFIGS[size]


def weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """float32 arrays for published tensor names; each depends on its own name and shape only."""
    return {name: _tensor(name, shape, seed) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).standard_normal(shape)
    if name.endswith("LayerNorm.weight"):
        values = 1.0 + 0.1 * noise
    elif name.endswith("bias") or "embeddings" in name:
        values = 0.1 * noise
    else:
        values = noise / np.sqrt(shape[-1])  # so that attention is neither flat nor a single spike
    return values.astype(np.float32)


def padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """tokens int32 [B, T] padded by zeros and mask bool [B, T]."""
    longest = max(len(row) for row in rows)
    tokens = np.array([row + [0] * (longest - len(row)) for row in rows], np.int32)
    mask = np.array([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    return tokens, mask


def random_tokens(size: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of LENGTHS[size] tokens drawn from the vocabulary, padding excepted."""
    stream = np.random.RandomState(7)
    words = CONFIGS[size]["vocab_size"]
    return padded([stream.randint(1, words, n).tolist() for n in LENGTHS[size]])


# DistilBERT and MPNet, small; rows long enough for the logarithmic buckets of relative positions.
FAMILIES: dict[str, dict[str, Any]] = {
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": 97,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 150,
    },
    "mpnet": {
        "model_type": "mpnet",
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 152,
    },
}


def family_tokens() -> tuple[np.ndarray, np.ndarray]:
    """Rows of 150, 1 and 40 tokens; padding is 1, which MPNet needs."""
    stream = np.random.RandomState(11)
    tokens, mask = padded([stream.randint(2, 97, n).tolist() for n in (150, 1, 40)])
    return np.where(mask, tokens, 1).astype(np.int32), mask
