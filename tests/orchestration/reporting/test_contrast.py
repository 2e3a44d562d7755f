"""Text and bars stand out from what is behind them, light and dark: computed from the style's own colours."""

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest

SHEETS = ("page.css", "report.css", "contact_sheet.css")
GROUNDS = ("page", "card", "rail")  # what a text or a bar may lie on
TEXT, BAR = 4.5, 3.0


def sheet(name: str) -> str:
    return (files("finedefics_platform.reporting") / "templates" / name).read_text()


def palettes() -> dict[str, dict[str, str]]:
    """The colours by name, of light and dark."""
    blocks = re.findall(r":root \{(.*?)\}", sheet("page.css"), re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", block)) for block in blocks]
    return dict(zip(("light", "dark"), found, strict=True))


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def rules() -> Iterator[tuple[str, dict[str, str]]]:
    """Selectors with their declarations, of all sheets; those of a medium too."""
    for name in SHEETS:
        for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet(name)):
            pairs = [part.partition(":") for part in body.split(";") if ":" in part]
            yield selector.strip(), {key.strip(): value.strip() for key, _, value in pairs}


def named(value: str) -> list[str]:
    return re.findall(r"var\(--([\w-]+)", value)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_texts_can_be_read(mode: str) -> None:
    colours, checked = palettes()[mode], 0
    for selector, told in rules():
        for text in named(told.get("color", "")) + named(told.get("fill", "") if "text" in selector else ""):
            if "." in selector and ".mark" in selector:
                continue  # a drawn mark, not letters
            own = [name for name in named(told.get("background", "")) if name in colours]
            for ground in own or (GROUNDS[:2] if text not in ("on-heat", "on-hot") else ()):
                seen = contrast(colours[text], colours[ground])
                assert seen >= TEXT, f"{selector}: {text} on {ground} is {seen:.2f}"
                checked += 1
    assert checked > 40


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_numbers_in_the_matrix_can_be_read(mode: str) -> None:
    colours = palettes()[mode]
    for ground, text in (
        ("heat-1", "on-heat"),
        ("heat-2", "on-heat"),
        ("heat-3", "on-hot"),
        ("heat-4", "on-hot"),
    ):
        assert contrast(colours[text], colours[ground]) >= TEXT, f"{text} on {ground}"
    assert contrast(colours["good"], colours["hit"]) >= TEXT


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_bars_stand_out(mode: str) -> None:
    colours = palettes()[mode]
    arms = {name for _, told in rules() for name in named(told.get("--arm", ""))}
    assert len(arms) == 10
    for arm in arms:
        for ground in GROUNDS:
            seen = contrast(colours[arm], colours[ground])
            assert seen >= BAR, f"{arm} on {ground} is {seen:.2f}"


def test_no_bar_is_made_paler() -> None:
    paler = [
        s
        for s, told in rules()
        if "opacity" in told and any(part in s for part in (".fill", ".mean", ".range"))
    ]
    assert paler == []
