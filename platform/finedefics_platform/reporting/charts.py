"""Small charts as inline SVG whose colours come from the page's style sheet, so they follow light and dark.

Elements are built as an XML tree, never by joining strings: whatever a name holds is escaped.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 420, 270  # narrow enough that text stays readable when a phone shows it at 360 pixels
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 36
MOST_POINTS = 240  # a longer curve is thinned: no screen shows more


@dataclass(frozen=True)
class Scale:
    """From data to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values inside the range: about five, or 1, 2, 5 of every decade."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
            return [tick for tick in found if self.low <= tick <= self.high]
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(size * unit for size in (1, 2, 2.5, 5, 10) if size * unit >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 12) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Point:
    """One answer of one arm: what it costs and what it is worth."""

    colour: str  # class of the arm
    shape: str
    x: float
    y: float
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Curve:
    """One arm's course of one metric; ``breaks`` are the steps at which a stage ended."""

    colour: str
    label: str
    steps: Sequence[float]
    values: Sequence[float]
    breaks: Sequence[float] = field(default_factory=tuple)


def scatter(points: Sequence[Point], *, x_title: str, title: str) -> str:
    """Accuracy in percent, with its interval, over what it costs on a logarithmic axis."""
    speeds = [point.x for point in points]
    x = Scale(min(speeds) / 1.4, max(speeds) * 1.4, LEFT, WIDTH - RIGHT, log=True)
    y = Scale(0, 100, HEIGHT - BOTTOM, TOP)
    svg = _frame(x, y, title, x_title)
    for point in points:
        group = ET.SubElement(svg, "g", {"class": f"point {point.colour}"})
        ET.SubElement(group, "title").text = point.label
        _line(group, x(point.x), y(point.low), x(point.x), y(point.high), "whisker")
        _marker(group, point.shape, x(point.x), y(point.y))
    return _text_of(svg)


def scatter_of(points: Sequence[Point], *, x_title: str, title: str) -> str:
    """Points over two plain axes; x is logarithmic where it spans a decade and is above zero."""
    wide = min(point.x for point in points) > 0 and max(p.x for p in points) >= 10 * min(p.x for p in points)
    ends = [0.0, 0.0, 0.0, 0.0]
    for i, values in enumerate(([point.x for point in points], [point.y for point in points])):
        low, high = min(values), max(values)
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        ends[2 * i : 2 * i + 2] = low - margin, high + margin
    if wide:
        ends[:2] = min(point.x for point in points) / 1.4, max(point.x for point in points) * 1.4
    x = Scale(ends[0], ends[1], LEFT, WIDTH - RIGHT, log=wide)
    y = Scale(ends[2], ends[3], HEIGHT - BOTTOM, TOP)
    svg = _frame(x, y, title, x_title)
    for point in points:
        group = ET.SubElement(svg, "g", {"class": f"point {point.colour}"})
        ET.SubElement(group, "title").text = point.label
        _marker(group, point.shape, x(point.x), y(point.y))
    return _text_of(svg)


def curves(lines: Sequence[Curve], *, title: str, x_title: str = "step") -> str:
    """One metric over training steps (or what else ``x_title`` says), a line an arm; a dotted rule where a
    stage ended."""
    values = [value for line in lines for value in line.values]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    last = max(step for line in lines for step in line.steps)
    x = Scale(0, max(last, 1), LEFT, WIDTH - RIGHT)
    y = Scale(low - margin, high + margin, HEIGHT - BOTTOM, TOP)
    svg = _frame(x, y, title, x_title)
    for line in lines:
        group = ET.SubElement(svg, "g", {"class": f"curve {line.colour}"})
        ET.SubElement(group, "title").text = line.label
        for step in line.breaks:
            _line(group, x(step), TOP, x(step), HEIGHT - BOTTOM, "break")
        for steps, heights in _stages(line):
            if len(steps) == 1:
                _marker(group, "circle", x(steps[0]), y(heights[0]))
                continue
            places = [f"{x(step):.1f},{y(value):.1f}" for step, value in zip(steps, heights, strict=True)]
            ET.SubElement(group, "polyline", {"points": " ".join(places)})
    return _text_of(svg)


def _stages(line: Curve) -> list[tuple[Sequence[float], Sequence[float]]]:
    """The curve in pieces, one a stage, each thinned: a new stage does not continue the old."""
    stride = math.ceil(len(line.steps) / MOST_POINTS)
    edges = [0, *np.searchsorted(line.steps, line.breaks, side="right").tolist(), len(line.steps)]
    pieces = [slice(start, end, stride) for start, end in itertools.pairwise(edges) if end > start]
    return [(line.steps[piece], line.values[piece]) for piece in pieces]


