"""The page in a real Chromium, on a real run: what a chemist does, from the first sentence on.

Nothing may leave the machine, and nothing may go wrong in the browser's own log.
"""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH")

LIBRARY = """CCO ethanol
Nc1ccccc1 aniline
Nc1ccc(Cl)cc1 4-chloroaniline
CC(=O)O acetic acid
C[N+](=O)[O-] nitromethane
O=[N+]([O-])c1ccccc1 nitrobenzene
CCN <b>ethylamine</b>
"""


CORPUS = "An aromatic amine.\nAn <b>alcohol</b> of two carbons.\nA salt.\n"


@pytest.fixture(scope="module")
def address(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    library = tmp_path_factory.mktemp("page") / "my.smi"
    library.write_text(LIBRARY)
    with served(tiny_run, library) as found:
        yield found


@contextlib.contextmanager
def served(run: Path, library: Path) -> Iterator[str]:
    words = ["--run", str(run), "--library", str(library), "--port", "0", "--rate", "0"]
    command = [sys.executable, "-m", "tmr_jax.serve", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Serving at http://127.0.0.1:"), line
    yield line.split()[2]
    process.terminate()
    assert process.wait(15) == 0
    process.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        offline = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        opened = play.chromium.launch(executable_path=CHROMIUM, args=offline)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address: str) -> Iterator:
    context = browser.new_context(viewport={"width": 1180, "height": 900}, reduced_motion="reduce")
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    page = context.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: message.type == "error" and said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.set_default_timeout(15_000)
    page.goto(address)
    yield page
    assert asked and all(url.startswith((address, "about:", "data:")) for url in asked), asked
    # Chromium tells of answers that are errors; those are meant.
    assert [text for text in said if "status of 4" not in text] == []
    context.close()


def cards(page) -> list[str]:
    return page.locator(".card .name").all_text_contents()


def shown_are(page, count: int) -> None:
    from playwright.sync_api import expect

    expect(page.locator(".card")).to_have_count(count, timeout=15_000)


def ask(page, text: str) -> None:
    page.fill("#q", text)
    page.press("#q", "Enter")
    page.wait_for_selector(".card")


def test_a_sentence_finds_structures_and_filters_narrow_them(page, address: str) -> None:
    ask(page, "an aromatic amine")
    assert len(cards(page)) == 7 and page.locator(".card figure svg path").count() > 7
    assert page.url == f"{address}/?q=an+aromatic+amine"
    page.click("#filters summary")
    page.fill("#add-without", "nitro")
    page.press("#add-without", "Enter")
    shown_are(page, 5)
    assert not {"nitromethane", "nitrobenzene"} & set(cards(page))
    assert page.url.endswith("without=nitro")
    shown = cards(page)
    page.goto(page.url)  # the address is the search
    assert cards(page) == shown and page.input_value("#q") == "an aromatic amine"
    page.click(".active a")
    shown_are(page, 7)
    page.go_back()
    shown_are(page, 5)


def test_an_explanation_opens_and_closes(page) -> None:
    ask(page, "an aromatic amine")
    first = page.locator(".card").first
    first.get_by_text("Explain").click()
    page.wait_for_selector(".explanation svg")
    assert page.locator(".explanation .words").inner_text() == "an aromatic amine"
    assert page.locator(".explanation .words mark").count() >= 1
    assert not page.locator(".heat .scroll svg").is_visible()
    page.get_by_text("Words against atoms").click()
    assert page.locator(".heat .scroll svg").is_visible()
    page.keyboard.press("Escape")
    assert page.locator(".explanation").count() == 0


def test_a_structure_is_drawn_while_it_is_typed(page) -> None:
    page.check("#by-molecule")
    page.locator("#molecule").press_sequentially("Nc1ccccc", delay=5)
    page.wait_for_selector("#drawn .wrong")  # a ring that is open
    page.locator("#molecule").press_sequentially("1", delay=5)
    page.wait_for_selector("#drawn svg")
    page.press("#molecule", "Enter")
    page.wait_for_selector(".card")
    assert cards(page)[0] == "aniline"
    assert page.locator(".card .score b").first.inner_text() == "1.000"


def test_a_bad_structure_has_a_message_in_its_place(page) -> None:
    page.check("#by-molecule")
    page.fill("#molecule", "C1CC")
    page.press("#molecule", "Enter")
    page.wait_for_selector("#results .wrong")
    assert "C1CC" in page.locator("#results .wrong").inner_text()


def test_a_structure_is_drawn_on_the_board(page) -> None:
    page.check("#by-molecule")
    page.fill("#molecule", "Nc1ccc(Cl)cc1")
    page.get_by_role("button", name="Draw").click()
    board = page.frame_locator("#sketch iframe")
    board.locator("#board svg").first.wait_for()
    page.fill("#molecule", "")
    page.get_by_role("button", name="Use it").click()
    page.wait_for_selector("#drawn svg")
    assert "Cl" in page.input_value("#molecule")


def test_keys_lead_through_the_page(page) -> None:
    ask(page, "an alcohol")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    second = page.evaluate("document.activeElement.dataset.smiles")
    assert second == page.locator(".card").nth(1).get_attribute("data-smiles")
    page.keyboard.press("c")
    page.wait_for_selector(".toast:not([hidden])")
    assert page.evaluate("navigator.clipboard.readText()") == second
    page.keyboard.press("ArrowUp")
    page.keyboard.press("e")
    page.wait_for_selector(".card:first-child .explanation")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"


def test_similar_molecules_are_one_click_away(page) -> None:
    ask(page, "an alcohol")
    page.locator(".card", has_text="4-chloroaniline").get_by_text("Similar").click()
    page.wait_for_selector("#by-molecule:checked")
    assert cards(page)[0] == "4-chloroaniline" and page.locator("#drawn svg").count() == 1


def test_hits_are_downloaded(page, tmp_path: Path) -> None:
    ask(page, "an alcohol")
    for name, mark in (("CSV", "an alcohol"), ("SDF", "$$$$")):
        with page.expect_download() as waited:
            page.locator(".take").get_by_text(name).click()
        waited.value.save_as(tmp_path / name)
        assert mark in (tmp_path / name).read_text()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "CSV").read_text())))
    assert len(rows) == 7 and {"smiles", "name", "score", "mw"} <= set(rows[0])


