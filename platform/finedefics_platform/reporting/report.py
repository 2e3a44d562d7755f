"""The report of runs, a search or a comparison: one HTML file that needs nothing else and no network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finedefics.evaluation import NOT_SHOWN
from finedefics_platform.base.storage import Location
from finedefics_platform.reporting import figures
from finedefics_platform.reporting.charts import Point, scatter_of
from finedefics_platform.reporting.mistakes import Mistakes, for_page
from finedefics_platform.reporting.page import page_environment

VERDICT = 3  # sentences that stand first


@dataclass(frozen=True)
class Differing:
    """Settings in which runs differ: ``rows`` of ``(key, a value a run)``, None where one has no such key."""

    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str | None]]]


@dataclass(frozen=True)
class PerCategory:
    """Accuracy of every category.

    Attributes:
        columns: ``{"arm", "answer"}``.
        rows: ``{"category", "group", "n", "cells": a cell or None for each column}``.
        note: what was left out.
    """

    columns: Sequence[Mapping[str, str]]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""


@dataclass(frozen=True)
class ReportData:
    """What a report shows; whatever is empty is left out.

    Attributes:
        title: of the page; ``kind``: the words above it.
        table: `finedefics.evaluation.accuracy_table` with all categories competing; order of arms is kept.
        options_table: the same with hard options.
        differences: rows of `finedefics.evaluation.differences`.
        verdict: sentences; the first three stand first. Those that begin with
            `finedefics.evaluation.NOT_SHOWN` are of what the numbers do not show.
        facts: ``(what, value)``: date, commit, hardware, data.
        arms: what each arm is.
        missing: ``(what is not known, the command that measures it)``.
        checks: ``("good", "bad" or "open", what, finding)``: controls, chance, leaks, unread replies.
        chance: what guessing gives, by scope.
        retrieval: ``{arm: {"object_to_name", "object_to_description"}}``, shares of pictures whose nearest
            text is the right one; the arm ``base`` is "before".
        histories: ``{arm: [{"stage", "step", "metrics": {name: value}}]}``.
        trials: one mapping a trial of the search; nested mappings become columns ``a.b``.
        mistakes: confusions and pictures to look through.
        per_category: accuracy of every category.
        differing: settings in which the arms differ.
        experiments: effective configuration of arms, YAML.
        risks: ``{arm: {answer: [[coverage, risk], ...]}}``, by rising coverage: what is wrong among the
            pictures of which the answer is surest.
        provenance: what to know to repeat it: digests, versions, seed; ``commands`` is a list of lines.
        embeddings: ``{arm: {"objects": [objects, dim], "object_groups", "object_categories": names,
            "texts": [texts, dim], "text_names"}}`` for the projections.
    """

    title: str
    kind: str = "comparison of arms"
    table: Mapping[str, Any] = field(default_factory=dict)
    options_table: Mapping[str, Any] = field(default_factory=dict)
    differences: Sequence[Mapping[str, Any]] = ()
    verdict: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    arms: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[tuple[str, str]] = ()
    checks: Sequence[tuple[str, str, str]] = ()
    chance: Mapping[str, float] = field(default_factory=dict)
    retrieval: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    histories: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    trials: Sequence[Mapping[str, Any]] = ()
    mistakes: Mistakes | None = None
    per_category: PerCategory | None = None
    differing: Differing | None = None
    experiments: Mapping[str, str] = field(default_factory=dict)
    risks: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    embeddings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def write_report(data: ReportData, place: Location) -> None:
    """Render ``data`` as one self-contained HTML file, written whole.

    Raises:
        FinedeficsError: the place cannot be written to.
    """
    place.write_text(render_report(data))


def render_report(data: ReportData) -> str:
    """The page's text."""
    environment = page_environment()
    environment.filters.update(figures.FILTERS)
    differing = data.differing.names if data.differing else ()
    colours = figures.colours_of(
        [
            *data.table,
            *data.options_table,
            *data.histories,
            *data.retrieval,
            *data.embeddings,
            *data.risks,
            *data.arms,
            *differing,
        ]
    )
    shown = [one for one in data.verdict if not one.startswith(NOT_SHOWN)]
    trials = [figures.flat(trial) for trial in data.trials]
    return environment.get_template("report.html.j2").render(
        data=data,
        contents=[],
        facts=data.facts,
        colours=colours,
        lead=shown[:VERDICT],
        shown=shown[VERDICT:],
        not_shown=[one.removeprefix(NOT_SHOWN) for one in data.verdict if one.startswith(NOT_SHOWN)],
        answers=figures.answers_of(data.table),
        explained=figures.explained,
        markers=figures.marker_of,
        clustered=figures.clustered,
        any_clustered=figures.any_clustered(data.table, data.options_table),
        groups=figures.groups_of(data.table, data.options_table),
        tables=[
            (name, heading, table, figures.best_of(table), figures.is_timed(table))
            for name, heading, table in (
                ("accuracy", "All categories compete", data.table),
                ("options", "Hard options", data.options_table),
            )
        ],
        headline=figures.headline(data.table, data.options_table, data.chance),
        forest=figures.forest(data.differences),
        cost=figures.cost(data.table, colours),
        refusing=figures.refusing(data.risks, colours),
        mistakes=for_page(data.mistakes) if data.mistakes and data.mistakes.views else None,
        projections=figures.projections(data.embeddings),
        histories=figures.histories(data.histories, colours),
        trials=trials,
        searched=_searched(trials),
        provenance=[(k, v) for k, v in data.provenance.items() if k != "commands" and v not in (None, "")],
    )


def _searched(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The figure of every trial over each number that was searched."""
    keys = dict.fromkeys(key for trial in trials for key in trial if key.startswith("config."))
    charts = []
    for key in keys:
        told = [t for t in trials if _is_number(t.get(key)) and _is_number(t.get("metric"))]
        if len({t[key] for t in told}) < 2:
            continue
        points = [
            Point(
                "arm-first" if trial.get("status") == "finished" else "arm-first unfinished",
                "circle",
                float(trial[key]),
                float(trial["metric"]),
                float(trial["metric"]),
                float(trial["metric"]),
                f"{key.removeprefix('config.')} {figures.number(trial[key])}: {trial['metric']:.3f}",
            )
            for trial in told
        ]
        name = key.removeprefix("config.")
        charts.append({"name": name, "svg": scatter_of(points, x_title=name, title=f"Trials over {name}")})
    return charts


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
