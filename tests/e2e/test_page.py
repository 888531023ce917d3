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


def boxes(page, selector: str) -> list[dict[str, float]]:
    """Of all that are visible, in the order of the document."""
    return [box for one in page.locator(selector).all() if (box := one.bounding_box())]


def test_an_explanation_opens_under_its_row(page) -> None:
    def delayed(route) -> None:
        page.wait_for_selector(".card:nth-of-type(3) .button[aria-busy=true]")
        route.continue_()

    ask(page, "an aromatic amine")
    page.route("**/explain*", delayed)
    page.locator(".card").nth(1).get_by_text("Explain").click()
    page.wait_for_selector(".explanation svg", timeout=60_000)  # the first one is compiled
    assert page.locator(".card [aria-busy=true]").count() == 0
    (opened,), shown = boxes(page, ".explain"), boxes(page, ".card")
    places = [(round(card["y"]), card["x"]) for card in shown]
    assert places == sorted(places)  # the cards keep their order
    row = [card for card in shown if round(card["y"]) == places[1][0]]
    assert len(row) > 2 and all(card["y"] + card["height"] < opened["y"] for card in row)
    assert all(card["y"] > opened["y"] + opened["height"] for card in shown[len(row) :])
    grid = page.locator(".cards").bounding_box()
    assert opened["width"] == grid["width"]
    assert opened["y"] >= 0 and opened["y"] + 200 < 900  # it was scrolled to


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
    page.locator("#q").focus()
    page.keyboard.press("Escape")  # leaves the field
    assert page.evaluate("document.activeElement === document.body")
    assert page.locator(".explanation").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".explanation").count() == 0
    assert page.evaluate("document.activeElement.matches('.card:first-child')")


def test_a_drawing_is_enlarged_with_the_atoms_of_a_pattern(page, address: str) -> None:
    page.goto(f"{address}/?q=an+amine&substructure=c1ccccc1[NX3;H2]")
    shown_are(page, 2)
    coloured = "path[fill='#FFC481']"
    marks = page.locator(f".card:first-child figure.marked {coloured}").count()
    assert marks >= 7  # an atom each
    for enlarge in (
        page.locator(".card:first-child .drawing").click,
        lambda: page.locator(".card:first-child .drawing").press("Enter"),
        lambda: page.locator(".card:first-child").press("Enter"),
    ):
        enlarge()
        page.wait_for_selector("#large[open] svg")
        assert page.locator(f"#large {coloured}").count() == marks
        (small,), (large,) = boxes(page, ".card:first-child svg"), boxes(page, "#large svg")
        assert large["width"] > 2 * small["width"]
        page.keyboard.press("Escape")
        assert not page.locator("#large").is_visible()


def test_filters_are_removed_where_they_stand(page, address: str) -> None:
    page.goto(f"{address}/?q=an+amine&substructure=c1ccccc1")
    shown_are(page, 3)
    assert page.locator("#filter-count").inner_text() == "1"
    page.click("#filters summary")
    page.fill("#add-without", "nitro")
    page.press("#add-without", "Enter")
    shown_are(page, 2)
    assert page.locator("#filter-count").inner_text() == "2"
    page.locator(".chosen .chip", has_text="nitro").click()
    shown_are(page, 3)
    assert page.locator(".chosen .chip").count() == 0 and "nitro" not in page.url
    page.get_by_label("Remove the filter c1ccccc1").click()
    shown_are(page, 7)
    assert page.input_value("#substructure") == ""


def test_pages_are_turned_by_keys_and_held_by_the_address(page, address: str) -> None:
    page.goto(f"{address}/?q=an+amine&k=3")
    first = cards(page)
    page.keyboard.press("n")
    page.wait_for_url("**/?q=an+amine&k=3&page=2")
    page.wait_for_selector(".rank:text-is('4')")
    second = cards(page)
    assert len(second) == 3 and not set(first) & set(second)
    page.reload()
    assert cards(page) == second
    page.get_by_role("link", name="Next").click()
    shown_are(page, 1)
    page.keyboard.press("p")
    shown_are(page, 3)
    assert cards(page) == second
    ask(page, "an acid")  # another search starts at its first page
    page.wait_for_url("**/?q=an+acid&k=3")


