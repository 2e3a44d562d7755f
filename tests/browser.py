"""Pages as a browser shows them: Debian's Chromium without a window, and what its console complained of.

A test that uses it is marked ``slow`` and takes the fixture `browser`, which its module imports from here.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESKTOP, PHONE = (1280, 900), (390, 844)
MILLISECONDS = 60_000  # for a page to be there: the machine may be busy


def needs_browser() -> str:
    """The browser's path; skips the test where there is none, or nothing to drive it with."""
    pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A browser for the tests of one module; tests are skipped, with the reason, where there is none."""
    path = needs_browser()
    from playwright.sync_api import sync_playwright

    # the sandbox takes user namespaces, which root (in a container, above all) has not
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path, args=[*as_root, "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


class Opened:
    """A page that is open.

    Attributes:
        page: Playwright's.
        complaints: errors of the page's scripts, and what its console calls an error, in order.
        asked: addresses that were fetched over a network.
    """

    def __init__(self, page: "Page") -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._fetched)

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(f"{message.text} ({message.location.get('url', '')})")

    def _fetched(self, request: Any) -> None:
        if not request.url.startswith(("data:", "file:", "blob:", "about:")):
            self.asked.append(request.url)

    def broken_pictures(self) -> list[str]:
        """Texts of the pictures that did not load; those that would load late are loaded first."""
        return list(
            self.page.evaluate(
                """async () => {
                  const pictures = [...document.images].filter((one) => one.checkVisibility());
                  for (const one of pictures) one.loading = "eager";
                  await Promise.allSettled(pictures.map((one) => one.decode()));
                  const broken = pictures.filter((one) => !one.naturalWidth);
                  return broken.map((one) => one.alt || one.src.slice(0, 80));
                }"""
            )
        )

    def wider_than_the_screen(self) -> int:
        """Pixels by which the page must be pushed sideways to be read; 0 is right."""
        return int(
            self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        )

    def focused(self) -> str:
        """Tag and name of what the keyboard is on: ``select[category]``."""
        return str(
            self.page.evaluate(
                """(() => { const one = document.activeElement;
                  const name = one.getAttribute("name") || one.id || one.className || "";
                  return `${one.tagName.toLowerCase()}[${name}]`; })()"""
            )
        )

    def tab_to(self, selector: str, most: int = 80) -> int:
        """Press Tab until something that fits the selector has the focus; how often it took.

        Raises:
            AssertionError: the keyboard does not get there.
        """
        for pressed in range(1, most + 1):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("(wanted) => document.activeElement.matches(wanted)", selector):
                return pressed
        raise AssertionError(f"{most} times Tab and not on {selector}, but on {self.focused()}")


@contextmanager
def opened(
    browser: "Browser",
    address: str | Path,
    *,
    size: tuple[int, int] = DESKTOP,
    colours: Literal["light", "dark"] = "light",
    until: Literal["load", "networkidle", "domcontentloaded"] = "load",
) -> Iterator[Opened]:
    """A file or URL in a window of its own.

    Args:
        size: width and height in pixels; `PHONE` is a phone.
        colours: which of the two the reader's system asks for.
        until: what to wait for.
    """
    url = address.absolute().as_uri() if isinstance(address, Path) else address
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=colours,
        is_mobile=size[0] < 500,
        has_touch=size[0] < 500,
        device_scale_factor=1,
    )
    context.set_default_timeout(MILLISECONDS)
    try:
        page = Opened(context.new_page())
        page.page.goto(url, wait_until=until)
        yield page
    finally:
        context.close()
