"""Filters that a query states in words, and what they do to the order of hits."""

from pathlib import Path

import pytest

import tmr_jax
from tmr_jax.data.features.properties import NAMED, mask_of, parts
from tmr_jax.eval.ood import OodDetector
from tmr_jax.index.schema import Filter, Hit, parse_filter
from tmr_jax.search.facets import LONGEST, WORDS, demanded, facets, fused, union
from tmr_jax.search.retriever import Query

STATED = [
    ("an aromatic amine with a chlorine atom", ["aromatic-amine", "chloride"]),
    ("a chlorinated aromatic amine", ["chloride", "aromatic-amine"]),
    ("a sulfonamide antibiotic", ["sulfonamide"]),
    ("organochlorine compounds without nitro groups", ["chloride", "!nitro"]),
    ("an ester, no salts, MW under 300", ["ester", "unsalted", "mw<300"]),
    ("molecular weight of at most 500 Da", []),  # two signs
    ("molecular weight at most 500 Da, at least 2 rings", ["mw<=500", "rings>=2"]),
    ("logP > 3 and a charge of -1", ["logp>3", "charge=-1"]),
    ("a quaternary ammonium salt", ["quaternary-ammonium"]),
    ("Boronic acids", ["boronic-acid"]),
    ("a carboxylic acid ester", ["carboxylic-acid", "ester"]),
    ("a thioester", ["thioester"]),
    ("a polyester of chloramphenicol", []),  # parts of longer words
    ("3 rings", []),  # exactly, at least?
    ("a nitrile and a cyano group", ["nitrile"]),
    ("an alkyl bromide", ["alkyl-bromide"]),
    ("a steroid with a ketone", ["steroid", "ketone"]),
    ("a sugar phosphate", ["sugar-phosphate"]),
    ("a macrocyclic lactone", ["macrocycle", "lactone"]),
    ("a purine nucleoside without pyridine rings", ["purine", "nucleoside", "!pyridine"]),
    ("a long-chain fatty acid, no amino acids", ["fatty-acid", "!amino-acid"]),
    ("an isothiocyanate or a quinoline", ["isothiocyanate", "quinoline"]),
    ("sodium chloride or potassium cyanide", []),  # of inorganic acids
    ("a drug", []),
    ("", []),
]


@pytest.mark.parametrize("text, stated", STATED, ids=[text for text, _ in STATED])
def test_what_a_query_states(text: str, stated: list[str]) -> None:
    assert [*facets(text)] == stated
    parse_filter(stated)


def test_a_longer_text_is_a_description() -> None:
    assert facets("a nitrile " * (LONGEST // 2)) and not facets("a nitrile " * LONGEST)


@pytest.mark.parametrize("name", WORDS)
def test_every_filter_exists_and_is_called_by_its_name(name: str) -> None:
    assert name in {*NAMED, "unsalted"}
    written = {"azo": "azo compound", "n-oxide": "n-oxide", "arene": "phenyl"}
    written |= {f"{root}ide": f"benzyl {root}ide" for root in ("fluor", "chlor", "brom", "iod")}
    assert name in facets(written.get(name, name.replace("-", " ")))


def test_a_query_s_own_filter_stays() -> None:
    own = parse_filter(["nitro", "mw<400", "distinct"])
    both = demanded(["nitrile", "mw<300"], own)
    assert both == parse_filter(["nitro", "nitrile", "mw<400", "mw<300", "distinct"])
    assert demanded(["!nitro"], None) == Filter(without=mask_of(["nitro"]))


def hit(number: int, score: float, *groups: str) -> Hit:
    return Hit(0, score, "C", "", None, number, parts(mask_of(groups)))


def test_all_hits_once_and_half_of_the_shortlist_is_of_the_raised() -> None:
    nearest = [hit(i, 0.9 - i / 100) for i in range(6)]
    raised = [nearest[4], *(hit(i, 0.5 - i / 100) for i in range(10, 15))]
    found = union(nearest, raised, 4)
    assert [h.id for h in found] == [0, 1, 4, 10, 2, 3, 5, 11, 12, 13, 14]
    assert [h.id for h in union(nearest, [], 4)] == [0, 1, 2, 3, 4, 5]
    assert [h.id for h in union(nearest[:1], raised, 4)][:4] == [0, 4, 10, 11]
    assert [h.id for h in union(nearest, raised, 0)][:6] == [0, 1, 2, 3, 4, 5]


def test_what_meets_the_filter_rises_and_nothing_is_lost() -> None:
    hits = [hit(0, 0.9), hit(1, 0.8), hit(2, 0.7, "nitrile"), hit(3, 0.6), hit(4, 0.5, "nitrile")]
    found = fused(hits, parse_filter(["nitrile"]))
    # 2: 1/63 + 1/61, 4: 1/65 + 1/62, then 1/61, 1/62, 1/64
    assert [h.id for h in found] == [2, 4, 0, 1, 3] and [h.rank for h in found] == [1, 2, 3, 4, 5]
    assert fused([], Filter()) == []


@pytest.fixture(scope="module")
def library(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tmr_jax.Retriever:
    path = tmp_path_factory.mktemp("facets") / "library.smi"
    carbons = ["C" * (i + 1) for i in range(12)]
    path.write_text("\n".join([*carbons, "CC#N", "CCC#N", "CC#N.Cl"]))
    return tmr_jax.load(tiny_run).with_library(path)


def test_a_search_raises_and_hides_nothing(library: tmr_jax.Retriever) -> None:
    pure = library.search("a nitrile, not a salt", 15, pure=True)
    assert [hit.score for hit in pure] == sorted((hit.score for hit in pure), reverse=True)
    found = library.search("a nitrile, not a salt", 15)
    assert {h.content for h in found} == {h.content for h in pure}
    assert {h.content for h in found[:2]} == {"CC#N", "CCC#N"}
    few = library.search("a nitrile, not a salt", 2)
    assert [h.content for h in few] == [h.content for h in found[:2]]
    heavy = library.search("a nitrile, not a salt", 15, parse_filter(["mw>50"]))
    assert heavy[0].content == "CCC#N" and "CC#N" not in [h.content for h in heavy]


def test_an_answer_says_what_raised_its_hits(library: tmr_jax.Retriever) -> None:
    asked = [Query("a nitrile"), Query("a nitrile", pure=True), Query("CC#N", "molecule")]
    asked += [Query("a nitrile", substructure="C#N"), Query("a nitrile", diversity=0.5)]
    answers = [*library.answers(asked)]
    assert [a.facets for a in answers] == [("nitrile",), (), (), (), ()]
    listed = library.with_library(["CC#N", "CCC"])
    (answer,) = listed.answers([Query("a nitrile")])
    assert answer.facets == () and len(answer.hits) == 2


def test_a_hit_with_all_that_is_stated_needs_no_score(
    library: tmr_jax.Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = library.encode_text(["an acid"])
    monkeypatch.setattr(library, "_detector", OodDetector(rows, 1, 2.0, trusted=2.0))
    asked = [Query(text) for text in ("a nitrile", "an azide", "some liquid")]
    asked += [Query("a nitrile", pure=True)]
    assert [a.is_unsure for a in library.answers(asked)] == [False, True, True, True]
