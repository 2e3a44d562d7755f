"""Drawing: one bird from its attributes, with clutter, pose, light, noise and an occluder that hides parts.

A drawing is a picture of 128x128 pixels (by default) and the attributes that are still visible in it.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 220, 60),
    "green": (40, 160, 70),
    "blue": (40, 90, 210),
    "pink": (245, 130, 190),
    "white": (245, 245, 240),
    "black": (30, 30, 35),
}
PLUMAGE = tuple(COLOURS)
BEAKS = ("red", "yellow", "blue", "black")

# Order is the order in which a description names them.
ATTRIBUTE_VALUES: dict[str, tuple[str, ...]] = {
    "crown": PLUMAGE,
    "belly": PLUMAGE,
    "wing": PLUMAGE,
    "tail": PLUMAGE,
    "beak": BEAKS,
    "bars": ("no", "one", "two", "three"),
    "breast": ("plain", "spotted", "striped"),
}

_CANVAS = 160  # the bird is drawn at this size, then turned, scaled and pasted
_BODY = (36, 58, 116, 118)
_BELLY = (54, 74, 118, 120)
_WING = (34, 60, 86, 96)
_HEAD = (92, 30, 136, 74)
_TAIL = ((44, 78), (4, 52), (0, 84), (40, 98))
_BEAK = ((131, 46), (158, 55), (131, 62))
# Boxes that must be mostly covered before a part counts as hidden.
_PARTS: dict[str, tuple[int, int, int, int]] = {
    "crown": (94, 30, 134, 52),
    "belly": (66, 88, 114, 118),
    "breast": (66, 88, 114, 118),
    "wing": (38, 62, 84, 94),
    "bars": (38, 62, 84, 94),
    "tail": (2, 56, 42, 94),
    "beak": (132, 46, 156, 62),
}
_HIDDEN_SHARE = 0.6


def describe(attributes: Mapping[str, str]) -> str:
    """The description of a bird: its visible attributes in a fixed order ("red crown, white belly, …")."""
    text = ", ".join(f"{attributes[name]} {name}" for name in ATTRIBUTE_VALUES if name in attributes)
    return text.replace("one bars", "one bar")


def draw(
    attributes: Mapping[str, str], rng: np.random.Generator, *, size: int = 128, occluded: float = 0.2
) -> tuple[Image.Image, dict[str, str]]:
    """Draw a bird.

    Args:
        attributes: a value for every name of `ATTRIBUTE_VALUES`.
        rng: the only source of chance: equal generators give equal pictures.
        size: edge of the square picture in pixels.
        occluded: probability that a leaf hides a part.

    Returns:
        The RGB picture and the attributes that can be seen in it.
    """
    bird = _bird(attributes)
    hidden: set[str] = set()
    if rng.random() < occluded:
        hidden = _hide_a_part(bird, rng)
    if rng.random() < 0.5:
        bird = bird.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = size / _CANVAS * rng.uniform(0.78, 0.98)
    edge = round(_CANVAS * scale)
    bird = bird.rotate(rng.uniform(-20, 20), resample=Image.Resampling.BILINEAR)
    bird = bird.resize((edge, edge), Image.Resampling.BILINEAR)
    picture = _background(rng, size)
    left, top = (int(v) for v in rng.integers(0, size - edge + 1, 2))
    picture.paste(bird, (left, top), bird)
    return _photograph(picture, rng), {k: v for k, v in attributes.items() if k not in hidden}


def _bird(attributes: Mapping[str, str]) -> Image.Image:
    bird = Image.new("RGBA", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(bird)
    outline = (70, 60, 55)
    pen.polygon(_TAIL, fill=COLOURS[attributes["tail"]], outline=outline)
    pen.ellipse(_BODY, fill=(150, 135, 120), outline=outline)
    pen.ellipse(_BELLY, fill=COLOURS[attributes["belly"]], outline=outline)
    _breast(pen, attributes["breast"], attributes["belly"])
    pen.polygon(_BEAK, fill=COLOURS[attributes["beak"]], outline=outline)
    pen.ellipse(_HEAD, fill=(150, 135, 120), outline=outline)
    pen.chord(_HEAD, 170, 10, fill=COLOURS[attributes["crown"]], outline=outline)
    pen.ellipse((118, 52, 125, 59), fill=(10, 10, 10))
    pen.ellipse(_WING, fill=COLOURS[attributes["wing"]], outline=outline)
    _bars(pen, ATTRIBUTE_VALUES["bars"].index(attributes["bars"]), attributes["wing"])
    for x in (74, 90):
        pen.line((x, 118, x + 2, 136), fill=(90, 70, 40), width=3)
    return bird


def _contrast(colour: str) -> tuple[int, int, int]:
    return COLOURS["black"] if sum(COLOURS[colour]) > 380 else COLOURS["white"]


def _breast(pen: ImageDraw.ImageDraw, pattern: str, belly: str) -> None:
    ink = _contrast(belly)
    if pattern == "spotted":
        for x, y in ((92, 84), (106, 92), (88, 98), (100, 106), (84, 112), (72, 104)):
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=ink)
    elif pattern == "striped":
        for y in (84, 93, 102, 111):
            pen.line((74 if y < 112 else 80, y, 112 if y < 104 else 104, y), fill=ink, width=4)


def _bars(pen: ImageDraw.ImageDraw, count: int, wing: str) -> None:
    for position in range(count):
        x = (48, 59, 70)[position]
        pen.line((x, 66, x, 90), fill=_contrast(wing), width=5)


def _hide_a_part(bird: Image.Image, rng: np.random.Generator) -> set[str]:
    left, top, right, bottom = _PARTS[str(rng.choice(list(_PARTS)))]
    centre = np.array([(left + right) / 2, (top + bottom) / 2]) + rng.uniform(-4, 4, 2)
    radius = np.array([(right - left) * 0.7, (bottom - top) * 0.7])
    box = (*(centre - radius), *(centre + radius))
    leaf = (int(rng.integers(60, 110)), int(rng.integers(85, 120)), int(rng.integers(40, 70)), 255)
    ImageDraw.Draw(bird).ellipse(tuple(float(v) for v in box), fill=leaf, outline=(50, 70, 35))
    return {part for part in _PARTS if _covered(_PARTS[part], centre, radius) >= _HIDDEN_SHARE}


def _covered(box: tuple[int, int, int, int], centre: np.ndarray, radius: np.ndarray) -> float:
    xs, ys = np.meshgrid(np.linspace(box[0], box[2], 12), np.linspace(box[1], box[3], 12))
    inside = ((xs - centre[0]) / radius[0]) ** 2 + ((ys - centre[1]) / radius[1]) ** 2 <= 1
    return float(inside.mean())


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    sky = np.array([rng.integers(120, 190), rng.integers(150, 200), rng.integers(150, 210)], dtype=float)
    ground = np.array([rng.integers(90, 150), rng.integers(100, 160), rng.integers(70, 120)], dtype=float)
    fade = np.linspace(0, 1, size)[:, None, None]
    canvas = np.broadcast_to(sky * (1 - fade) + ground * fade, (size, size, 3)).astype(np.uint8)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(3, 8))):
        x, y = rng.integers(0, size, 2)
        reach = int(rng.integers(size // 16, size // 5))
        tone = tuple(int(v) for v in rng.integers(80, 170, 3))
        if rng.random() < 0.5:
            pen.ellipse((x - reach, y - reach // 2, x + reach, y + reach // 2), fill=tone)
        else:
            pen.line((x, y, x + int(rng.integers(-reach, reach)) * 2, y + reach), fill=tone, width=3)
    return picture.filter(ImageFilter.BoxBlur(1))


def _photograph(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32)
    light = rng.uniform(0.82, 1.15)
    tint = rng.uniform(0.95, 1.05, 3)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(2, 7)
    return Image.fromarray(np.clip(pixels * (light * tint) + noise, 0, 255).astype(np.uint8))
