"""The serving page in a browser: a token, a picture, answers; by keyboard, on a phone, light and dark."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from browser import DESKTOP, PHONE, browser, opened

from finedefics_platform.serving.run import Serving

pytestmark = pytest.mark.slow
__all__ = ["browser"]

# Contrast of a text with what is behind it (WCAG 2.2): the background of the first ancestor that has one.
CONTRAST = """() => {
  const parse = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const found = parse(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const worst = { ratio: 99, text: "" };
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.checkVisibility() || ["SCRIPT", "STYLE"].includes(one.tagName)) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst.ratio) Object.assign(worst, { ratio, text: one.textContent.trim().slice(0, 60) });
  }
  return worst;
}"""


@pytest.fixture
def files(tmp_path: Path, pictures: Sequence[bytes]) -> list[Path]:
    """A picture, and a file that is none."""
    made = [tmp_path / "bird.png", tmp_path / "letter.png"]
    for file, content in zip(made, (pictures[0], b"a letter"), strict=True):
        file.write_bytes(content)
    return made


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_picture_is_named_with_its_description_and_the_nearest_training_pictures(
    running: Serving, browser: Any, files: list[Path], size: tuple[int, int], colours: Any, tmp_path: Path
) -> None:
    deadline = time.monotonic() + 60
    while running.front.training.note or not len(running.front.training):
        assert time.monotonic() < deadline, running.front.training.note
        time.sleep(0.05)
    with opened(browser, f"{running.url}#token={running.token}", size=size, colours=colours) as shown:
        page = shown.page
        page.wait_for_selector("#drop:visible")
        assert running.token not in page.url, "the token leaves the address"
        page.set_input_files("#file", [str(file) for file in files])
        page.wait_for_selector("#said.wrong")
        said = page.inner_text("#said")
        assert "letter.png: the picture cannot be decoded (the file is text)" in said
        (card,) = page.query_selector_all("#results article")
        described = {category.name: category.description or "" for category in running.front.categories}
        best = card.query_selector(".best").inner_text()
        others = [one.inner_text() for one in card.query_selector_all(".others .name span:first-child")]
        assert {best, *others} <= set(described)
        assert len(others) == 4
        assert card.query_selector(".about").inner_text() == described[best]
        assert len(card.query_selector_all(".near img")) == 6
        assert shown.broken_pictures() == []
        assert shown.wider_than_the_screen() == 0
        worst = page.evaluate(CONTRAST)
        assert worst["ratio"] >= 4.5, worst
        # the browser itself notes the status of the file that was refused
        assert [one for one in shown.complaints if "400 (Bad Request)" not in one] == []
        assert all(address.startswith(running.url) for address in shown.asked)
        page.screenshot(path=str(tmp_path / f"serving-{size[0]}-{colours}.png"), full_page=True)


def test_the_page_asks_for_the_token_and_works_by_keyboard(
    running: Serving, browser: Any, files: list[Path], tmp_path: Path
) -> None:
    with opened(browser, running.url, size=PHONE) as shown:
        page = shown.page
        page.wait_for_selector("#entry:visible")
        assert not page.is_visible("#drop")
        page.keyboard.type("not the token at all")
        page.keyboard.press("Enter")
        page.wait_for_selector("#said.wrong")
        assert page.inner_text("#said") == "That is not the server's token."
        page.screenshot(path=str(tmp_path / "serving-token.png"))
        page.keyboard.type(running.token)
        page.keyboard.press("Enter")
        page.wait_for_selector("#drop:visible")
        shown.tab_to("#file")  # the browser's own button, which opens its own window
        assert page.evaluate("getComputedStyle(document.querySelector('#drop')).outlineStyle") == "solid"
        page.set_input_files("#file", str(files[0]))
        page.wait_for_selector("#results article")
        assert page.inner_text("#said").endswith(": bird.png")
        page.reload()
        page.wait_for_selector("#drop:visible")  # the tab remembers


def test_a_picture_can_be_dropped_and_pasted(running: Serving, browser: Any, files: list[Path]) -> None:
    with opened(browser, f"{running.url}#token={running.token}") as shown:
        page = shown.page
        page.wait_for_selector("#drop:visible")
        data = page.evaluate_handle(
            """(bytes) => { const held = new DataTransfer();
              held.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
              return held; }""",
            list(files[0].read_bytes()),
        )
        page.dispatch_event("#drop", "drop", {"dataTransfer": data})
        page.wait_for_selector("#results article:nth-child(1)")
        page.evaluate(
            "(held) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: held }))", data
        )
        page.wait_for_selector("#results article:nth-child(2)")
        assert shown.complaints == []
