"""What `finedefics evaluate` prints of an evaluation, of a model or of an encoder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from .console import Reporter

_INTERVALS = ("95 % by picture", "95 % by category")
_COLUMNS = ("answer", "group", "accuracy %", *_INTERVALS, "pictures", "unparsed %", "pictures/s")

if TYPE_CHECKING:
    from finedefics_platform.evaluation.items import Evaluated
    from finedefics_platform.evaluation.recording import Recorded


def show_figures(out: Reporter, name: str, done: "Evaluated", wanted: int) -> dict[str, Any]:
    """Print what an evaluation found, and how it asked; returns the tables by scope.

    Args:
        name: of the model or encoder.
        wanted: options that were asked for.
    """
    from finedefics.evaluation.tables import accuracy_table

    speeds = {name: done.summary["pictures_per_second"]}
    tables = {
        scope: accuracy_table({name: done.items()}, speeds, scope)[name] for scope in ("all", "options")
    }
    for scope, table in tables.items():
        if table:
            out.table(
                "all categories" if scope == "all" else _options_title(done.summary),
                _COLUMNS,
                _figures(table, done.summary["unparseable"]),
            )
    _say_options(out, done.summary, wanted)
    _say_chance(out, done.summary, tables)
    _say_leaks(out, done.summary)
    _say_calibration(out, done.summary)
    return tables


def say_recorded(out: Reporter, done: "Evaluated", recorded: "Recorded") -> None:
    """Say where an evaluation's files lie, and which run in MLflow has them."""
    out.say(f"files: {escape(str(done.place))} (summary.json, items.parquet, embeddings.npz)")
    waits = " (the tracking server is away: `finedefics runs sync` sends it)" if recorded.waiting else ""
    out.say(f"MLflow run: {recorded.run_id}{waits}")


def _options_title(summary: Mapping[str, Any]) -> str:
    count = summary["protocol"]["options"]
    if "options_file" in summary:
        return f"{count} options of {escape(summary['options_file']['name'])}"
    return f"{count} options, {'some random' if summary.get('options_random') else 'hard ones'}"


def _say_options(out: Reporter, summary: Mapping[str, Any], wanted: int) -> None:
    """Where the options are not the mined ones that were asked for."""
    file = summary.get("options_file")
    if file:
        out.say(f"{file['matched']} of {file['items']} questions of {escape(file['name'])} were asked")
        for reason, number in file["unmatched"].items():
            out.say(f"[yellow]{number} not asked[/]: {escape(reason)}")
        if file["repeated"]:
            out.say(f"[yellow]{file['repeated']} not asked[/]: an earlier question is on the same picture")
        return
    if summary["protocol"]["options"] < wanted:
        out.say(f"[yellow]{summary['protocol']['options']} options[/]: there are no more categories")
    if drawn := summary.get("options_random"):
        pictures = f"{drawn} of {summary['pictures']} pictures"
        out.say(
            f"[yellow]{pictures} were asked on random options[/] (by seed): too few similar categories are "
            "mined for them, and random ones are easier to tell apart"
        )


def _say_chance(out: Reporter, summary: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    """Figures that guessing reaches: of a model that knows nothing, or of pictures that got mixed up."""
    from finedefics.evaluation.chance import guesses_in, warning

    for scope, chance in summary.get("chance", {}).items():
        if said := warning(guesses_in(tables[scope], scope, chance)):
            out.say(f"[yellow]warning[/]: {escape(said)}")


def _say_leaks(out: Reporter, summary: Mapping[str, Any]) -> None:
    """Pictures that were trained on, or that could not be looked for."""
    from finedefics.evaluation.leaks import warning

    if said := warning(summary.get("leaks", {})):
        out.say(f"[yellow]warning[/]: {escape(said)}")


def _say_calibration(out: Reporter, summary: Mapping[str, Any]) -> None:
    """Whether alignment was calibrated, and why."""
    about = summary.get("calibration")
    if about is None:
        return
    said = f"alignment is {'' if about['on'] else 'not '}calibrated: {about['why']}"
    if trial := about["trial"]:
        shares = f"{100 * trial['calibrated']:.1f} % against {100 * trial['plain']:.1f} %"
        said += f" ({shares} of {trial['pictures']} pictures)"
    if about["fitted"]:
        said += f"; fitted on {about['fitted']} training pictures"
    out.say(said)


def by_category(cell: Mapping[str, Any]) -> str:
    """A cell's interval clustered by category, and of how many; empty where it has none."""
    from finedefics.evaluation.clustered import FEW

    if cell.get("low_clustered") is None:
        return f"({cell['clusters']})" if "clusters" in cell else ""
    few = " few" if cell["clusters"] < FEW else ""
    return (
        f"{100 * cell['low_clustered']:.1f} to {100 * cell['high_clustered']:.1f} ({cell['clusters']}{few})"
    )


def _figures(table: Mapping[str, Mapping[str, Any]], unparsed: Mapping[str, float]) -> list[list[str]]:
    """One row for each answer and group; what was unparsed is that of the answer, both groups together."""
    rows = []
    for answer, cells in table.items():
        speed = f"{cells['pictures_per_second']:.0f}" if "pictures_per_second" in cells else ""
        for group in ("labelled", "new"):
            if cell := cells.get(group):
                percent = [f"{100 * cell[key]:.1f}" for key in ("accuracy", "low", "high")]
                unread = f"{100 * unparsed[answer]:.1f}" if unparsed.get(answer) else ""
                by = [" to ".join(percent[1:]), by_category(cell)]
                rows.append([answer, group, percent[0], *by, str(cell["n"]), unread, speed])
    return rows
