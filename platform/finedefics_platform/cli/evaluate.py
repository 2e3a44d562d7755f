"""`finedefics evaluate`: how right a model is, with intervals, and into the registry if wished."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from .console import Reporter, reporter

if TYPE_CHECKING:
    from finedefics_platform.evaluation.items import Evaluated

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def evaluate(
    data: Annotated[str, typer.Option("--data", help="Dataset whose pictures are answered.")],
    model: Annotated[
        str | None, typer.Argument(help="Run key, model folder, or registered model (birds@champion).")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="In place of a model a frozen encoder: clip:MODEL, vision:MODEL, tuned:MODEL, a .py file.",
        ),
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option(
            "--answers",
            help="By comma: names, names_corrected, names_free, alignment, alignment_names, "
            "alignment_descriptions, describe, letters, letters_foci, letters_likelihood, ensemble "
            "[default: names,alignment,describe]; of an encoder zero_shot, zero_shot_texts, knn, "
            "linear_probe [default: all it can, but zero_shot_texts].",
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="val or test.")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only so many pictures.")] = None,
    options: Annotated[
        str | None,
        typer.Option("--options", help="A published file of questions (FOCI), asked as it stands."),
    ] = None,
    register: Annotated[
        str | None,
        typer.Option("--register", help="Register the run under this name, or add to what a version showed."),
    ] = None,
    json: Json = False,
) -> None:
    """Answer every picture of a split, on all categories and on hard options, with 95 % intervals.

    Options are the most similar wrong categories that are mined, random ones where too few are; of fewer than
    four categories all are asked. With --options the questions are those of a published file, matched by file
    name.

    Example: `finedefics evaluate joint-1a2b3c4d5e6f --data birds --register birds`

    Example: `finedefics evaluate --encoder vision:facebook/dinov2-base --data birds`
    """
    if encoder is not None or model is None:
        from .evaluate_encoder import evaluate_encoder

        return evaluate_encoder(model, encoder, data, answers, split, limit, options, register, json)
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.experiment import Evaluation
    from finedefics_platform.config.section import parse_document
    from finedefics_platform.data.store import open_dataset
    from finedefics_platform.evaluation import run as evaluation
    from finedefics_platform.evaluation.checks import check_evaluable
    from finedefics_platform.models.references import open_model
    from finedefics_platform.models.registration import check_registrable, register_evaluated

    out = reporter(json)
    workspace = open_workspace()
    asked = {
        "split": split,
        "answers": tuple((answers or "names,alignment,describe").split(",")),
        "limit": limit,
    }
    settings = parse_document(Evaluation, asked, place="finedefics evaluate")
    check_evaluable(open_dataset(workspace, data), settings)  # before a model is fetched
    opened = open_model(workspace, model)
    if register:
        check_registrable(register, opened)
    done = evaluation.evaluate(
        workspace,
        opened.place,
        data,
        settings,
        labelled=opened.labelled,
        options=options,
        progress=out,
    )
    tables = show_figures(out, model, done, settings.options)
    for answer, share in done.summary["unparseable"].items():
        if share:
            out.say(f"{answer}: {100 * share:.1f} % of the replies named no category or option (wrong above)")
    version = None
    if register:
        version = register_evaluated(workspace, register, opened, done).reference
        promote = f"finedefics models promote {version.replace('/', ' ')} --reason '…'"
        out.say(f"added to {version}" if opened.version else f"registered {version}; next: {promote}")
    out.done(model=model, folder=str(done.place), summary=done.summary, tables=tables, version=version)


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
                ["answer", "group", "accuracy %", "95 % interval", "pictures", "pictures/s"],
                _figures(table),
            )
    _say_options(out, done.summary, wanted)
    _say_chance(out, done.summary, tables)
    return tables


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
    for scope, chance in summary.get("chance", {}).items():
        guessed = [
            f"{answer} ({group})"
            for answer, cells in tables[scope].items()
            for group in ("labelled", "new")
            if group in cells and cells[group]["low"] <= chance
        ]
        if guessed:
            among = "all categories" if scope == "all" else "options"
            out.say(
                f"[yellow]not shown to be better than guessing[/] among {among} ({100 * chance:.1f} %): "
                + ", ".join(guessed)
            )


def _figures(table: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """One row for each answer and group."""
    rows = []
    for answer, cells in table.items():
        speed = f"{cells['pictures_per_second']:.0f}" if "pictures_per_second" in cells else ""
        for group in ("labelled", "new"):
            if cell := cells.get(group):
                percent = [f"{100 * cell[key]:.1f}" for key in ("accuracy", "low", "high")]
                rows.append([answer, group, percent[0], " to ".join(percent[1:]), str(cell["n"]), speed])
    return rows
