"""tmr lexical --run runs/NAME: a finished run gets a linear branch.

In: a run whose features count fragments (ogb_counts). The branch (tmr_jax/models/lexical.py) is
fitted to the training pairs in closed form; its share of the cosine is chosen on validation. Where
it gains nothing there, nothing is kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from scipy import linalg

from tmr_jax import cli
from tmr_jax.config import Experiment
from tmr_jax.data import load_pairs
from tmr_jax.data.features.text import Tokenizer
from tmr_jax.data.files import cache_folder
from tmr_jax.data.pools import load_pool, validation_protocol
from tmr_jax.data.tables import TextTable, molecule_table, text_table
from tmr_jax.eval.evaluate import read_config
from tmr_jax.eval.metrics import metrics
from tmr_jax.eval.pools import EncodedPool, encode_pools, restored
from tmr_jax.eval.scores import query_sets
from tmr_jax.models.checkpoint import parameters_sha256
from tmr_jax.models.encode import Encoded
from tmr_jax.models.lexical import (
    Lexical,
    about_lexical,
    gram_ids,
    presence,
    tfidf,
    write_lexical,
)
from tmr_jax.models.run import load_run
from tmr_jax.models.runtime import LEXICAL, use_compile_cache
from tmr_jax.types import UserError

WIDTH = 256  # numbers of the branch, where the experiment does not say
VOCABULARY = 12_288  # word pieces and pairs, those of most texts; the cost is cubic in this
STRENGTH = 0.1  # of the ridge
POWER = 0.5  # an axis of variance v is scaled by v ** (-POWER / 2): halfway to whitening
SHARES = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8)  # of the cosine


@dataclass(frozen=True)
class Arguments:
    """Fit a linear branch, from the training pairs of a run."""

    run: Path
    """Run directory, e.g. runs/quickstart; of its checkpoints the best on validation."""


def fit_lexical(
    text: TextTable, counts: Shaped[np.ndarray, "n C"], width: int, vocabulary: int = 0
) -> Lexical:
    """The branch of pairs: text i belongs to molecule i. Its share is that of the default.

    `vocabulary`: grams that are read; 0: `VOCABULARY`.
    """
    grams, idf = _vocabulary(text, vocabulary or VOCABULARY)
    words = tfidf(text.tokens, text.offsets, grams, idf)
    fragments = presence(counts).toarray()
    count = len(counts)
    word_mean, mean = (np.asarray(x.mean(0), np.float32).ravel() for x in (words, fragments))
    # Centring by hand keeps the matrices sparse: (X - m)'(Y - l) = X'Y - n m l'.
    gram = (words.T @ words).toarray() - count * np.outer(word_mean, word_mean)
    gram[np.diag_indices_from(gram)] += np.float32(STRENGTH)
    cross = words.T @ fragments - count * np.outer(word_mean, mean)
    factor = linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    weights = linalg.cho_solve(factor, cross, overwrite_b=True, check_finite=False)
    variance, axes = _axes(words @ weights - word_mean @ weights, width)
    axes *= variance ** np.float32(-POWER / 2)
    return Lexical(grams, idf, weights @ axes, word_mean @ weights @ axes, axes, mean @ axes)


def _vocabulary(text: TextTable, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The grams of most texts, sorted by their ids, and their idf."""
    ids, of_text = gram_ids(text.tokens, text.offsets)
    once = np.unique(np.stack([ids, of_text]), axis=1)[0]
    grams, frequency = np.unique(once, return_counts=True)
    kept = np.sort(np.lexsort((grams, -frequency))[:size])
    idf = np.log((1 + len(text.truncated)) / (1 + frequency[kept])) + 1
    return grams[kept], idf.astype(np.float32)