def test_a_phone_shows_it_all(browser, address: str) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    page = browser.new_page(**phone)
    page.goto(f"{address}/?q=an+alcohol&without=nitro")
    assert len(cards(page)) == 5
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.locator(".card").first.get_by_text("Explain").tap()
    page.wait_for_selector(".explanation svg")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()


def test_without_scripts_it_is_a_form(browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    page.fill("#q", "an alcohol")
    page.get_by_role("button", name="Search").click()
    assert len(cards(page)) == 7
    page.locator(".card").first.get_by_text("Explain").click()
    assert "an alcohol" in page.locator(".explanation .words").inner_text()
    context.close()


def test_a_structure_finds_descriptions(browser, tiny_run: Path, tmp_path: Path) -> None:
    """On a phone, by keys alone."""
    (tmp_path / "corpus.txt").write_text(CORPUS)
    with served(tiny_run, tmp_path / "corpus.txt") as address:
        page = browser.new_page(viewport={"width": 390, "height": 844}, is_mobile=True)
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        assert page.evaluate("document.activeElement.id") == "molecule"
        assert page.get_by_text("aspirin").is_visible() and not page.locator("#q").is_visible()
        page.keyboard.type("CCO")
        page.keyboard.press("Enter")
        shown_are(page, 3)
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        card = page.locator(".card").first
        told = card.locator(".description").inner_text()
        assert told == page.evaluate("document.activeElement.dataset.text")
        page.keyboard.press("e")
        page.wait_for_selector(".card:first-child .explanation svg")
        assert card.locator(".words").inner_text() == told
        assert not card.locator(".description").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.keyboard.press("Escape")
        assert card.locator(".description").is_visible()
        page.keyboard.press("s")  # its like
        page.wait_for_selector("#by-text:checked")
        assert page.input_value("#q") == told
        assert page.locator(".description").first.inner_text() == told
        assert wrong == []
        page.close()