def test_a_long_text_has_lines(page) -> None:
    page.fill("#q", "an aromatic amine")
    (before,) = boxes(page, "#q")
    page.press("#q", "Shift+Enter")
    page.keyboard.type("with a chlorine atom\n", delay=5)
    page.wait_for_selector(".card")
    assert page.input_value("#q") == "an aromatic amine\nwith a chlorine atom"
    assert boxes(page, "#q")[0]["height"] > before["height"] + 10
    page.reload()
    assert page.input_value("#q") == "an aromatic amine\nwith a chlorine atom"


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
    assert boxes(page, "#sketch")[0]["height"] > 800  # of 900
    assert board.locator("#board").bounding_box()["width"] > 1000  # of 1180
    page.fill("#molecule", "")
    page.get_by_role("button", name="Use it").click()
    page.wait_for_selector("#drawn svg")
    assert "Cl" in page.input_value("#molecule")
    page.set_viewport_size({"width": 700, "height": 600})
    page.get_by_role("button", name="Draw").click()
    drawn = board.locator("#board svg").first
    page.wait_for_function("document.querySelector('#sketch iframe').clientWidth < 700")
    page.wait_for_timeout(300)
    assert 500 < drawn.bounding_box()["width"] < 700
    page.mouse.click(350, 300)  # the keys are the frame's then
    page.keyboard.press("Escape")
    page.wait_for_selector("#sketch", state="hidden")


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
    page.wait_for_selector(".card:first-child + .explain .explanation")
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
    shown_are(page, 7)
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
        page.wait_for_selector(".card:first-child + .explain svg")
        assert page.locator(".explanation .words").inner_text() == told
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.keyboard.press("Escape")
        assert page.locator(".explanation").count() == 0
        page.keyboard.press("s")  # its like
        page.wait_for_selector("#by-text:checked")
        assert page.input_value("#q") == told
        assert page.locator(".description").first.inner_text() == told
        assert wrong == []
        page.close()


# What everyone can see and reach

SIZES = ((390, 844), (768, 1024), (1440, 900))
AXE = Path(__file__).parent / "axe" / "axe.min.js"
LEAST = 40  # pixels of what a finger hits


def opened(browser, address: str, width: int, height: int, scheme: str = "light"):
    """The page with all that can be open at once."""
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page.set_default_timeout(30_000)
    page.goto(f"{address}/?q=an+amine&k=3&page=2&mw_max=500&without=nitrile")
    page.click("#filters summary")
    page.locator(".card").first.get_by_text("Explain").click()
    page.wait_for_selector(".explanation svg")
    page.click(".heat summary")
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_axe_finds_no_serious_fault(
    browser, address: str, width: int, height: int, scheme: str
) -> None:
    page = opened(browser, address, width, height, scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert faults(page) == []
    for key, dialog in (("?", "#keys"), ("Enter", "#large")):
        page.locator(".card").first.focus()
        page.keyboard.press(key)
        page.wait_for_selector(f"{dialog}[open]")
        assert faults(page) == []
        page.keyboard.press("Escape")
    for path in ("/", "/?by=molecule&molecule=C1CC", "/docs", "/nowhere"):
        page.set_extra_http_headers({"accept": "text/html"})
        page.goto(address + path)
        assert faults(page) == [], path
    page.close()


def faults(page) -> list[str]:
    """The serious and critical ones, each with the first element that has it."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run().then((found) => found.violations)")
    return [
        f"{fault['id']}: {fault['nodes'][0]['html'][:200]} {fault['nodes'][0]['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]


SMALL = """(least) => [...document.querySelectorAll("a, button, input, select, textarea, summary")]
  .map((one) => one.closest("label") ?? one)  // a label takes the taps for its input
  .filter((one) => one.checkVisibility() && !one.matches(".hidden, .skip"))
  .map((one) => [one.outerHTML.slice(0, 120), one.getBoundingClientRect()])
  .filter(([, box]) => box.height < least || box.width < least)
  .map(([html, box]) => `${Math.round(box.width)} x ${Math.round(box.height)} ${html}`)"""


def test_a_finger_hits_everything_on_a_phone(browser, address: str) -> None:
    page = opened(browser, address, 390, 844)
    assert page.evaluate(SMALL, LEAST) == []
    page.locator(".card").first.focus()
    page.keyboard.press("?")
    assert page.evaluate(SMALL, LEAST) == []
    for path in ("/", "/?by=molecule&molecule=CCO"):
        page.goto(address + path)
        assert page.evaluate(SMALL, LEAST) == []
    page.close()


def test_the_first_view_is_small(browser, address: str) -> None:
    """Bytes as they are sent; the drawing board comes when it is opened."""
    for path in ("/", "/?q=an+amine"):
        page = browser.new_page()
        sizes: dict[str, int] = {}
        page.on("response", lambda reply, sizes=sizes: sizes.update({reply.url: len(reply.body())}))
        page.goto(address + path, wait_until="networkidle")
        assert len(sizes) >= 5 and sum(sizes.values()) < 300_000, sizes
        page.close()
