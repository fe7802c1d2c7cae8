"""Pictures of the welcome page: python3 -m tests.screenshots [FOLDER]

Writes welcome.png and welcome-dark.png into docs/, or, with a folder, one for each colour scheme and size into that.
"""

from __future__ import annotations

import contextlib
import sys
from itertools import product
from pathlib import Path

from playwright.sync_api import Browser

from tests.harness.browser import chromium
from tests.harness.needs import ROOT
from tests.harness.server import Server

SIZES = {"desk": (1120, 880), "phone": (390, 844)}


def shoot(browser: Browser, server: Server, path: Path, scheme: str, size: str, full: bool) -> None:
    """One picture, of a page on which somebody has typed a line."""
    width, height = SIZES[size]
    options = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    with contextlib.closing(browser.new_context(**options)) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(server.url)
        page.fill("#line", "hello")
        page.press("#line", "Enter")
        page.click("#ayt")
        page.locator("#log .got").nth(1).wait_for()
        page.get_by_text("Live: ").wait_for()
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        page.screenshot(path=path, full_page=full)


def main() -> None:
    with (
        chromium() as browser,
        Server("-p", "0", "--telnet", "0", "--access-log", "off") as server,
        server.connect("telnet") as visitor,
        server.connect("telnet"),
    ):
        visitor.sendall(b"hello\r\n")
        if sys.argv[1:]:
            for scheme, size in product(("light", "dark"), SIZES):
                shoot(browser, server, Path(sys.argv[1], f"{scheme}-{size}.png"), scheme, size, full=True)
        else:
            for scheme, name in (("light", "welcome.png"), ("dark", "welcome-dark.png")):
                shoot(browser, server, ROOT / "docs" / name, scheme, "desk", full=False)


if __name__ == "__main__":
    main()
