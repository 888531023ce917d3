"""Picture of the page: python -m tools.make.screenshot --run RUN --library LIBRARY [--out docs]

Starts `tmr serve` on a free port, opens it in the installed Chromium, and writes page.png, without
any request to another machine.
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
DESKTOP: Any = {"width": 1180, "height": 900}
# No host but this one can be resolved, so that the page cannot reach the network.
OFFLINE = ("--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")


def chromium() -> str:
    """The path of a Chromium, or ""."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), "")


@contextlib.contextmanager
def served(*words: str) -> Iterator[str]:
    """The address of a running service."""
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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--library", required=True)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--query", default=QUERY)
    args = parser.parse_args()
    if not chromium():
        print("error: expected a Chromium on PATH, got none; install one", file=sys.stderr)
        return 2
    from playwright.sync_api import sync_playwright

    args.out.mkdir(exist_ok=True)
    with (
        served("--run", args.run, "--library", args.library, "--rate", "0") as base,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=chromium(), args=list(OFFLINE))
        page = browser.new_page(viewport=DESKTOP, reduced_motion="reduce")
        page.set_default_timeout(120_000)
        page.goto(f"{base}/?q={args.query.replace(' ', '+')}&mw_max=600&without=nitro")
        page.screenshot(path=args.out / "page.png")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
