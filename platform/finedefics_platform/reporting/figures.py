"""What pages of figures are drawn from: tables and curves placed on axes, and how numbers are written."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finedefics.evaluation.tables import ANSWERS, CONTROLS, GROUPS
from finedefics.evaluation.verdict import one_pass_accuracy
from finedefics_platform.reporting.charts import Curve, Point, curves, marker, projection, scatter

Table = Mapping[str, Any]  # `finedefics.evaluation.accuracy_table`

SHAPES = {"names": "square", "alignment": "circle", "describe": "triangle"}
OTHER_SHAPE = "diamond"
COLOURS = {"base": "base", "instruction": "instruction", "control": "control", "two_stage": "two-stage"}
OTHER_COLOURS = ("first", "second", "third", "fourth", "fifth", "sixth")  # classes of the style sheet
ANSWER_TEXTS = {
    "names": "likelihood of the name",
    "names_corrected": "likelihood of the name over that without the picture",
    "names_free": "the name as the model writes it",
    "alignment": "similarity with the category index, one pass",
    "alignment_plain": "the same, not calibrated",
    "alignment_calibrated": "the same, calibrated against hubs",
    "alignment_names": "similarity with the names alone",
    "alignment_descriptions": "similarity with the descriptions alone",
    "describe": "describe, then name from the own words",
    "letters": "multiple choice, the letter as it is written",
    "letters_foci": "multiple choice, read as FOCI reads it",
    "letters_likelihood": "multiple choice, likelihood of the letter, one pass",
    "ensemble": "names and alignment together",
    "zero_shot": "an encoder's similarity with names",
    "zero_shot_texts": "an encoder's similarity with names and descriptions",
    "knn": "an encoder's nearest labelled pictures",
    "linear_probe": "a linear layer on an encoder",
}
COMPARISONS = {
    "whichever": "Worse one-pass answer against the best worse one of any control",
    "one_pass": "Better one-pass answer against the best of any control",
    "one_pass_to_describe": "Better one-pass answer against the best describe-then-name of any control",
    "strongest": "The same answer against the strongest control in it",
    "same_answer": "The same answer of both",
}
_MOST_DOTS = 1200  # pictures on a map: more make a page heavy and no picture clearer


def colours_of(arms: Sequence[str]) -> dict[str, str]:
    """A class of the style sheet for every arm; those of the demo keep theirs."""
    others = [arm for arm in dict.fromkeys(arms) if arm not in COLOURS]
    further = {arm: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, arm in enumerate(others)}
    return {arm: f"arm-{COLOURS.get(arm) or further[arm]}" for arm in dict.fromkeys(arms)}


def marker_of(answer: str) -> str:
    """The mark of an answer, for a legend."""
    return marker(SHAPES.get(answer, OTHER_SHAPE))


def answers_of(table: Table) -> list[str]:
    """The answers that occur, those of every comparison first."""
    there = dict.fromkeys(answer for answers in table.values() for answer in answers)
    return [answer for answer in ANSWERS if answer in there] + [a for a in there if a not in ANSWERS]


def explained(table: Table) -> str:
    """One line that says what the answers of a table are."""
    texts = [f"{answer}: {ANSWER_TEXTS[answer]}" for answer in answers_of(table) if answer in ANSWER_TEXTS]
    return "; ".join(texts) + ("." if texts else "")


def groups_of(*tables: Table) -> list[str]:
    """New categories first: they are what a comparison is about."""
    present = {
        group for table in tables for arm in table.values() for cells in arm.values() for group in cells
    }
    return [group for group in reversed(GROUPS) if group in present]


def best_of(table: Table) -> dict[str, float]:
    """The highest accuracy of every group: what stands out in a table, not what is shown to be better."""
    cells = [
        (group, cell[group])
        for arm in table.values()
        for cell in arm.values()
        for group in groups_of(table)
        if group in cell
    ]
    return {group: max(cell["accuracy"] for own, cell in cells if own == group) for group, _ in cells}


def is_timed(table: Table) -> bool:
    """Whether any of its answers was."""
    return any("pictures_per_second" in cells for answers in table.values() for cells in answers.values())


def clustered(cell: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval that allows for pictures of one category being alike, where it was computed."""
    low, high = cell.get("low_clustered"), cell.get("high_clustered")
    return None if low is None or high is None else (low, high)