def projection(
    objects: NDArray[np.floating],
    groups: Sequence[str],
    categories: Sequence[str],
    texts: NDArray[np.floating],
    text_names: Sequence[str],
    *,
    title: str,
) -> tuple[str, float]:
    """Objects and category texts on their first two principal components.

    A line joins every text to the middle of its objects: the shorter, the better the two are aligned.

    Args:
        objects: [objects, dim] embeddings of pictures.
        groups: [objects] ``labelled`` or ``new``.
        categories: [objects] name of each picture's category.
        texts: [texts, dim] embeddings of categories.
        text_names: [texts] their names.
        title: read out in place of the drawing.

    Returns:
        the SVG, and the share of the variance that the two components hold.
    """
    together = np.concatenate([objects, texts]).astype(float)
    centred = together - together.mean(0)
    _, strengths, directions = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ directions[:2].T
    explained = float((strengths[:2] ** 2).sum() / max((strengths**2).sum(), 1e-12))
    svg = _svg(title, WIDTH, 360)
    # one scale for both axes, or a tie would look shorter in one direction than in the other
    low, high = flat.min(0), flat.max(0)
    scale = min(np.array([WIDTH - 24, 360 - 24]) / np.maximum(high - low, 1e-9))
    places = np.array([WIDTH / 2, 180]) + (flat - (low + high) / 2) * scale
    dots, diamonds = places[: len(objects)], places[len(objects) :]
    of_category = {name: np.array([own == name for own in categories]) for name in text_names}
    kind = {name: groups[int(mask.argmax())] for name, mask in of_category.items() if mask.any()}
    for (px, py), group in zip(dots, groups, strict=True):
        ET.SubElement(
            svg, "circle", {"cx": f"{px:.1f}", "cy": f"{py:.1f}", "r": "2.6", "class": f"dot {group}"}
        )
    for (px, py), name in zip(diamonds, text_names, strict=True):
        node = ET.SubElement(svg, "g", {"class": f"text {kind.get(name, 'unseen')}"})
        ET.SubElement(node, "title").text = name
        if name in kind:
            middle = dots[of_category[name]].mean(0)
            _line(node, px, py, middle[0], middle[1], "tie")
        _marker(node, "diamond", px, py)
    named = [(float(py), float(px), name) for (px, py), name in zip(diamonds, text_names, strict=True)]
    below = -math.inf
    for py, px, name in sorted(one for one in named if kind.get(one[2]) == "new"):
        below = max(py, below + 13)  # names that would lie on each other move down
        _label(svg, name, px, below)
    return _text_of(svg), explained


def _svg(title: str, width: int, height: int) -> ET.Element:
    svg = ET.Element("svg", {"viewBox": f"0 0 {width} {height}", "role": "img", "class": "chart"})
    ET.SubElement(svg, "title").text = title
    return svg


def _frame(x: Scale, y: Scale, title: str, x_title: str) -> ET.Element:
    svg = _svg(title, WIDTH, HEIGHT)
    for tick in y.ticks():
        _line(svg, LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid")
        _write(svg, f"{tick:.4g}", LEFT - 6, y(tick) + 3.5, "end")
    for tick in x.ticks():
        _line(svg, x(tick), HEIGHT - BOTTOM, x(tick), HEIGHT - BOTTOM + 4, "tick")
        _write(svg, f"{tick:.4g}", x(tick), HEIGHT - BOTTOM + 16, "middle")
    _write(svg, x_title, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "middle", "axis")
    return svg


def _line(parent: ET.Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    ET.SubElement(parent, "line", {**ends, "class": kind})


def _marker(parent: ET.Element, shape: str, x: float, y: float) -> None:
    outlines: Mapping[str, Sequence[tuple[float, float]]] = {
        "square": [(-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)],
        "triangle": [(0, -6), (5.5, 4), (-5.5, 4)],
        "diamond": [(0, -5), (5, 0), (0, 5), (-5, 0)],
    }
    if shape in outlines:
        corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in outlines[shape])
        ET.SubElement(parent, "polygon", {"points": corners, "class": "mark"})
    else:
        ET.SubElement(parent, "circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "5", "class": "mark"})


def _label(svg: ET.Element, text: str, x: float, y: float) -> None:
    """A name beside its mark, on the side that has room."""
    right = x < WIDTH * 0.7
    _write(svg, text, x + 8 if right else x - 8, y + 3.5, "start" if right else "end", "name")


def _write(parent: ET.Element, text: str, x: float, y: float, anchor: str, kind: str = "label") -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}
    ET.SubElement(parent, "text", place).text = text


def _text_of(svg: ET.Element) -> str:
    return ET.tostring(svg, encoding="unicode")


def marker(shape: str) -> str:
    """One mark alone, for a legend."""
    svg = ET.Element("svg", {"viewBox": "0 0 14 14", "class": "key", "aria-hidden": "true"})
    _marker(svg, shape, 7, 7)
    return _text_of(svg)
