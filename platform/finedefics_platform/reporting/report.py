"""The report of a comparison: one HTML file that needs nothing else, neither a network nor a script."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finedefics.evaluation import NOT_SHOWN
from finedefics.evaluation.tables import ANSWERS, CONTROLS, GROUPS
from finedefics.evaluation.verdict import one_pass_accuracy
from finedefics_platform.base.storage import Location
from finedefics_platform.reporting.charts import Curve, Point, curves, marker, projection, scatter
from finedefics_platform.reporting.page import page_environment

SHAPES = {"names": "square", "alignment": "circle", "describe": "triangle"}
COLOURS = {"base": "base", "instruction": "instruction", "control": "control", "two_stage": "two-stage"}
OTHER_COLOURS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
)  # classes of the style sheet, for further arms
ANSWER_TEXTS = {
    "names": "likelihood of the name",
    "alignment": "similarity with the category index, one pass",
    "describe": "describe, then name from the own words",
}
COMPARISONS = {
    "one_pass": "Better one-pass answer against the best of any control",
    "one_pass_to_describe": "Better one-pass answer against the best describe-then-name of any control",
    "strongest": "The same answer against the strongest control in it",
    "same_answer": "The same answer of both",
}


@dataclass(frozen=True)
class ReportData:
    """What a report shows.

    Attributes:
        title: of the page.
        table: `finedefics.evaluation.accuracy_table` with all categories competing; order of arms is kept.
        options_table: the same with four hard options, or empty.
        differences: rows of `finedefics.evaluation.differences`.
        verdict: sentences of `finedefics.evaluation.verdict`; the first is the headline.
        retrieval: ``{arm: {"object_to_name", "object_to_description"}}``, shares of pictures whose nearest
            text is the right one; the arm ``base`` is "before".
        histories: ``{arm: [{"stage", "step", "metrics": {name: value}}]}``.
        trials: one mapping a trial of the search; nested mappings become columns ``a.b``.
        samples: ``{"image": JPEG or PNG bytes, "truth", "group", "description", "answers": {arm: {answer:
            {"name", "correct"}}}}``.
        provenance: what to know to repeat it: digests, versions, seed; ``commands`` is a list of lines.
        embeddings: ``{arm: {"objects": [objects, dim], "object_groups", "object_categories": names,
            "texts": [texts, dim], "text_names"}}`` for the projections, or None.
    """

    title: str
    table: Mapping[str, Any]
    options_table: Mapping[str, Any]
    differences: Sequence[Mapping[str, Any]]
    verdict: Sequence[str]
    retrieval: Mapping[str, Mapping[str, float]]
    histories: Mapping[str, Sequence[Mapping[str, Any]]]
    trials: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]
    embeddings: Mapping[str, Mapping[str, Any]] | None = field(default=None)


def write_report(data: ReportData, place: Location) -> None:
    """Render ``data`` as one self-contained HTML file, written whole.

    Raises:
        FinedeficsError: the place cannot be written to.
    """
    environment = page_environment()
    environment.filters.update(percent=_percent, signed=_signed, number=_number)
    colours = _colours(data)
    page = environment.get_template("report.html.j2").render(
        data=data,
        colours=colours,
        answers=[answer for answer in ANSWERS if any(answer in arm for arm in data.table.values())],
        answer_texts=ANSWER_TEXTS,
        markers={answer: marker(shape) for answer, shape in SHAPES.items()},
        groups=_groups(data.table),
        tables=[
            (heading, table, _best(table), _timed(table))
            for heading, table in (
                ("All categories compete", data.table),
                ("Four hard options", data.options_table),
            )
        ],
        headline=_headline(data),
        shown=[one for one in data.verdict if not one.startswith(NOT_SHOWN)],
        not_shown=[one.removeprefix(NOT_SHOWN) for one in data.verdict if one.startswith(NOT_SHOWN)],
        forest=_forest(data.differences),
        cost=_cost(data.table, colours),
        projections=_projections(data.embeddings or {}),
        histories=_histories(data.histories, colours),
        trials=[_flat(trial) for trial in data.trials],
    )
    place.write_text(page)


def _colours(data: ReportData) -> dict[str, str]:
    arms = [*data.table, *data.histories, *data.retrieval, *(data.embeddings or {})]
    others = [arm for arm in dict.fromkeys(arms) if arm not in COLOURS]
    further = {arm: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, arm in enumerate(others)}
    return {arm: f"arm-{COLOURS.get(arm) or further[arm]}" for arm in dict.fromkeys(arms)}


def _groups(table: Mapping[str, Any]) -> list[str]:
    """New categories first: they are what the comparison is about."""
    present = {group for arm in table.values() for cells in arm.values() for group in cells}
    return [group for group in reversed(GROUPS) if group in present]


def _best(table: Mapping[str, Any]) -> dict[str, float]:
    """The highest accuracy of every group: what stands out in a table, not what is shown to be better."""
    cells = [
        (group, cell[group])
        for arm in table.values()
        for cell in arm.values()
        for group in _groups(table)
        if group in cell
    ]
    return {group: max(cell["accuracy"] for own, cell in cells if own == group) for group, _ in cells}


def _timed(table: Mapping[str, Any]) -> bool:
    return any("pictures_per_second" in cells for answers in table.values() for cells in answers.values())


def _headline(data: ReportData) -> list[dict[str, Any]]:
    """Each arm's better one-pass answer, and the best description of a control, on the headline's group."""
    groups = _groups(data.table)
    if not groups:
        return []
    bars: list[dict[str, Any]] = []
    for arm in data.table:
        best = one_pass_accuracy(data.table, arm, groups[0])
        if best:
            bars.append({"arm": arm, "answer": best[0], "cell": best[1], "group": groups[0]})
    cells = {arm: data.table[arm]["describe"] for arm in CONTROLS if "describe" in data.table.get(arm, {})}
    described = {arm: cell[groups[0]] for arm, cell in cells.items() if groups[0] in cell}
    if described:
        arm = max(described, key=lambda one: described[one]["accuracy"])
        bars.append({"arm": arm, "answer": "describe", "cell": described[arm], "group": groups[0]})
    return [
        {**bar, "speed": data.table[bar["arm"]][bar["answer"]].get("pictures_per_second")} for bar in bars
    ]


def _forest(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows with their places on a common axis, in percent of its width."""
    if not rows:
        return {}
    low = math.floor(10 * min(-0.1, *(row["low"] for row in rows))) / 10
    high = math.ceil(10 * max(0.1, *(row["high"] for row in rows))) / 10

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    placed = [
        {
            **row,
            "left": place(row["low"]),
            "width": round(place(row["high"]) - place(row["low"]), 2),
            "dot": place(row["mean"]),
            "open": row["low"] <= 0 <= row["high"],
        }
        for row in rows
    ]
    sections = [
        (
            title,
            [
                row
                for group in reversed(GROUPS)
                for row in placed
                if (row["comparison"], row["group"]) == (comparison, group)
            ],
        )
        for comparison, title in COMPARISONS.items()
    ]
    return {
        "sections": [section for section in sections if section[1]],
        "zero": place(0),
        "low": round(100 * low),
        "high": round(100 * high),
        "widened": max(row["confidence"] for row in rows),
    }


