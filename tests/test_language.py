"""Comments, docstrings and messages are in plain English and cite only what a reader can open.

The rules: present tense, subject first, the reader is "you", one term per thing (the glossary of
docs/papers.md). What a machine can check is here: words of private idiom, codes of notes that are
not in the repository, and the names of such notes.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    *sorted(p.name for p in (ROOT / "tmr_jax").iterdir() if (p / "__init__.py").is_file()),
    "root",
    "tools",
    "experiments",
)
PHRASES = re.compile(
    r"""\b(?:
          anew | beside | at\ hand | whoever | told | begun | hitherto | thereof
      | (?:by|with)\ the\ same\ words | (?:go|goes|went|gone)\ on\b(?!\s+to\b)
      | to\ (?:its|their)\ end
      | (?:is|are|was|were)\ no\ (?:molecule|number|folder|file|run|text|library|word|part)s?
      | what\ is\ no | none\ the\ worse | is\ held\ to | are\ held\ to | said\ so
      | so\ many\ (?:rows|times)\ as | other\ than\ those\ that | say\ (?:auto|--\S+)
      | of\ its\ own\ accord | so-manieth | by\ heart | is\ asked\ of | who\ (?:asks|opens|has\ no)
    )\b""",
    re.X | re.I,
)
# R16, A1.5, F22, S9: codes of notes that no reader has; "# 2.4": a section of one.
CODES = re.compile(r"\b(?:R\d{1,2}|A[1-5](?:\.\d+)?|[FS]\d{1,2})\b|^#\ ?\d\.\d\b|\(\d\.\d(?:,|\))")
NOTES = re.compile(r"\b(?:MODELS|FAULTS|STACK|DATA|USERS|MOVE|ACCELERATORS|ARCHITECTURE)\.md\b")
RULES = (PHRASES, CODES, NOTES)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of comments, docstrings, and strings that a user may see."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        visible: list[ast.AST] = []
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            visible = [node.value]  # docstrings, of fields too
        elif isinstance(node, ast.Raise) or (
            isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("print", "Error"))
        ):
            visible = [node]
        elif isinstance(node, ast.keyword) and node.arg in ("help", "description", "detail"):
            visible = [node.value]
        for one in visible:
            for part in ast.walk(one):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value


def files(folder: str) -> list[Path]:
    if folder == "root":
        return sorted((ROOT / "tmr_jax").glob("*.py"))
    place = ROOT / folder if folder in ("tools", "experiments") else ROOT / "tmr_jax" / folder
    return sorted(place.rglob("*.py"))


def findings(path: Path) -> list[str]:
    found = {
        (line, match[0]) for line, text in texts(path) for r in RULES for match in r.finditer(text)
    }
    return [f"{path.relative_to(ROOT)}:{line}: {word}" for line, word in sorted(found)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_code_is_in_plain_english(folder: str) -> None:
    found = [line for path in files(folder) for line in findings(path)]
    assert not found, "\n" + "\n".join(found)


PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_pages_are_in_plain_english(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    lines = enumerate(prose.splitlines(), 1)
    found = [f"{n}: {m[0]}" for n, line in lines for r in RULES for m in r.finditer(line)]
    assert not found, "\n" + "\n".join(found)


def test_no_test_cites_unpublished_notes() -> None:
    paths = (p for p in sorted((ROOT / "tests").rglob("*.py")) if p != Path(__file__).resolve())
    found = [
        f"{path.relative_to(ROOT)}:{line}: {match[0]}"
        for path in paths
        for line, text in texts(path)
        for match in NOTES.finditer(text)
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("a build that was stopped goes on by the same words", True),
        ("rows that are no molecule", True),
        ("# R16: ties", True),
        ("what FAULTS" + ".md says", True),
        ("Run the same command to resume an interrupted build.", False),
        ("an A100, H100 or F-test; docs/papers.md#decoder", False),
    ],
)
def test_the_rules_find_what_they_should(text: str, wrong: bool) -> None:
    assert any(rule.search(text) for rule in RULES) is wrong
