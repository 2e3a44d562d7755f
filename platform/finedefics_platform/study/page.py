"""A study as pages: Markdown for a repository, and one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finedefics_platform.base.storage import Location
from finedefics_platform.reporting.figures import FILTERS, on_axis, signed
from finedefics_platform.reporting.page import page_environment
from finedefics_platform.study.document import GROUPS, TRAINING

NONE = "–"  # where there is no figure
_LEVEL = 0.05

_EXPLORATORY = "Not named beforehand and not corrected: to ask about, not to claim."
_TOKENS = (
    "Tokens: positions that the language model computed in training, padding included; mean of the runs."
)
_ABOUT = {
    "new": "Categories without a labelled picture",
    "labelled": "Labelled categories",
    "all": "All categories",
    "harmonic": "Harmonic mean of both, in each world",
    "labels": "Inferred labels",
    "training": "Training",
}
_COLOURS = ("control", "first", "second", "third", "fourth", "two-stage", "instruction", "base")


def write_pages(told: Mapping[str, Any], place: Location) -> None:
    """Write ``study.md`` and ``study.html`` of a result (`finedefics_platform.study.result.summary`)."""
    (place / "study.html").write_text(study_page(told)[0])
    (place / "study.md").write_text(markdown(told))


def study_page(told: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The HTML page of a result, and the sentences that stand first on it."""
    environment = page_environment()
    environment.filters.update(FILTERS | {"p": p_value})
    lead = verdict(told)
    text = environment.get_template("study.html.j2").render(
        told=told,
        contents=[],
        facts=_facts(told),
        lead=lead,
        tables=tables(told),
        arms={arm: _what(told, arm) for arm in told["arms"]},
        colours={arm: f"arm-{_COLOURS[i % len(_COLOURS)]}" for i, arm in enumerate(told["arms"])},
        planned=_forest([row for row in told["differences"] if row["planned"]]),
        exploratory=[row for row in told["differences"] if not row["planned"] and row["n"]],
        notes=notes(told),
        about_tokens=_TOKENS,
        design=design(told),
        interval=interval,
    )
    return text, lead


def verdict(told: Mapping[str, Any]) -> list[str]:
    """At most three sentences: how many planned differences are shown, the largest, what is missing."""
    planned = [row for row in told["differences"] if row["planned"]]
    if not planned:
        return ["No comparison was planned: every difference below is exploratory."]
    known = [row for row in planned if row["low"] is not None]
    held = [row for row in known if not row["low"] <= 0 <= row["high"]]
    sure = [row for row in held if row["holm"] is not None and row["holm"] < _LEVEL]
    said = [
        f"Of {len(planned)} planned comparisons {len(held)} have a 95 % interval without 0, and {len(sure)} "
        f"are significant after correction for their number (Holm, p < {_LEVEL})."
    ]
    if sure or held:
        most = max(sure or held, key=lambda row: abs(row["mean"]))
        word = "above" if most["mean"] > 0 else "below"
        said.append(
            f"The largest: {most['arm']} is {abs(100 * most['mean']):.1f} points {word} {most['against']} in "
            f"{most['metric']} ({interval(most)}; p {p_value(most['holm'])}; {most['n']} pairs)."
        )
    said.append(
        f"{len(told['failed'])} figures are missing because a step failed."
        if told["failed"]
        else f"The intervals cover the draw of {_units(told)}, {len(told['worlds'])} here, and nothing else."
    )
    return said


def _facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            "measured on",
            f"{len(told['worlds'])} {_units(told)}, split {told['settings']['evaluation']['split']}",
        ),
        ("training seeds", ", ".join(map(str, told["seeds"]))),
        ("computing", f"{told['seconds'] / 60:.0f} minutes of steps"),
        ("settings", str(told["digest"])),
    ]


def _units(told: Mapping[str, Any]) -> str:
    return "worlds" if told["settings"]["worlds"] else "data sets"


def _what(told: Mapping[str, Any], arm: str) -> str:
    """What an arm is, from the study's file."""
    name, _, condition = arm.partition(" @ ")
    own = told["settings"]["arms"].get(name, {})
    if not own.get("train", True):
        said = "labels that are measured" if own.get("labels") else "the base model as it is"
    else:
        file = own.get("experiment") or told["settings"].get("experiment") or "its own experiment"
        said = f"trained by {file}"
        if own.get("set"):
            said += f" with {_settings(own['set'])}"
        if own.get("labels"):
            labels = own["labels"]
            said += f", labels: {labels['labeller'] if isinstance(labels, Mapping) else labels}"
    return f"{said}; in condition {condition}" if condition else said


