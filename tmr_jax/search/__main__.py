"""tmr search --run runs/NAME --library FILE "an aromatic amine" ...

In: a run (default: the shipped weights), a file or index of molecules or of descriptions, and
queries: descriptions, or SMILES with --molecule. Out: the best matches of each as a table, JSON or
CSV on standard output, and as a page with drawings with --html. Notes and progress go to standard
error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from tmr_jax import cli
from tmr_jax.types import UserError

if TYPE_CHECKING:
    from tmr_jax.index.schema import Filter
    from tmr_jax.search.retriever import Answer, Retriever

FORMS = ("csv", "sdf", "parquet", "json")
SHOWN = 3  # columns of the user's own in a table


@dataclass(frozen=True)
class Arguments:
    """Search for molecules or descriptions."""

    # Longer texts break where a terminal of 80 columns does: each break is one of the help, too.

    queries: tyro.conf.Positional[tuple[str, ...]]
    """Descriptions, each in quotes; with --molecule, SMILES."""
    run: Path | None = None
    """A run, e.g. runs/quickstart, or exported weights; default: those of tmr_jax."""
    library: Annotated[Path | None, tyro.conf.arg(aliases=["--index"])] = None
    """Molecules to search: .smi, .csv, .tsv, .parquet or .sdf,
    gzipped or not, - for standard input, or a folder of tmr
    index. Or descriptions: .txt, a table with --text-column,
    or their index. Default: the run's own test pool."""
    from_file: Path | None = None
    """More queries, one on each line; with --molecule a file of molecules."""
    texts: Path | None = None
    """Descriptions to search instead of molecules, one on each line: which fit a molecule?"""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """How many matches to show."""
    where: tuple[str, ...] = ()
    """Only molecules that meet all of these: "mw<500", charge=0,
    nitrile, "!nitro", unsalted (no salts), distinct (no
    duplicates), parents (one of those equal but for salt and
    charge), or a column of your file: "pIC50>7", Batch=A12,
    "Date>=2024-01-31". Descriptions take distinct and columns."""
    contains: str = ""
    """Only molecules with this substructure, a SMARTS such as c1ccccc1N; two seconds at most."""
    diversity: Annotated[float, tyro.conf.arg(aliases=["--spread"])] = 0.0
    """0 to 1: trade fit for structures that differ (maximal marginal relevance)."""
    pure: bool = False
    """By the model alone: what a query states, names or writes (a SMILES) changes nothing."""
    molecule: bool = False
    """The queries are SMILES: find similar molecules, or the descriptions that fit."""
    smiles_column: str = ""
    """Column of the SMILES in a table; by default the one called so, or that holds some."""
    text_column: str = ""
    """Column of descriptions, to search those."""
    name_column: str = ""
    """Column of the names in a table; default: SDF titles, or line numbers."""
    json: bool = False
    """Print JSON."""
    csv: bool = False
    """Print CSV; formulas begin with a quote."""
    sdf: bool = False
    """Print an SDF with coordinates of drawings."""
    out: Path | None = None
    """Write the matches to a .csv, .sdf, .parquet or .json file instead of printing them."""
    html: Path | None = None
    """Also write a page that shows the matches."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 3 while another process indexes the file; else see `cli`."""
    return cli.run("search", _search, arguments)


def _search(args: list[str]) -> int:
    chosen = cli.parse(Arguments, "search", args, config=(tyro.conf.FlagCreatePairsOff,))
    _check(chosen)
    retriever = open_retriever(chosen)
    where = retriever.where(chosen.where) if chosen.where else None
    answers, skipped = find(retriever, chosen, where)
    if chosen.html:
        write_page(chosen.html, answers, _about(retriever))
        _note(f"shown in {chosen.html}")
    if chosen.out:
        write_hits(chosen.out, answers, retriever)
        _note(f"{sum(len(answer.hits) for answer in answers):,} hits in {chosen.out}")
    elif chosen.json or chosen.csv or chosen.sdf:
        form = next(form for form in FORMS if getattr(chosen, form, False))
        print(_formatted(form, answers, retriever), end="")
    else:
        print_tables(answers, where)
    if skipped:
        raise UserError(
            f"expected {len(answers) + skipped:,} valid queries, got {skipped:,} invalid ones, "
            "named above; correct them"
        )
    return 0


