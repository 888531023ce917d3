"""Texts taken apart: what divides, what does not, and what each part says alone."""

from __future__ import annotations

import pytest

from tmr_jax.data.features.clauses import clauses, sentences


@pytest.mark.parametrize(
    "text, found",
    [
        ("It is a toxin of E. coli. It is a drug.", ["It is a toxin of E. coli.", "It is a drug."]),
        ("Made by a Streptomyces sp. KORDI-3238.", ["Made by a Streptomyces sp. KORDI-3238."]),
        ("Made by a Streptomyces sp. It is new.", ["Made by a Streptomyces sp.", "It is new."]),
        (
            "An EC 3.1.1.7 inhibitor (b.p. 40degreeC).",
            ["An EC 3.1.1.7 inhibitor (b.p. 40degreeC)."],
        ),
        ("It is (see Bioorg. Med. Chem. Lett.) it.", ["It is (see Bioorg. Med. Chem. Lett.) it."]),
        ("Of acetic acid.A new drug.", ["Of acetic acid.", "A new drug."]),
        ("A carbonyl.2-Methylpentanal is new.", ["A carbonyl.", "2-Methylpentanal is new."]),
        ("A spiro[4. 5]decane. 2-Octanol is new.", ["A spiro[4. 5]decane.", "2-Octanol is new."]),
        ("At pH 7.3 It is a base.", ["At pH 7.3", "It is a base."]),
        ("it is new. it is also old.", ["it is new.", "it is also old."]),
        ("Compound A. Isolated from figs. ", ["Compound A.", "Isolated from figs."]),
        (" . ", []),
    ],
)
def test_sentences(text: str, found: list[str]) -> None:
    assert sentences(text) == found


def test_each_item_of_a_relation_is_a_query() -> None:
    roles = "It has a role as a toxin, an EC 3.1.1.7 (an acid, a base) inhibitor and a drug."
    assert clauses(roles) == [
        "a toxin",
        "an EC 3.1.1.7 (an acid, a base) inhibitor",
        "a drug",
    ]
    classes = "It is a member of phenols, a 3-oxo-Delta(4) steroid and an aromatic ether."
    assert clauses(classes) == ["phenols", "a 3-oxo-Delta(4) steroid", "an aromatic ether"]
    assert clauses("It is a conjugate acid of an X(1-) and a Y(2-).") == [
        "a conjugate acid of an X(1-)",
        "a conjugate acid of a Y(2-)",
    ]
    assert clauses("It derives from a hydride of a pregnane.") == [
        "derives from a hydride of a pregnane"
    ]


def test_a_first_sentence_is_a_class_and_its_details() -> None:
    assert clauses(
        "The molecule is a member of the class of indoles that is 1H-indole, with 2,3-dihydroxy "
        "groups; major species at pH 7.3. It has been isolated from Poria cocos."
    ) == [
        "indoles",
        "1H-indole, with 2,3-dihydroxy groups",
        "major species at pH 7.3",
        "isolated from Poria cocos",
    ]
    assert clauses("The molecule is a diglyceride in which both acyl groups are oleoyl.") == [
        "a diglyceride",
        "a diglyceride in which both acyl groups are oleoyl",
    ]
    whole = "isoquinoline in which a hydrogen is replaced by a hydroxy group"
    assert clauses(f"The molecule is {whole}.") == [whole]
    assert clauses("It is a phenol, a substituted aniline and a drug.") == [
        "a phenol",
        "a substituted aniline",
        "a drug",
    ]


def test_what_has_another_subject_stays_whole() -> None:
    text = "Isolated from figs, it is a drug. Tubercidin is made by a fungus. (NTP, 1992)"
    assert clauses(text) == ["Isolated from figs, it is a drug", "Tubercidin is made by a fungus"]
    assert clauses("It is a drug. It has a role as a drug.") == ["a drug"]