def markdown(told: Mapping[str, Any]) -> str:
    """The page of `docs/studies/`: question, design, table, comparisons, and what is not shown."""
    lines = [f"# {told['study']}", ""]
    lines += [told["question"], ""] if told["question"] else []
    lines += ["## Design", "", *(f"- {line}" for line in design(told)), ""]
    lines += [
        "## Figures",
        "",
        f"Percent: mean over worlds ± half of the 95 % t-interval. {_TOKENS}",
    ]
    for table in tables(told):
        lines += ["", f"### {table.title}", "", *_rows(["arm", *table.columns], table.rows)]
    planned = [row for row in told["differences"] if row["planned"]]
    others = [row for row in told["differences"] if not row["planned"] and row["n"]]
    if planned:
        lines += ["", "## Planned comparisons", "", "Points; p is Holm's over these comparisons.", ""]
        lines += _rows(
            ["arm", "against", "metric", "difference", "95 % interval", "p (Holm)", "pairs"],
            [_told(row, p_value(row["holm"])) for row in planned],
        )
    if others:
        lines += [
            "",
            "## Exploratory",
            "",
            f"<details><summary>{len(others)} other differences. {_EXPLORATORY}</summary>",
            "",
        ]
        lines += _rows(
            ["arm", "against", "metric", "difference", "95 % interval", "p", "pairs"],
            [_told(row, p_value(row["p"])) for row in others],
        )
        lines += ["", "</details>"]
    if said := notes(told):
        lines += ["", "## What went wrong or is missing", "", *(f"- {note}" for note in said)]
    if told["limits"]:
        lines += ["", "## What it does not show", "", told["limits"].strip()]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Table:
    """Figures of one group: a row an arm, beginning with its name, a column an answer."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def tables(told: Mapping[str, Any]) -> list[Table]:
    """The figures, a table a group of pictures, and what training cost; arms without any are left out."""
    metrics = list(dict.fromkeys(metric for arm in told["arms"].values() for metric in arm))
    made = []
    for group in GROUPS:
        answers = [metric.partition("/")[2] for metric in metrics if metric.startswith(f"{group}/")]
        costs = group == TRAINING and any(told["tokens"].values())
        rows = [
            [
                arm,
                *(cell(told, arm, f"{group}/{a}") for a in answers),
                *([tokens(told, arm)] if costs else []),
            ]
            for arm in told["arms"]
        ]
        if rows := [row for row in rows if set(row[1:]) - {NONE}]:
            made.append(Table(_ABOUT[group], [*answers, *(["tokens"] if costs else [])], rows))
    return made


def cell(told: Mapping[str, Any], arm: str, metric: str) -> str:
    """``83.1 ± 2.0``; the mean alone where one world has no interval."""
    found = told["arms"][arm].get(metric)
    if found is None:
        return NONE
    half = "" if found["half"] is None else f" ± {100 * found['half']:.1f}"
    return f"{100 * found['mean']:.1f}{half}"


def tokens(told: Mapping[str, Any], arm: str) -> str:
    """``1,234,000`` to four digits, or a dash for an arm that is not trained."""
    spent = told["tokens"][arm]
    return NONE if spent is None else f"{float(f'{spent:.4g}'):,.0f}"


def interval(row: Mapping[str, Any]) -> str:
    """``+1.2 to +3.4`` points, or why there is none."""
    if row["low"] is None:
        return {0: "none: no pair", 1: "none: one pair"}.get(row["n"], "none: no spread")
    return f"{signed(row['low'])} to {signed(row['high'])}"


def p_value(p: float | None) -> str:
    """Three digits, or that it is smaller."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def design(told: Mapping[str, Any]) -> list[str]:
    """What was measured on what, in lines."""
    settings, worlds = told["settings"], told["worlds"]
    lines = [f"{len(worlds)} {told['worlds_are']} {'worlds' if settings['worlds'] else ''}".strip()]
    lines[0] += f": {', '.join(worlds)}"
    lines.append(f"training seeds: {', '.join(map(str, told['seeds']))} (a world's figure is their mean)")
    lines += [f"condition `{name}`: {_settings(changed)}" for name, changed in told["conditions"].items()]
    lines.append(f"answers: {', '.join(told['answers'])}; split {settings['evaluation']['split']}")
    done = ", ".join(f"{kind['steps']} × {name}" for name, kind in told["steps"].items())
    lines.append(f"steps: {done}; {told['seconds'] / 60:.0f} minutes, those of concurrent steps added up")
    lines.append(f"settings: `{told['digest']}`")
    return lines


def notes(told: Mapping[str, Any]) -> list[str]:
    """Failures, missing pairs and missing intervals, in sentences."""
    said = [f"{each['arm']} in {each['world']} failed: {each['error']}" for each in told["failed"]]
    if len(told["worlds"]) == 1:
        said.append("One world: there is no interval, and nothing can be said of other worlds.")
    missing = [
        f"{row['arm']} against {row['against']}, {row['metric']}: without {', '.join(row['missing'])}"
        for row in told["differences"]
        if row["planned"] and row["missing"]
    ]
    return said + missing


def _settings(changed: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in changed.items()) or "as the worlds' settings say"


def _told(row: Mapping[str, Any], p: str) -> list[str]:
    names = [row["arm"], row["against"], row["metric"]]
    return [*names, signed(row["mean"]), interval(row), p, str(row["n"])]


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *rows)]


def _forest(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows with their places on a common axis, in percent of its width."""
    shown = [row for row in rows if row["mean"] is not None]
    placed, axis = on_axis(shown)
    pairs = {row["n"] for row in shown}  # of all rows, where they have equally many
    same = pairs.pop() if len(pairs) == 1 else None
    told = [
        {
            **row,
            "said": f"− {row['against']}, {row['metric']}",
            "about": f"[{interval(row)}] p {p_value(row['holm'])}" + ("" if same else f", {row['n']} pairs"),
        }
        for row in placed
    ]
    return {"rows": told, **axis, "pairs": same}