def _check(chosen: Arguments) -> None:
    if not chosen.queries and chosen.from_file is None:
        taken = f", but {chosen.where[-1]!r} after --where" if chosen.where else ""
        place = ", before --where" if taken else ""
        raise UserError(
            f'expected a query, got none{taken}; add one in quotes{place}: "an aromatic amine"'
        )
    forms = [f"--{name}" for name in ("json", "csv", "sdf", "out") if getattr(chosen, name)]
    if len(forms) > 1:
        raise UserError(
            f"expected one form of output, got {' and '.join(forms)}; choose one of them"
        )
    if chosen.texts and chosen.library:
        raise UserError("expected one thing to search, got --texts and --library; leave one out")
    if chosen.k < 1:
        raise UserError(f"expected --k of at least 1, got {chosen.k}; ask for 10")
    for option, path in (("html", chosen.html), ("out", chosen.out)):
        if path and not path.parent.is_dir():
            raise UserError(
                f"expected a folder for {path.name}, got {str(path.parent)!r}, which does "
                f"not exist; create it, or give --{option} another place"
            )
    if chosen.out and chosen.out.suffix[1:] not in FORMS:
        raise UserError(
            f"expected --out with .{', .'.join(FORMS)}, got {chosen.out.name}; choose one of them"
        )


def open_retriever(chosen: Arguments) -> Retriever:
    """The run with the index to search; notes on standard error name skipped rows."""
    from tmr_jax.search.retriever import load

    retriever = load(chosen.run)
    if retriever.lacks_alpha:
        _note(f"no alpha chosen, so the denoiser is not used: first tmr eval --run {retriever.run}")
    if chosen.texts:
        retriever = retriever.with_texts([text for _, text in read_lines(chosen.texts)])
    elif chosen.library is None:
        protocol, smiles = _own_pool(retriever)
        _note(f"no --library: searching the {len(smiles):,} molecules of {protocol}")
        retriever = retriever.with_library(smiles)
    else:
        library = chosen.library
        if str(library) == "-":  # an index needs no reader of files
            from tmr_jax.data.readers import or_standard_input

            library = or_standard_input(library)
        columns = (chosen.smiles_column, chosen.name_column, chosen.text_column)
        retriever = retriever.with_library(library, *columns)
    account = retriever.library
    assert account is not None
    sdf = "--sdf" if chosen.sdf else f"--out {chosen.out}"
    if account.of_texts and (chosen.sdf or sdf.endswith(".sdf")):
        raise UserError(f"expected molecules for {sdf}, got descriptions; take --csv or --json")
    for note in account.notes:
        _note(note)
    if account.refused:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(account.refused.items()))
        _note(f"{account.kept:,} of {account.rows:,} rows are {account.of}; skipped: {reasons}")
    if retriever.is_partial:
        _note(f"a part of {chosen.library} cannot be read: tmr index check {chosen.library}")
    if account.kept < chosen.k:
        _note(f"the index has {account.kept:,} {account.of}, so {account.kept:,} are shown")
    return retriever


