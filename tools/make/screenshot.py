"""Pictures of the page: python -m tools.make.screenshot --run RUN --library LIBRARY [--out docs]

Starts `tmr serve` on a free port, opens it in the Chromium that is installed, and writes page.png;
with --all also the page on a phone, in the dark, with an explanation, and empty. Nothing is fetched
from anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

QUERY = "a steroid with a ketone"
DESKTOP, PHONE = (1180, 900), (390, 844)
# What the page asks of the network it must not get: names lead nowhere.
OFFLINE = ("--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")


def chromium() -> str:
    """The path of a Chromium, or ""."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), "")


@contextlib.contextmanager
def served(*words: str) -> Iterator[str]:
    """The address of a service that is ended afterwards."""
    command = [sys.executable, "-m", "tmr_jax.serve", *words, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("Serving at "):
            raise ValueError(f"expected the service to start, got {line!r}; see above")
        yield line.split()[2]
    finally:
        process.terminate()
        process.wait(15)
        process.stdout.close()  # type: ignore[union-attr]


def shoot(browser: Any, address: str, path: Path, size: tuple[int, int], **more: Any) -> None:
    """One picture; `steps` are done on the page first."""
    steps = more.pop("steps", ())
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce", **more
    )
    page.set_default_timeout(120_000)
    page.goto(address)
    for step in steps:
        step(page)
    page.screenshot(path=path)
    page.close()
    print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--library", required=True)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--query", default=QUERY)
    parser.add_argument("--all", action="store_true")
    chosen = parser.parse_args()
    if not chromium():
        print("error: expected a Chromium on PATH, got none; install one", file=sys.stderr)
        return 2
    from playwright.sync_api import sync_playwright

    chosen.out.mkdir(exist_ok=True)
    with (
        served("--run", chosen.run, "--library", chosen.library, "--rate", "0") as base,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=chromium(), args=list(OFFLINE))
        asked = f"{base}/?q={chosen.query.replace(' ', '+')}&mw_max=600&without=nitro"
        shoot(browser, asked, chosen.out / "page.png", DESKTOP)
        if chosen.all:
            extra(browser, base, asked, chosen.out)
        browser.close()
    return 0


def extra(browser: Any, base: str, asked: str, out: Path) -> None:
    """The page in other forms, to look at."""
    explained = (
        lambda page: page.locator(".card [data-does=explain]").first.click(),
        lambda page: page.wait_for_selector(".explanation"),
    )
    drawing = (
        lambda page: page.get_by_role("button", name="Draw").click(),
        lambda page: page.wait_for_timeout(2500),
    )
    dark: dict[str, Any] = {"color_scheme": "dark"}
    phone: dict[str, Any] = {"is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    shoot(browser, base, out / "empty.png", DESKTOP)
    shoot(browser, asked, out / "dark.png", DESKTOP, **dark)
    shoot(browser, asked, out / "explained.png", DESKTOP, steps=explained)
    shoot(browser, asked, out / "explained_dark.png", DESKTOP, steps=explained, **dark)
    shoot(browser, f"{base}/?q=an+acid", out / "phone.png", PHONE, **phone)
    shoot(browser, asked, out / "phone_filters.png", PHONE, **phone)
    shoot(
        browser, f"{base}/?q=an+acid", out / "phone_explained.png", PHONE, steps=explained, **phone
    )
    shoot(browser, f"{base}/?by=molecule&molecule=Nc1ccc(Cl)cc1", out / "molecule.png", DESKTOP)
    shoot(browser, f"{base}/?by=molecule&molecule=CCO", out / "board.png", DESKTOP, steps=drawing)
    shoot(browser, f"{base}/?by=molecule&molecule=C1CC", out / "wrong.png", DESKTOP)
    shoot(browser, f"{base}/docs", out / "docs.png", DESKTOP)


if __name__ == "__main__":
    sys.exit(main())
