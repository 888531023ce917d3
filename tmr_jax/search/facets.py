"""Filters that a short query states in words: groups, classes, properties, salts, what is absent.

In: the text of a query. Out: the filters that parse_filter takes, in the order of the text. A
search ranks molecules that meet all of them together with the nearest ones, so that they rise and
nothing is hidden; a page offers them as filters. A filter is decided by the structure alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Bool

from tmr_jax.data.features.properties import CLASSES
from tmr_jax.index.schema import COLUMNS, Filter, Hit, meets, parse_filter, ranked

CONSTANT = 60  # of reciprocal rank fusion (Cormack et al. 2009)
RINGS = (
    *("indole", "quinoline", "isoquinoline", "pyridine", "pyrimidine", "pyrazine", "purine"),
    *("pyrrole", "imidazole", "pyrazole", "triazole", "tetrazole", "thiazole", "oxazole"),
    *("thiophene", "furan", "piperidine", "piperazine", "morpholine", "naphthalene"),
)
LONGEST = 16  # words; a longer text is a description, whose groups may be those of a relative


def _halogen(root: str) -> str:
    bound = rf"{root}(?:ine(?: atoms?)?|o|inated)|organo{root}ines?(?: compounds?)?"
    return rf"{bound}|(?:alkyl|aryl|benzyl|vinyl|allyl|acyl|organic) {root}ides?"


# Filter -> what it is called. "Sodium chloride" and "potassium cyanide" are of inorganic acids:
# such words count only after what makes them organic.
WORDS = {
    "alcohol": r"alcohols?|alkanols?",
    "phenol": r"(?:poly)?phenols?|phenolic",
    "thiol": r"thiols?|mercaptans?|sulfhydryls?",
    "ether": r"ethers?",
    "thioether": r"thio-?ethers?|(?<!di)sulfides?",
    "disulfide": r"di-?sulfides?",
    "peroxide": r"peroxides?",
    "epoxide": r"epoxides?|oxiranes?",
    "aldehyde": r"aldehydes?|formyl groups?",
    "ketone": r"ketones?|keto groups?",
    "carboxylic-acid": r"(?:mono|di|tri|tetra)?carboxylic acids?|carboxy groups?",
    "carboxylate": r"carboxylates?",
    "lactone": r"lactones?",
    "anhydride": r"(?:acid |acyl )?anhydrides?",
    "acyl-halide": r"(?:acyl|acid) (?:halides?|chlorides?)",
    "primary-amide": r"primary (?:carbox)?amides?",
    "amide": r"(?:carbox)?amides?",
    "lactam": r"lactams?",
    "imide": r"(?:di)?imides?",
    "urea": r"ureas?",
    "carbamate": r"carbamates?|urethanes?",
    "carbonate": r"(?:dialkyl |organic )?carbonates?",
    "thioester": r"thio-?esters?",
    "thioamide": r"thio-?amides?",
    "ester": r"(?:methyl |ethyl |carboxylic )?esters?",
    "primary-amine": r"primary amin(?:es?|o groups?)",
    "secondary-amine": r"secondary amin(?:es?|o groups?)",
    "tertiary-amine": r"tertiary amin(?:es?|o groups?)",
    "aromatic-amine": r"(?:aromatic|aryl) ?amines?|anilines?",
    "quaternary-ammonium": r"quaternary (?:ammonium(?: salts?| ions?| compounds?)?|amines?)",
    "ammonium": r"ammonium(?: salts?| ions?| compounds?)?",
    "imine": r"imines?",
    "amidine": r"amidines?",
    "guanidine": r"guanidines?",
    "nitrile": r"(?:organo)?nitriles?|cyano(?: groups?| compounds?)?",
    "isocyanate": r"isocyanates?",
    "azide": r"azid(?:es?|o groups?)",
    "azo": r"azo (?:compounds?|groups?|dyes?)",
    "hydrazine": r"hydrazines?",
    "hydrazone": r"hydrazones?",
    "oxime": r"oximes?",
    "hydroxylamine": r"hydroxylamines?",
    "nitro": r"nitro(?: groups?| compounds?)?|nitroarenes?|nitroaromatics?",
    "nitroso": r"nitroso(?: groups?| compounds?)?",
    "n-oxide": r"n-oxides?",
    "sulfoxide": r"sulfoxides?",
    "sulfone": r"sulfones?",
    "sulfonamide": r"sul(?:f|ph)onamides?|sulfa drugs?",
    "sulfonic-acid": r"sulfonic acids?|sulfonates?",
    "sulfate": r"sulfates?|sulphates?|sulfuric esters?",
    "phosphonate": r"phosphonates?|phosphonic acids?",
    "phosphate": r"(?:organo)?phosphates?|phosphoric esters?",
    "boronic-acid": r"boronic acids?",
    "boronic-ester": r"boronic esters?|boronates?(?: esters?)?",
    "trifluoromethyl": r"trifluoromethyl(?: groups?)?|cf3",
    **{f"{of}-{x}": rf"{of} {x}s?" for of in ("alkyl", "aryl") for x in ("chloride", "bromide")},
    "fluoride": _halogen("fluor"),
    "chloride": _halogen("chlor"),
    "bromide": _halogen("brom"),
    "iodide": _halogen("iod"),
    "alkene": r"alkenes?|olefins?",
    "alkyne": r"alkynes?|acetylenes?",
    "arene": r"benzene rings?|phenyl(?: groups?| rings?)?",
    "heteroarene": r"heteroarenes?|heteroaromatics?|heteroaryls?",
    "metal": r"metals?|organometallics?|metal complex(?:es)?",
    "hydroperoxide": r"hydro-?peroxides?",
    "isothiocyanate": r"iso-?thiocyanates?",
    "organoselenium": r"organoselenium(?: compounds?)?|selen(?:ides?|ols?)",
    "organosilicon": r"organosilicon(?: compounds?)?|silanes?|siloxanes?|silyl ethers?",
    "steroid": r"steroids?|steroidal|sterols?",
    "bile-acid": r"bile (?:acids?|salts?)",
    "dipeptide": r"di-?peptides?",
    "tripeptide": r"tri-?peptides?",
    "peptide": r"(?:oligo|poly|cyclo|cyclic )?peptides?",
    "amino-acid": r"(?:alpha-)?amino acids?",
    "fatty-acid": r"(?:unsaturated |saturated |\w+-chain )?fatty acids?",
    "triglyceride": r"triglycerides?|triacylglycerols?",
    "glycerophospholipid": r"(?:glycero)?phospholipids?",
    "ceramide": r"ceramides?",
    "sugar-phosphate": r"(?:sugar|hexose|pentose|monosaccharide) phosphates?",
    "disaccharide": r"disaccharides?",
    "sugar": r"sugars?|carbohydrates?|glycosides?|(?:mono|oligo|poly)?saccharides?",
    "glucuronide": r"glucuronides?",
    "nucleotide": r"nucleotides?",
    "nucleoside": r"nucleosides?",
    "macrocycle": r"macrocycl(?:es?|ic)|macrolides?|macrolactams?",
    "beta-lactam": r"(?:beta|β)[- ]?lactams?",
    "penicillin": r"penicillins?|penams?",
    "cephalosporin": r"cephalosporins?|cephems?",
    "barbiturate": r"barbiturates?",
    "benzodiazepine": r"benzodiazepines?",
    "isoflavone": r"isoflavones?",
    "flavone": r"flavones?",
    "flavonoid": r"(?:bi)?flavonoids?|flavanones?|flavonols?",
    "coumarin": r"coumarins?",
    "anthraquinone": r"anthraquinones?",
    "quinone": r"(?:benzo|naphtho)?quinones?",
    "porphyrin": r"porphyrins?",
    "carotenoid": r"carotenoids?|carotenes?",
    "alkane": r"(?:straight-chain |linear |branched )?alkanes?",
    "tryptamine": r"tryptamines?",
    "phenethylamine": r"phen(?:yl)?ethylamines?",
    **{name: rf"{name}s?(?: rings?)?" for name in RINGS},
    "unsalted": r"(?:no|not a|without|exclud\w+) salts?|salt[- ]free|unsalted",
}
_ABSENT = r"(?:no|not|without|lacking|non|free of|excluding|except)[ -](?:an? |any )?"
_PROPERTIES = {
    "mw": r"mw|mol(?:ecular|ar)? ?(?:weight|mass)|mol\.? ?wt",
    "logp": r"c?log ?p",
    "tpsa": r"tpsa|polar surface(?: area)?",
    "hbd": r"hbd|(?:h-?bond |hydrogen[- ]bond )?donors?",
    "hba": r"hba|(?:h-?bond |hydrogen[- ]bond )?acceptors?",
    "rings": r"rings?",
    "heavy_atoms": r"heavy atoms?",
    "charge": r"(?:net )?charge",
}
_SIGNS = {
    "<=": r"at most|up to|no more than|maximum(?: of)?|max|<=|≤",
    ">=": r"at least|no less than|minimum(?: of)?|min|>=|≥",
    "<": r"under|below|less than|smaller than|lower than|fewer than|<",
    ">": r"over|above|more than|greater than|larger than|higher than|>",
    "=": r"of|equal to|is|=|exactly",
}
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_UNIT = r"(?: ?(?:g/mol|da|daltons?|a2|å2|å²))?"


def facets(text: str) -> tuple[str, ...]:
    """The filters that a short query states, each once; none for a longer text.

    >>> facets("a chlorinated aromatic amine, no nitro, MW under 300")
    ('chloride', 'aromatic-amine', '!nitro', 'mw<300')
    """
    words = text.lower().split()
    if len(words) > LONGEST:
        return ()
    return tuple(dict.fromkeys(map(_where, _pattern().finditer(" ".join(words)))))


def without_classes(stated: Sequence[str]) -> tuple[str, ...]:
    """The facets that an index without classes can decide."""
    return tuple(name for name in stated if name.removeprefix("!") not in CLASSES)


def demanded(stated: Sequence[str], where: Filter | None) -> Filter:
    """The filter of molecules that have all facets, on top of the query's own filter."""
    facets, own = parse_filter(stated), where or Filter()
    return own._replace(
        conditions=own.conditions + facets.conditions,
        groups=own.groups | facets.groups,
        without=own.without | facets.without,
        unsalted=own.unsalted or facets.unsalted,
    )


