"""Every link in the documentation, and every section of it that code cites, exists."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "experiments" / "README.md")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CITED = re.compile(r"\bdocs/\w+\.md(?:#[\w-]+)?")


@cache
def anchors(page: Path) -> frozenset[str]:
    """Explicit ids, and headings as GitHub names them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    slugs = (re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings)
    return frozenset((*slugs, *re.findall(r'<a id="([^"]+)">', text)))


def broken(target: str, folder: Path, page: Path) -> bool:
    path, _, anchor = target.partition("#")
    file = (folder / path).resolve() if path else page
    return not file.exists() or bool(anchor and anchor not in anchors(file))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    local = [t for t in targets if not t.startswith(("https://", "http://"))]
    assert [t for t in local if broken(t, page.parent, page)] == []


def test_citations_in_code_lead_somewhere() -> None:
    """A citation may be split over two lines only between words."""
    files = ("*.py", "*.toml", "Makefile", "*.html")
    done = subprocess.run(
        ["git", "grep", "-nIE", r"docs/\w+\.md", "--", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr  # 1: nothing is cited
    wrong = [
        line
        for line in done.stdout.splitlines()
        if not line.startswith("tests/test_links.py")
        and any(broken(target, ROOT, ROOT) for target in CITED.findall(line))
    ]
    assert wrong == []
