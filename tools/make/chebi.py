"""The files of the data set `chebi`, and a larger table of the same form from ChEBI's own file.

python -m tools.make.chebi package --tables FOLDER
    writes chebi_terms.tsv.gz, chebi_definitions.tsv.gz and CHEBI_LICENSE.md into the package, from
    ontology.tsv.gz and definitions.tsv.gz of FOLDER, and prints what parts.toml has of them.

python -m tools.make.chebi full --obo chebi.obo.gz --out chebi_full.tsv.gz
    makes the larger table. It needs one file, https://ftp.ebi.ac.uk/pub/databases/chebi/ontology/
    chebi.obo.gz: its terms carry SMILES, definition, classes, roles and relations. Relations and
    SMILES are read in the form of ChEBI 2.0 (RO:0000087, chemrof:smiles_string) and in the older
    one (has_role, http://purl.obolibrary.org/obo/chebi/smiles). Terms of three stars are used, as
    in ChEBI-20. The flags are computed from validation and test of ChEBI-20 (MolT5) and PCdes,
    which are located or downloaded. Train on it:
    --data.name table --data.table.path chebi_full.tsv.gz --data.table.text caption
    --data.table.smiles smiles --data.table.split column --data.table.split-column part
    --data.table.drop-column part --data.table.drop-values left_out

Parts of both tables: rows whose connectivity (InChIKey block 1) is in validation or test of
ChEBI-20 or PCdes carry the flags cv, ct, pv, pt. Train: rows without any flag. Test: the first
1,000 rows of kind `definition` flagged ct or pt, validation: the first 500 of those flagged only
cv or pv, in the order of the SHA-256 of their connectivity, then of their ChEBI number; a row whose
caption or SMILES another row has too is not drawn. All other rows are left out.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rdkit import Chem

from tmr_jax.config import DataConfig
from tmr_jax.data.datasets.chebi import (
    DEFINITIONS,
    FOLDER,
    LEFT_OUT,
    SEPARATOR,
    TERMS,
    Definition,
    Term,
)
from tmr_jax.data.datasets.iupac import blocks
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.files import open_binary, replaced, write_text
from tmr_jax.data.pools import load_pool
from tmr_jax.data.readers import read_table

LICENCE = "CHEBI_LICENSE.md"
TEST, VALIDATION = 1_000, 500  # rows
FLAGS = {
    "cv": "chebi20-molt5/validation",
    "ct": "chebi20-molt5/test-split",
    "pv": "pcdes/file-order-validation",
    "pt": "pcdes/file-order",
}


class Keyed(NamedTuple):
    """A term and the connectivity of its molecule; "": it has no InChIKey."""

    term: Term
    block: str


# Parts


def with_parts(rows: Sequence[Keyed]) -> list[Term]:
    """The terms with their parts, by the rule above, in the same order.

    A row without an InChIKey is left out: whether it is in an evaluation set is not known.
    """
    captions = Counter(row.term.caption for row in rows)
    molecules = Counter(row.term.smiles for row in rows)
    parts = ["train" if r.block and not r.term.eval_skeletons else LEFT_OUT for r in rows]
    drawn: dict[str, list[int]] = {"test": [], "validation": []}
    for i, (term, _) in enumerate(rows):
        flags = set(term.eval_skeletons.split())
        alone = captions[term.caption] == molecules[term.smiles] == 1
        if flags and alone and term.kind == "definition":
            drawn["test" if flags & {"ct", "pt"} else "validation"].append(i)
    for part, size in (("test", TEST), ("validation", VALIDATION)):
        for i in sorted(drawn[part], key=lambda i: _order(rows[i]))[:size]:
            parts[i] = part
    return [row.term._replace(part=part) for row, part in zip(rows, parts, strict=True)]


def _order(row: Keyed) -> tuple[str, int]:
    return hashlib.sha256(row.block.encode()).hexdigest(), _number(row.term.chebi_id)


def _number(chebi_id: str) -> int:
    return int(chebi_id.removeprefix("CHEBI:"))


def account(terms: Sequence[Term]) -> str:
    """Rows by part and kind, and the texts that several training rows share."""
    counts = Counter((term.part, term.kind) for term in terms)
    lines = [f"{part:11} {kind:14} {n:7,}" for (part, kind), n in sorted(counts.items())]
    trained = Counter(term.caption for term in terms if term.part == "train")
    shared = [n for n in trained.values() if n > 1]
    return "\n".join(
        [
            *lines,
            f"{'all':26} {len(terms):7,}",
            f"texts of several training rows: {len(shared):,}, in {sum(shared):,} rows, "
            f"the most common one in {max(shared, default=0):,}",
        ]
    )


# Writing


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Writes a gzipped TSV, the same bytes for the same rows; returns SHA-256 of its content."""
    text = "".join("\t".join(row) + "\n" for row in (columns, *rows))
    content = text.encode("utf-8")
    with replaced(path) as partial:
        partial.write_bytes(gzip.compress(content, 9, mtime=0))
    return f"{hashlib.sha256(content).hexdigest()} {len(content):_}"