def any_clustered(*tables: Table) -> bool:
    """Whether any cell has such an interval."""
    cells = [
        cell for table in tables for arm in table.values() for own in arm.values() for cell in own.values()
    ]
    return any(isinstance(cell, Mapping) and clustered(cell) for cell in cells)


def headline(table: Table, options: Table, chance: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each arm's best answer, and the best description of a control, on the group that matters most.

    The better of the one-pass answers where one was asked among all categories; else the best of whatever was
    asked.
    """
    chosen, scope = (table, "all") if groups_of(table) else (options, "options")
    if not (groups := groups_of(chosen)):
        return []
    group = groups[0]
    bars: list[dict[str, Any]] = []
    one_pass = False
    for arm in chosen:
        best = one_pass_accuracy(chosen, arm, group)
        one_pass = one_pass or best is not None
        if best := best or _best_answer(chosen[arm], group):
            bars.append({"arm": arm, "answer": best[0], "cell": best[1]})
    cells = {arm: chosen[arm]["describe"] for arm in CONTROLS if "describe" in chosen.get(arm, {})}
    described = {arm: cell[group] for arm, cell in cells.items() if group in cell}
    if described and one_pass:
        arm = max(described, key=lambda one: described[one]["accuracy"])
        bars.append({"arm": arm, "answer": "describe", "cell": described[arm]})
    what = "best one-pass answer" if one_pass else "best answer"
    title = f"{group.capitalize()} categories, {what}{' among hard options' if scope == 'options' else ''}"
    return [
        {
            **bar,
            "group": group,
            "title": title,
            "chance": chance.get(scope),
            "speed": chosen[bar["arm"]][bar["answer"]].get("pictures_per_second"),
        }
        for bar in bars
    ]


def _best_answer(answers: Mapping[str, Any], group: str) -> tuple[str, Mapping[str, Any]] | None:
    cells = {answer: cell[group] for answer, cell in answers.items() if group in cell}
    if not cells:
        return None
    best = max(cells, key=lambda answer: cells[answer]["accuracy"])
    return best, cells[best]


def on_axis(rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Differences (``mean``, ``low`` and ``high``, which may be None) placed on one axis, in percent of it.

    Returns:
        the rows with ``left``, ``width``, ``dot`` and whether they are ``open`` (hold 0), and the axis with
        its ``zero`` and its ends ``low`` and ``high`` in points.
    """
    bounds = [b for row in rows for b in (row["mean"], row["low"], row["high"]) if b is not None]
    low = math.floor(10 * min(-0.1, *bounds)) / 10 if bounds else -0.1
    high = math.ceil(10 * max(0.1, *bounds)) / 10 if bounds else 0.1

    def place(share: float) -> float:
        return round(100 * (share - low) / (high - low), 2)

    placed = [
        {
            **row,
            "left": place(row["mean"] if row["low"] is None else row["low"]),
            "width": 0 if row["low"] is None else round(place(row["high"]) - place(row["low"]), 2),
            "dot": place(row["mean"]),
            "open": row["low"] is None or row["low"] <= 0 <= row["high"],
        }
        for row in rows
    ]
    return placed, {"zero": place(0), "low": round(100 * low), "high": round(100 * high)}


def forest(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of `finedefics.evaluation.differences` on a common axis, by what is compared."""
    if not rows:
        return {}
    placed, axis = on_axis(rows)
    told = [{**row, "said": _said(row), "about": _about(row)} for row in placed]
    sections = [
        (title, [r for g in reversed(GROUPS) for r in told if (r["comparison"], r["group"]) == (kind, g)])
        for kind, title in COMPARISONS.items()
    ]
    return {
        "sections": [section for section in sections if section[1]],
        **axis,
        "widened": max(row["confidence"] for row in rows),
    }


def _said(row: Mapping[str, Any]) -> str:
    other = "" if row["against_answer"] == row["answer"] else f" {row['against_answer']}"
    return f"{row['answer']} − {row['against']}{other}, {row['group']}"


def _about(row: Mapping[str, Any]) -> str:
    return f"[{signed(row['low'])}, {signed(row['high'])}]{' holds 0' if row['open'] else ''}"


def cost(table: Table, colours: Mapping[str, str]) -> str | None:
    """Accuracy over pictures per second; None where nothing was timed."""
    groups = groups_of(table)
    points = []
    for arm, answers in table.items():
        for answer, cells in answers.items():
            speed = cells.get("pictures_per_second")
            if groups[0] in cells and speed:
                mean, low, high = (100 * cells[groups[0]][bound] for bound in ("accuracy", "low", "high"))
                label = f"{arm}, {answer}: {mean:.1f} % at {number(speed)} pictures/s"
                shape = SHAPES.get(answer, OTHER_SHAPE)
                points.append(Point(colours[arm], shape, speed, mean, low, high, label))
    if not points:
        return None
    return scatter(points, x_title="pictures per second", title="Accuracy over pictures per second")


def refusing(
    risks: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], colours: Mapping[str, str]
) -> list[dict[str, str]]:
    """A chart an answer: percent wrong among the pictures that are named, over percent of pictures named."""
    charts = []
    for answer in dict.fromkeys(answer for own in risks.values() for answer in own):
        lines = [
            Curve(colours[arm], arm, [100 * c for c, _ in own[answer]], [100 * r for _, r in own[answer]], [])
            for arm, own in risks.items()
            if own.get(answer)
        ]
        title = f"Wrong among named over named, {answer}"
        charts.append({"answer": answer, "svg": curves(lines, title=title, x_title="% of pictures named")})
    return charts


def projections(embeddings: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A map of each arm's embeddings; of very many pictures every n-th is drawn."""
    found = []
    for arm, own in embeddings.items():
        objects = np.asarray(own["objects"])
        stride = max(1, math.ceil(len(objects) / _MOST_DOTS))
        drawing, explained = projection(
            objects[::stride],
            own["object_groups"][::stride],
            own["object_categories"][::stride],
            np.asarray(own["texts"]),
            own["text_names"],
            title=f"Objects and category texts of {arm}",
        )
        found.append({"arm": arm, "svg": drawing, "explained": explained})
    return found


def histories(
    rows_by_arm: Mapping[str, Sequence[Mapping[str, Any]]], colours: Mapping[str, str]
) -> list[dict[str, str]]:
    """A chart for the loss, each of its terms, each temperature and each check on val, with all arms."""
    names = dict.fromkeys(name for rows in rows_by_arm.values() for row in rows for name in row["metrics"])
    losses = sorted((name for name in names if "loss" in name), key=len)  # the whole before its terms
    wanted = losses + [n for n in names if n not in losses and ("temperature" in n or n.startswith("val_"))]
    charts = []
    for name in wanted:
        lines = [line for arm, rows in rows_by_arm.items() if (line := _curve(arm, rows, name, colours[arm]))]
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


def flat(trial: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as columns ``a.b``."""
    found: dict[str, Any] = {}
    for key, value in trial.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def percent(fraction: float) -> str:
    """``85.4`` of 0.854."""
    return f"{100 * fraction:.1f}"


def signed(fraction: float | None) -> str:
    """Points with their sign."""
    return "–" if fraction is None else f"{100 * fraction:+.1f}".replace("-", "−")


def number(value: Any) -> str:
    """Three significant digits for a measured number, everything else as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "–" if value is None else str(value)


FILTERS: dict[str, Callable[..., str]] = {"percent": percent, "signed": signed, "number": number}