def _cost(table: Mapping[str, Any], colours: Mapping[str, str]) -> str | None:
    groups = _groups(table)
    points = []
    for arm, answers in table.items():
        for answer, cells in answers.items():
            speed = cells.get("pictures_per_second")
            if groups[0] in cells and speed:
                mean, low, high = (100 * cells[groups[0]][bound] for bound in ("accuracy", "low", "high"))
                label = f"{arm}, {answer}: {mean:.1f} % at {_number(speed)} pictures/s"
                points.append(Point(colours[arm], SHAPES[answer], speed, mean, low, high, label))
    if not points:
        return None
    return scatter(points, x_title="pictures per second", title="Accuracy over pictures per second")


def _projections(embeddings: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for arm, own in embeddings.items():
        drawing, explained = projection(
            np.asarray(own["objects"]),
            own["object_groups"],
            own["object_categories"],
            np.asarray(own["texts"]),
            own["text_names"],
            title=f"Objects and category texts of {arm}",
        )
        found.append({"arm": arm, "svg": drawing, "explained": explained})
    return found


def _histories(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], colours: Mapping[str, str]
) -> list[dict[str, str]]:
    """A chart for the loss, each of its terms, and each temperature, with all arms that recorded it."""
    names = dict.fromkeys(name for rows in histories.values() for row in rows for name in row["metrics"])
    losses = sorted((name for name in names if "loss" in name), key=len)  # the whole before its terms
    wanted = losses + [name for name in names if "temperature" in name]
    charts = []
    for name in wanted:
        lines = [line for arm, rows in histories.items() if (line := _curve(arm, rows, name, colours[arm]))]
        if lines:
            charts.append({"name": name, "svg": curves(lines, title=f"{name} over training steps")})
    return charts


def _curve(arm: str, rows: Sequence[Mapping[str, Any]], name: str, colour: str) -> Curve | None:
    """One metric of an arm; steps count on where a stage starts again at its first step."""
    steps, values, breaks = [], [], []
    offset, before, stage = 0.0, 0.0, rows[0]["stage"] if rows else ""
    for row in rows:
        if row["stage"] != stage:
            stage = row["stage"]
            breaks.append(offset + before)
            offset += before if row["step"] <= before else 0
        before = row["step"]
        value = row["metrics"].get(name)
        if value is not None and math.isfinite(value):
            steps.append(offset + before)
            values.append(float(value))
    return Curve(colour, arm, steps, values, breaks) if values else None


def _flat(trial: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in trial.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "−")


def _number(value: Any) -> str:
    """Three significant digits for a measured number, everything else as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "–" if value is None else str(value)