def union(nearest: Sequence[Hit], raised: Sequence[Hit], shortlist: int) -> list[Hit]:
    """All hits, each once: first a shortlist for a second stage, half of it of `raised`.

    The shortlist and the rest are each in the order of the cosine.
    """
    every = {hit.id: hit for hit in (*raised, *nearest)}
    first = raised[: max(shortlist // 2, shortlist - len(nearest))]
    short = {*[*dict.fromkeys(hit.id for hit in (*first, *nearest))][:shortlist]}
    order = sorted(every.values(), key=lambda hit: (hit.id not in short, -hit.score, hit.id))
    return ranked(order)


def fused(hits: Sequence[Hit], where: Filter) -> list[Hit]:
    """The hits by reciprocal rank fusion of their order and of the order of those that meet it."""
    met, place = met_by(hits, where), np.arange(1, len(hits) + 1)
    score = 1 / (CONSTANT + place) + np.where(met, 1 / (CONSTANT + met.cumsum()), 0)
    return ranked([hits[i] for i in np.argsort(-score, kind="stable")])


def met_by(hits: Sequence[Hit], where: Filter) -> Bool[np.ndarray, " n"]:
    """Which hits meet a filter."""
    if not hits:
        return np.zeros(0, bool)
    names = [name for name in COLUMNS if name in hits[0].columns]
    return meets({name: np.array([hit.columns[name] for hit in hits]) for name in names}, where)


@cache
def _pattern() -> re.Pattern[str]:
    """ "MW under 300", "at least 2 rings", or a group; `_where` reads what its parts matched."""
    properties, signs, groups = map(_any, (_PROPERTIES, _SIGNS, WORDS))
    return re.compile(
        rf"(?<!\w)(?:(?P<before>{properties}) ?(?P<sign>{signs}) ?(?P<number>{_NUMBER}){_UNIT}"
        rf"|(?P<first>{signs}) ?(?P<count>{_NUMBER}) ?(?P<after>{properties})"
        rf"|(?P<absent>{_ABSENT})?(?P<group>{groups}))(?![\w-])"
    )


def _any(names: dict[str, str]) -> str:
    return "|".join(names.values())


def _where(match: re.Match[str]) -> str:
    if match["group"]:
        name = _name(WORDS, match["group"])
        return f"!{name}" if match["absent"] and name != "unsalted" else name
    name = _name(_PROPERTIES, match["before"] or match["after"])
    sign = _name(_SIGNS, match["sign"] or match["first"])
    return f"{name}{sign}{match['number'] or match['count']}"


def _name(names: dict[str, str], written: str) -> str:
    """What is written so."""
    return next(name for name, words in names.items() if re.fullmatch(words, written))
