"""What no honest score may depend on (docs/papers.md#checks), through a real dual encoder."""

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from tmr_jax.config import Experiment, FeatureConfig, GraphEncoderConfig, ModelConfig, TrainConfig
from tmr_jax.data.batching import encode_batches_mol, encode_batches_text
from tmr_jax.data.features.graph import EDGE_SIZES, NODE_SIZES
from tmr_jax.data.features.text import Tokenizer
from tmr_jax.data.tables import apply_vocabulary, build_vocabulary, molecule_table, text_table
from tmr_jax.eval.pools import encode_pools, restored
from tmr_jax.eval.protocols import PAIR
from tmr_jax.eval.scores import query_sets, score_sides
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.run import TrainedModel, build_model
from tmr_jax.types import Pool

pytestmark = pytest.mark.usefixtures("optimized")

WORDS = ("acid", "alcohol", "ring", "chain", "amine", "ether", "ketone", "ester", "salt", "long")
BERT = BertConfig(vocab_size=5 + len(WORDS), hidden=16, layers=1, heads=2, intermediate=16)


def word_tokenizer():
    vocabulary = {
        w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    }
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return Tokenizer(inner)


def make_encoder(molecule, smiles):
    """A dual encoder with random weights as `tmr_jax.eval` sees a restored one."""
    config = Experiment(
        features=FeatureConfig(molecule=molecule),
        model=ModelConfig(
            dim=16,
            graph=GraphEncoderConfig(
                kind="gcn" if molecule == "morgan1" else "residual", layers=2, width=16
            ),
        ),
        train=TrainConfig(text_buckets=(8, 16, 32)),
    )
    tokenizer, vocabulary = word_tokenizer(), None
    table, _, _ = molecule_table(smiles, molecule, "none")
    if molecule == "morgan1":
        vocabulary = build_vocabulary(table)
        table, _ = apply_vocabulary(table, vocabulary)
    sizes = (NODE_SIZES, EDGE_SIZES) if vocabulary is None else ((1 + len(vocabulary[0]),), ())
    model = build_model(config.model, config.features, config.train, BERT, *sizes)
    texts = text_table(["acid ring"], tokenizer, 32)
    _, text = next(encode_batches_text(texts, 1, (8,), tokenizer.pad_token))
    _, mol = next(encode_batches_mol(table, 64))
    variables = jax.jit(
        lambda key: model.init(
            key, text, mol, method=lambda m, t, g: (m.encode_text(t), m.encode_molecule(g))
        )
    )(jax.random.key(0))
    # A fresh BERT says nearly the same of every text; stronger weights tell them apart.
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.3 * random.normal(size=x.shape).astype(x.dtype), variables["params"]
    )
    trained = TrainedModel(config, model, tokenizer, BERT, {}, vocabulary)
    return restored(trained, params, {})


def random_texts(count, seed):
    random = np.random.default_rng(seed)
    return tuple(" ".join(random.choice(WORDS, random.integers(2, 14))) for _ in range(count))


def amines(count):
    """Three substituents on a chain: at most 343 different molecules."""
    marks = ("F", "Cl", "Br", "I", "O", "S", "C")
    return tuple(
        f"NC({marks[i % 7]})C({marks[i // 7 % 7]})C({marks[i // 49]})C" for i in range(count)
    )


@pytest.fixture(scope="module")
def encoder():
    return make_encoder("ogb", amines(20))


def scores(encoder, pool):
    [(_, text, mol)], _ = encode_pools(encoder, [pool])
    return text.rows @ mol.rows.T