# The files of the package


def package(tables: Path, folder: Path = FOLDER) -> None:
    """Writes the files of the package and prints their hashes and the rows by part."""
    rows, sources = package_rows(tables / "ontology.tsv.gz")
    terms = with_parts(rows)
    definitions = (c.values for c in read_table(tables / "definitions.tsv.gz", Definition._fields))
    written = {
        TERMS: write_table(folder / f"{TERMS}.gz", Term._fields, terms),
        DEFINITIONS: write_table(folder / f"{DEFINITIONS}.gz", Definition._fields, definitions),
    }
    for name, pins in written.items():
        sha256, size = pins.split()
        print(f'[chebi."{name}"]\nsha256 = "{sha256}"\nsize = {size}\n')
    write_text(folder / LICENCE, licence(sources))
    print(account(terms))


def package_rows(path: Path) -> tuple[list[Keyed], dict[str, str]]:
    """The rows of ontology.tsv, and the source of the text by its code, most frequent first."""
    columns = [f for f in Term._fields if f not in ("smiles", "part")] + ["SMILES", "inchikey"]
    rows = [dict(zip(columns, c.values, strict=True)) for c in read_table(path, columns)]
    counts = Counter(row["text_source"] for row in rows)
    order = sorted(counts, key=lambda source: (-counts[source], source))
    codes = {source: str(number) for number, source in enumerate(order, 1)}
    keyed = []
    for row in rows:
        fields = {name: row.get(name, "") for name in Term._fields}
        fields |= {"smiles": row["SMILES"], "text_source": codes[row["text_source"]]}
        keyed.append(Keyed(Term(**fields), row["inchikey"][:14]))
    return keyed, {code: source for source, code in codes.items()}


def licence(sources: Mapping[str, str]) -> str:
    """The licence that the package has, whose last table are the codes of these sources."""
    text = (FOLDER / LICENCE).read_text("utf-8")
    rows = "".join(f"| {code} | {source} |\n" for code, source in sources.items())
    return text[: text.rindex("|---|---|\n")] + "|---|---|\n" + rows


# The larger table


ROLE = "It has a role as"
# What a caption says of its relations, in order, and their names in ChEBI 2.0 and before.
RELATIONS = {
    ROLE: ("RO:0000087", "has_role"),
    "It is an enantiomer of": ("RO:0018039", "is_enantiomer_of"),
    "It is a tautomer of": ("RO:0018036", "is_tautomer_of"),
    "It derives from": ("RO:0018038", "has_functional_parent"),
    "It derives from a hydride of": ("RO:0018040", "has_parent_hydride"),
    "It is a conjugate base of": ("RO:0018033", "is_conjugate_base_of"),
    "It is a conjugate acid of": ("RO:0018034", "is_conjugate_acid_of"),
    "It contains": ("BFO:0000051", "has_part"),
}
PREDICATES = {name: words for words, names in RELATIONS.items() for name in names}


def caption(definition: str, classes: Sequence[str], relations: Mapping[str, Sequence[str]]) -> str:
    """The text of a term, in the wording and order of ChEBI-20's descriptions.

    `relations` has the names of the terms that it points to by the words of `RELATIONS`.

    >>> caption("A dipeptide.", ["amide"], {ROLE: ["human metabolite"]})
    'The molecule is a dipeptide. It has a role as a human metabolite. It is an amide.'
    >>> caption("", ["amine", "phenol"], {})
    'The molecule is an amine and a phenol.'
    """
    sentences = [
        f"{words} {listed(relations[words])}." for words in RELATIONS if words in relations
    ]
    if not definition:
        first = [f"The molecule is {listed(classes)}."] if classes else []
        return " ".join([*first, *sentences])
    if re.match(r"(A|An|Any|The|One)\s", definition):
        definition = definition[0].lower() + definition[1:]
    if classes:  # the roles come before what it is
        sentences.insert(ROLE in relations, f"It is {listed(classes)}.")
    return " ".join([f"The molecule is {definition.removesuffix('.')}.", *sentences])


def listed(names: Sequence[str]) -> str:
    """a first, a second and an other"""
    *most, last = [f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}" for name in names]
    return f"{', '.join(most)} and {last}" if most else last


Stanza = dict[str, list[str]]  # values by tag


