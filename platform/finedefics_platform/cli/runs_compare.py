"""`finedefics runs compare`: all in which runs differ, and paired intervals where they share pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape

from finedefics.errors import wrong_use

from .console import Reporter, reporter

_LONGEST = 60  # characters of a setting in the table; --json has all


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Two or more runs: keys, names, ids of `runs list`, or birds@champion."),
    ],
    everything: Annotated[
        bool, typer.Option("--all", help="Metrics that are of speed and memory too.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Put runs side by side: settings that differ, last metrics, accuracies, paired differences.

    Settings are those of the experiments as they were trained, stages included. Differences are to the first
    run named, on the pictures that both were asked, with 95 % intervals.

    Example: `finedefics runs compare joint control`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.comparison.side_by_side import compare_runs

    if len(runs) < 2:
        raise wrong_use("only one run", place="finedefics runs compare", cure="name at least two runs")
    out = reporter(json)
    found = compare_runs(open_workspace(), runs)
    out.event("comparison", **asdict(found))
    columns = (
        "",
        *(f"{escape(name)}\n{escape(key)}" for name, key in zip(found.names, found.keys, strict=True)),
    )
    _texts(out, "Settings that differ", columns, found.settings, "The settings are the same.")
    _texts(out, "Made from and by", columns, found.facts, "")
    if found.accuracies:
        rows = [(escape(name), *map(_cell, cells)) for name, cells in found.accuracies.items()]
        out.table(f"Percent right [95 % interval], {escape(found.measured_on)}", columns, rows)
    _paired(out, found.paired)
    shown = {n: row for n, row in found.metrics.items() if everything or not _is_cost(n)}
    if shown:
        numbers = [(escape(n), *("" if v is None else f"{v:.5g}" for v in row)) for n, row in shown.items()]
        out.table("Metrics (last value)", columns, numbers)
    out.say(f"pictures and curves: finedefics report {' '.join(map(escape, found.keys))}")
    out.done(runs=list(found.keys))


def _texts(
    out: Reporter, title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str | None]], none: str
) -> None:
    cells = [
        (escape(name), *("–" if v is None else escape(_short(v)) for v in row)) for name, row in rows.items()
    ]
    if cells:
        out.table(title, columns, cells)
    elif none:
        out.say(none)


def _paired(out: Reporter, rows: Sequence[Mapping[str, Any]]) -> None:
    shown = [row for row in rows if row["group"] != "all" or _only_group(rows, row)]
    if not shown:
        out.say("No pictures were asked of two of them: nothing can be said of a difference in accuracy.")
        return
    lines = []
    for row in shown:
        low, high = (f"{100 * row[bound]:+.1f}" for bound in ("low", "high"))
        word = "" if row["low"] <= 0 <= row["high"] else ("above" if row["mean"] > 0 else "below")
        what = f"{row['answer']}, {'all categories' if row['scope'] == 'all' else 'options'}, {row['group']}"
        lines.append(
            (escape(row["run"]), what, f"{100 * row['mean']:+.1f}", f"{low} to {high}", row["n"], word)
        )
    columns = ("run", "answer", "points", "95 % interval", "pictures", "")
    out.table(f"Paired differences to {escape(shown[0]['against'])}", columns, lines)


def _only_group(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> bool:
    keys = ("run", "answer", "scope")
    return sum(all(other[key] == row[key] for key in keys) for other in rows) == 1


def _is_cost(metric: str) -> bool:
    return metric.endswith(("_per_second", "_mib", "_share", "seconds")) or metric in ("mfu", "host_memory")


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    mean, low, high = (f"{100 * cell[key]:.1f}" for key in ("accuracy", "low", "high"))
    return f"{mean} [{low}, {high}] of {cell['n']}"


def _short(value: str) -> str:
    return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 1]}…"