def test_fifty_texts_rank_333_molecules_and_back(encoder):
    random = np.random.default_rng(0)
    target = random.permutation(333)[:50]
    back = np.full(333, -1)
    back[target] = np.arange(50)
    pool = Pool("table/test", random_texts(50, 1), amines(333), target, back)
    [(pool, text, mol)], _ = encode_pools(encoder, [pool])
    t2m, m2t = (s for s in score_sides("x", query_sets(pool, text, mol)) if s.right == PAIR)
    assert (len(t2m.ranking.greater), t2m.ranking.pool_size) == (50, 333)
    assert (len(m2t.ranking.greater), m2t.ranking.pool_size) == (50, 50)
    all_scores = text.rows @ mol.rows.T
    for i, g in enumerate(t2m.ranking.greater):
        ahead = all_scores[i] - all_scores[i, target[i]]  # of a product of another shape
        assert (ahead > 1e-6).sum() <= g <= (ahead > -1e-6).sum()


def test_captions_of_other_molecules_change_no_score_of_a_text(encoder):
    index = np.arange(12)
    pool = Pool("table/test", random_texts(12, 2), amines(12), index, index)
    before = scores(encoder, pool)
    for i in (0, 5, 11):
        foreign = list(random_texts(12, 3))
        foreign[i] = pool.texts[i]
        after = scores(encoder, pool._replace(texts=tuple(foreign)))
        assert np.abs(before[i] - after[i]).max() <= 1e-5
        assert np.abs(np.delete(before - after, i, 0)).max() > 1e-2


def test_molecules_of_other_texts_change_no_score_of_a_molecule(encoder):
    index = np.arange(12)
    pool = Pool("table/test", random_texts(12, 2), amines(12), index, index)
    before = scores(encoder, pool)
    for j in (0, 5, 11):
        foreign = list(amines(60)[30:42])
        foreign[j] = pool.smiles[j]
        after = scores(encoder, pool._replace(smiles=tuple(foreign)))
        assert np.abs(before[:, j] - after[:, j]).max() <= 1e-5
        assert np.abs(np.delete(before - after, j, 1)).max() > 1e-2


def test_permuted_candidates_have_permuted_scores(encoder):
    index, order = np.arange(40), np.random.default_rng(4).permutation(40)
    pool = Pool("table/test", random_texts(40, 5), amines(40), index, index)
    shuffled = pool._replace(
        smiles=tuple(pool.smiles[i] for i in order),
        texts=tuple(pool.texts[i] for i in order),
    )
    before, after = scores(encoder, pool), scores(encoder, shuffled)
    assert np.abs(before[np.ix_(order, order)] - after).max() <= 1e-5


STEREO_TWINS = ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "F/C=C/Cl", "F/C=C\\Cl", "CCO", "OCC", "CCN")


@pytest.mark.costly
def test_stereo_twins_tie_exactly_under_morgan1():
    encoder = make_encoder("morgan1", STEREO_TWINS)
    target = np.arange(len(STEREO_TWINS))
    pool = Pool("table/test", random_texts(7, 6), STEREO_TWINS, target, target)
    [(pool, text, mol)], _ = encode_pools(encoder, [pool])
    assert mol.group.tolist() == [0, 0, 1, 1, 2, 2, 3]
    found = score_sides("x", query_sets(pool, text, mol))[0]
    assert found.ranking.equal.tolist() == [1, 1, 1, 1, 1, 1, 0]
    assert found.ceiling.hits1 == pytest.approx((6 / 2 + 1) / 7)


@pytest.mark.costly
def test_stereo_twins_are_told_apart_under_ogb():
    encoder = make_encoder("ogb", STEREO_TWINS)
    side, _ = encoder.molecules(list(STEREO_TWINS))
    assert side.group.tolist() == [0, 1, 2, 3, 4, 4, 5]
    assert np.array_equal(side.rows[4], side.rows[5])
    assert not np.array_equal(side.rows[0], side.rows[1])


def test_unknown_atoms_are_one_input_under_morgan1():
    encoder = make_encoder("morgan1", STEREO_TWINS)
    side, _ = encoder.molecules(["[Pd+2]", "CCO", "[Pt+2]"])
    assert side.group.tolist() == [0, 1, 0]
    assert np.array_equal(side.rows[0], side.rows[2])