def read_obo(path: Path) -> Iterator[Stanza]:
    """The stanzas [Term] of an OBO file that are not obsolete."""
    stanza: Stanza | None = None
    with open_binary(path) as file:
        for line in (raw.decode("utf-8").strip() for raw in file):
            if line.startswith("["):
                if stanza and "is_obsolete" not in stanza:
                    yield stanza
                stanza = defaultdict(list) if line == "[Term]" else None
            elif stanza is not None and ": " in line:
                tag, _, value = line.partition(": ")
                stanza[tag].append(value)
    if stanza and "is_obsolete" not in stanza:
        yield stanza


def full(obo: Path, out: Path, evaluated: Mapping[str, Iterable[str]] | None = None) -> None:
    """Writes the larger table and prints the rows by part and the terms that have none, by reason.

    `evaluated` gives the SMILES of each evaluation set by its flag; None: those of FLAGS.
    """
    evaluated = evaluated_molecules() if evaluated is None else evaluated
    stanzas = {s["id"][0]: s for s in read_obo(obo)}
    names = {key: _unescaped(s["name"][0]) for key, s in stanzas.items() if s["name"]}
    refused: Counter[str] = Counter()
    terms = []
    for stanza in stanzas.values():
        found = full_term(stanza, names)
        if isinstance(found, Term):
            terms.append(found)
        else:
            refused[found] += 1
    terms = with_parts(flagged(terms, evaluated))
    write_table(out, Term._fields, terms)
    print(account(terms))
    for reason, count in sorted(refused.items()):
        print(f"{'no row: ' + reason:26} {count:7,}")


def full_term(stanza: Stanza, names: Mapping[str, str]) -> Term | str:
    """The row of a term, without flags and part; or the reason why it has none."""
    if not any(subset.startswith("3") for subset in stanza["subset"]):
        return "fewer than three stars"
    smiles = _smiles(stanza)
    if not smiles:
        return "no structure"
    if "*" in smiles:
        return "wildcard atoms"
    try:
        smiles = Chem.MolToSmiles(parse_smiles(smiles))
    except BadMolecule as error:
        return error.reason
    classes = [names[key] for key, *_ in map(str.split, stanza["is_a"]) if key in names]
    relations = _relations(stanza, names)
    definition = _quoted(stanza["def"][0]) if stanza["def"] else ""
    text = caption(definition, classes, relations)
    if not text:
        return "no text"
    roles = relations.get(ROLE, [])
    kind = "definition" if definition else "classes+roles" if roles else "classes"
    key = stanza["id"][0]
    return Term(
        chebi_id=key,
        name=names[key],
        smiles=smiles,
        kind=kind,
        part="",
        eval_skeletons="",
        structure_source="chebi",
        text_source="chebi",
        classes=SEPARATOR.join(classes),
        roles=SEPARATOR.join(roles),
        caption=text,
    )


def flagged(terms: Sequence[Term], evaluated: Mapping[str, Iterable[str]]) -> list[Keyed]:
    """The terms with the flags of the evaluation sets that hold their connectivity."""
    held = {flag: {*blocks(list(smiles))} - {""} for flag, smiles in evaluated.items()}
    rows = []
    for term, block in zip(terms, blocks([t.smiles for t in terms]), strict=True):
        flags = " ".join(flag for flag in sorted(held) if block in held[flag])
        rows.append(Keyed(term._replace(eval_skeletons=flags), block))
    return rows


def evaluated_molecules() -> dict[str, tuple[str, ...]]:
    """SMILES of the evaluation sets by flag. Errors: MissingPart."""
    return {flag: load_pool(name, DataConfig()).smiles for flag, name in FLAGS.items()}


def _relations(stanza: Stanza, names: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for value in stanza["relationship"]:
        predicate, target, *_ = value.split()
        if predicate in PREDICATES and target in names:
            found[PREDICATES[predicate]].append(names[target])
    return dict(found)


def _smiles(stanza: Stanza) -> str:
    for value in stanza["property_value"]:
        predicate, _, rest = value.partition(" ")
        if predicate.lower().endswith(("smiles", "smiles_string")):
            return rest.split('"')[1]  # RDKit reads a backslash that OBO doubles as one
    return ""


def _quoted(value: str) -> str:
    """The text between the first quotes of a value, white space collapsed."""
    match = re.match(r'"((?:[^"\\]|\\.)*)"', value)
    return _unescaped(match[1]) if match else ""


def _unescaped(value: str) -> str:
    return " ".join(re.sub(r"\\(.)", lambda m: " " if m[1] in "nt" else m[1], value).split())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.make.chebi", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    files = commands.add_parser("package", help="the files of the package")
    files.add_argument("--tables", type=Path, required=True)
    larger = commands.add_parser("full", help="a larger table, from ChEBI's ontology file")
    larger.add_argument("--obo", type=Path, required=True)
    larger.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    if chosen.command == "package":
        package(chosen.tables)
    else:
        full(chosen.obo, chosen.out)


if __name__ == "__main__":
    main()