def _axes(
    predicted: Float[np.ndarray, "n C"], width: int
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "C K"]]:
    """Variances and directions of the principal axes of what the ridge predicts."""
    count, size = predicted.shape
    is_wide = count < size  # then the axes of the rows are fewer, and give those of the columns
    product = predicted @ predicted.T if is_wide else predicted.T @ predicted
    last = len(product) - 1
    picked = [max(last + 1 - width, 0), last]
    variance, axes = linalg.eigh(product, subset_by_index=picked, check_finite=False)
    kept = variance > 1e-6 * variance[-1]
    variance, axes = variance[kept], axes[:, kept]
    if is_wide:
        axes = predicted.T @ axes / np.sqrt(variance)
    return variance / np.float32(count), axes


def fit(run: Path, again: bool = True) -> Lexical | None:
    """Fit, choose the share, and write lexical.safetensors where the branch gains on validation.

    Without `again`, what is fitted for the best checkpoint is kept. Errors: UserError for a model
    with a second stage of its own, and for one that counts no fragments.
    """
    use_compile_cache(cache_folder())
    config = read_config(run)
    if config.features.molecule != "ogb_counts":
        raise UserError(
            f"expected a run that counts fragments; got {config.features.molecule} in {run}; "
            "train one with --features.molecule ogb_counts"
        )
    trained, params, checkpoint = load_run(run)
    sha256 = parameters_sha256(params)
    if trained.reranks:
        raise UserError(
            f"expected a model without a second stage; got {config.model.name} in {run}; fit the "
            "branch of its encoder, a run with --model.name dual"
        )
    if not again and about_lexical(run).get("checkpoint") == sha256:
        return trained.lexical
    lexical = fitted(config, trained.tokenizer)
    protocol = validation_protocol(config.data)
    model = restored(trained._replace(lexical=lexical), params, checkpoint._asdict())
    [side], _ = encode_pools(model, [load_pool(protocol, config.data)])
    tried = {share: _mrr(side, lexical, share) for share in SHARES}
    share = max(tried, key=lambda s: (tried[s], -s))
    print(f"{protocol}, MRR by share: " + ", ".join(f"{s:g} {m:.4f}" for s, m in tried.items()))
    if not share:
        print("the branch gains nothing there: the embedding is the network's")
        (run / LEXICAL).unlink(missing_ok=True)  # of an earlier fit
        return None
    lexical = lexical._replace(share=share)
    choice = {f"{s:g}": m for s, m in tried.items()}
    write_lexical(
        run, lexical, {"checkpoint": sha256, "chosen_on": protocol, "mrr": json.dumps(choice)}
    )
    print(f"linear branch of {lexical.width} numbers, share {share:g}: {run / LEXICAL}")
    return lexical


def _mrr(side: EncodedPool, lexical: Lexical, share: float) -> float:
    """The mean of both directions, where the branch has this share of the cosine."""

    def weighed(encoded: Encoded) -> Encoded:
        deep = encoded.rows[:, : -lexical.width] / np.sqrt(1 - lexical.share)
        linear = encoded.rows[:, -lexical.width :] / np.sqrt(lexical.share)
        return encoded._replace(rows=lexical._replace(share=share).joined(deep, linear))

    sides = query_sets(side.pool, weighed(side.text), weighed(side.mol))
    return float(np.mean([metrics(one.ranking())["mrr"] for one in sides]))


def fitted(config: Experiment, tokenizer: Tokenizer) -> Lexical:
    """The branch of an experiment's training pairs whose molecules are valid."""
    pairs = [pair for pair in load_pairs(config.data) if pair.split == "train"]
    features = config.features
    mols, kept, _ = molecule_table([p.smiles for p in pairs], features.molecule, features.motif)
    texts = text_table([pairs[i].text for i in kept], tokenizer, features.max_tokens)
    return fit_lexical(texts, mols.counts, config.train.lexical or WIDTH)


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("lexical", _fit, arguments)


def _fit(args: list[str]) -> int:
    chosen = cli.parse(Arguments, "lexical", args)
    fit(chosen.run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
