"""`finedefics evaluate`: how right a model is, with intervals, and into the registry if wished."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finedefics.errors import FinedeficsError

from .console import reporter

if TYPE_CHECKING:
    from finedefics_platform.base.storage import Location
    from finedefics_platform.base.workspace import Workspace
    from finedefics_platform.evaluation.items import Evaluated

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Run key, model folder, or registered model (birds@champion).")
    ],
    data: Annotated[str, typer.Option("--data", help="Dataset whose pictures are answered.")],
    answers: Annotated[
        str,
        typer.Option(
            "--answers",
            help="By comma: names, names_corrected, names_free, alignment, alignment_names, "
            "alignment_descriptions, describe, letters, letters_foci, letters_likelihood, ensemble.",
        ),
    ] = "names,alignment,describe",
    split: Annotated[str, typer.Option("--split", help="val or test.")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only so many pictures.")] = None,
    register: Annotated[
        str | None, typer.Option("--register", help="Register the run's model under this name.")
    ] = None,
    json: Json = False,
) -> None:
    """Answer every picture of a split, on all categories and on hard options, with 95 % intervals.

    Example: `finedefics evaluate joint-1a2b3c4d5e6f --data birds --register birds`
    """
    from finedefics.evaluation.tables import accuracy_table
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.experiment import Evaluation
    from finedefics_platform.config.section import parse_document
    from finedefics_platform.data.store import open_dataset
    from finedefics_platform.evaluation import run as evaluation

    out = reporter(json)
    workspace = open_workspace()
    asked = {"split": split, "answers": tuple(answers.split(",")), "limit": limit}
    settings = parse_document(Evaluation, asked, place="finedefics evaluate")
    place, labelled = _asked_model(workspace, model)
    done = evaluation.evaluate(workspace, place, data, settings, labelled=labelled, progress=out)
    speeds = {model: done.summary["pictures_per_second"]}
    tables = {
        scope: accuracy_table({model: done.items()}, speeds, scope)[model] for scope in ("all", "options")
    }
    for scope, table in tables.items():
        if table:
            out.table(
                "all categories" if scope == "all" else f"{settings.options} hard options",
                ["answer", "group", "accuracy %", "95 % interval", "pictures", "pictures/s"],
                _figures(table),
            )
    for answer, share in done.summary["unparseable"].items():
        if share:
            out.say(f"{answer}: {100 * share:.1f} % of the replies named no category or option (wrong above)")
    version = None
    if register:
        version = _register(
            workspace, register, model, done, open_dataset(workspace, data).digest, tables["all"]
        )
        out.say(
            f"registered {version}; next: finedefics models promote {version.replace('/', ' ')} --reason '…'"
        )
    out.done(model=model, folder=str(done.place), summary=done.summary, tables=tables, version=version)


def _figures(table: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """One row for each answer and group."""
    rows = []
    for answer, cells in table.items():
        speed = f"{cells['pictures_per_second']:.0f}"
        for group in ("labelled", "new"):
            if cell := cells.get(group):
                percent = [f"{100 * cell[key]:.1f}" for key in ("accuracy", "low", "high")]
                rows.append([answer, group, percent[0], " to ".join(percent[1:]), str(cell["n"]), speed])
    return rows


def _asked_model(workspace: "Workspace", model: str) -> "tuple[Location, tuple[str, ...] | None]":
    """A run's model, a model folder as it is, or a registered version's files; and what it had labels of."""
    from finedefics_platform.base.storage import Location
    from finedefics_platform.models.registry import open_model
    from finedefics_platform.training.run import open_run

    if _names_a_run(workspace, model):
        run = open_run(workspace, model)
        return run.model, run.labelled
    if (Location.of(model) / "config.json").is_file():
        return Location.of(model), None
    return Location.of(open_model(workspace, model) / "model"), None


def _names_a_run(workspace: "Workspace", text: str) -> bool:
    """Whether the text is a run's key, or begins one as far as into its digest."""
    if re.fullmatch(r"[a-z0-9_.-]+-[0-9a-f]{4,12}", text) is None:
        return False
    return any(run.name.startswith(text) for run in workspace.runs.children())


def _register(
    workspace: "Workspace",
    name: str,
    model: str,
    done: "Evaluated",
    dataset_digest: str,
    table: Mapping[str, Any],
) -> str:
    from finedefics_platform.base.storage import fetch
    from finedefics_platform.models.registry import register
    from finedefics_platform.training.run import open_run

    run = open_run(workspace, model)
    if run.parent_run_id is None:
        raise FinedeficsError("the run was not tracked", place=model, cure="train it with `finedefics train`")
    experiment = run.experiment()
    version = register(
        workspace,
        name=name,
        model_folder=fetch(run.model),
        index_folder=done.index,
        run_id=run.parent_run_id,
        evaluation=table,
        dataset_digest=dataset_digest,
        base=Path(experiment.model.path).name,
        adapter=experiment.adapters.identity(),
        items=done.items_file,
    )
    return version.reference