def _own_pool(retriever: Retriever) -> tuple[str, list[str]]:
    """The first test pool that the run names, else that of its data set, and its molecules."""
    from tmr_jax.data.pools import load_pool
    from tmr_jax.eval import protocols
    from tmr_jax.eval.leakage import own_test

    data, named = retriever.config.data, retriever.config.eval.protocols
    own = own_test(data, data)
    if not (named or own):
        raise UserError(
            "expected molecules to search, got no --library, and this run names no test pool; "
            "give --library a .smi, .csv or .sdf file"
        )
    source = protocols.find((*named, own)[0], own).source
    return source, list(load_pool(source, data).smiles)


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Place and content of the lines of a text file that are not blank; UserError without any."""
    from tmr_jax.data.files import open_lines

    try:
        with open_lines(path) as lines:
            found = [(f"line {lines.number}", text) for line in lines if (text := line.strip())]
    except OSError as error:
        raise UserError(
            f"expected a text file at {str(path)!r}, got {error}; correct it"
        ) from error
    if not found:
        raise UserError(f"expected at least one line of text in {str(path)!r}, got none; add some")
    return found


def read_queries(chosen: Arguments) -> list[tuple[str, str]]:
    """Every query, after where it is in --from-file; of the command line that place is empty."""
    said, path = [("", query) for query in chosen.queries], chosen.from_file
    if path is None:
        return said
    from tmr_jax.data.readers import holds_molecules, read_rows

    if chosen.molecule and holds_molecules(path):
        return said + [(f"line {row.line}", row.content) for row in read_rows(path)]
    return said + read_lines(path)


def find(
    retriever: Retriever, chosen: Arguments, where: Filter | None = None
) -> tuple[list[Answer], int]:
    """The answers, and how many queries of a file are skipped; notes name them on standard error.

    An invalid query of the command line is a UserError.
    """
    from tmr_jax.search.retriever import Query

    queries = read_queries(chosen)
    shown: Iterable[tuple[str, str]] = queries
    if len(queries) > 1:
        from tmr_jax.data.workers import track

        shown = track(queries, "searching", transient=True)
    options = (chosen.k, where, chosen.contains, chosen.diversity, chosen.pure)
    answers = []
    for place, content in shown:
        query = Query(content, "molecule" if chosen.molecule else "text", *options)
        (answer,) = retriever.answers([query])
        if isinstance(answer, ValueError):
            if not place:
                raise answer
            _note(f"skipped {place} of {chosen.from_file}: {answer}")
            continue
        if answer.query.of == "molecule" and not chosen.molecule:
            _note(f"read as a structure, so the hits are similar: {answer.query.content}")
        _note_on(answer, retriever.config.features.max_tokens)
        answers.append(answer)
    return answers, len(queries) - len(answers)


def _note_on(answer: Answer, tokens: int) -> None:
    from tmr_jax.search.retriever import UNSURE, CutShort

    start = repr(answer.query.content[:60])
    if answer.is_cut:
        _note(f"only the first {tokens} word pieces of a query are read: {start}...")
    if answer.is_unsure:
        _note(f"{UNSURE}: {start}")
    if answer.looked is not None:
        _note(f"{CutShort(answer.looked)} ({start})")


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _about(retriever: Retriever) -> dict[str, object]:
    library = retriever.library
    assert library is not None
    return {
        "checkpoint": retriever.checkpoint._asdict(),
        "library": library._asdict(),
        "score": "cosine of the embeddings",
    }


# Showing


def _formatted(form: str, answers: list[Answer], retriever: Retriever) -> str:
    """The answers in a form that other programs read."""
    from tmr_jax.search.export import to_csv, to_json, to_sdf

    if form == "json":
        return to_json(answers, _about(retriever)) + "\n"
    return to_csv(answers) if form == "csv" else to_sdf(answers)


def write_hits(path: Path, answers: list[Answer], retriever: Retriever) -> None:
    """Writes the answers in the form that the suffix says; UserError where it cannot be written."""
    from tmr_jax.data.files import replaced
    from tmr_jax.search.export import write_parquet

    try:
        with replaced(path) as partial:
            if path.suffix == ".parquet":
                write_parquet(partial, answers, retriever.columns)
            else:
                partial.write_text(_formatted(path.suffix[1:], answers, retriever), "utf-8")
    except OSError as error:
        raise UserError(
            f"expected to write the matches to {path}, got {error}; give --out another place"
        ) from error


def print_tables(answers: list[Answer], where: Filter | None = None) -> None:
    """One table for each query, as wide as the terminal.

    It has the first columns of the user's own, after those of the filter.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tmr_jax.index.schema import own_cells

    # In a file or a pipe nothing is cut to the width of a terminal.
    console = Console() if sys.stdout.isatty() else Console(width=10_000, safe_box=True)
    filtered = [condition.column for condition in where.own] if where else []
    for answer in answers:
        own = next((own_cells(hit) for hit in answer.hits), {})
        own = [*dict.fromkeys([*filtered, *own])][:SHOWN]
        shown = Table(
            title=Text(cli.printable(answer.query.content)), title_justify="left", box=None
        )
        refined = any(hit.refined is not None for hit in answer.hits)
        for name in ("rank", "score", "refined") if refined else ("rank", "score"):
            shown.add_column(name, justify="right")
        texts = any(hit.is_text for hit in answer.hits)
        for name in ("text" if texts else "SMILES", "name"):
            shown.add_column(name, overflow="fold")
        for name in own:
            shown.add_column(Text(cli.printable(name)), overflow="fold")
        for hit in answer.hits:
            second = [] if not refined else ["" if hit.refined is None else f"{hit.refined:.4f}"]
            numbers = [str(hit.rank), f"{hit.score:.4f}", *second]
            further = ["" if hit.columns[n] is None else str(hit.columns[n]) for n in own]
            cells = (*numbers, *map(cli.printable, (hit.content, hit.name, *further)))
            shown.add_row(*(Text(cell) for cell in cells))
        if answer.named:
            console.print(Text(cli.printable(str(answer.named))))
        if answer.facets:
            stated = ", ".join(answer.facets)
            console.print(Text(f"raised: molecules with {stated} (--pure: by the model alone)"))
        console.print(shown)


def write_page(path: Path, answers: list[Answer], about: dict[str, object]) -> None:
    """Writes the page; UserError where it cannot be written."""
    from tmr_jax.data.files import write_text
    from tmr_jax.search.export import to_html

    try:
        write_text(path, to_html(answers, about))
    except OSError as error:
        raise UserError(
            f"expected to write the page to {path}, got {error}; give --html another place"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
