"""`finedefics study …`: arms against controls, paired over worlds and seeds."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from .console import Reporter, reporter

if TYPE_CHECKING:
    from finedefics_platform.base.workspace import Workspace
    from finedefics_platform.study.plan import Plan

app = typer.Typer(help="Compare arms over worlds or data sets, with intervals.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command()
def run(
    file: Annotated[str, typer.Argument(help="Study file (YAML).")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the steps and do nothing.")] = False,
    at_once: Annotated[
        int | None,
        typer.Option("--at-once", min=1, help="Steps at a time [default: what the cluster has room for]."),
    ] = None,
    json: Json = False,
) -> None:
    """Do the steps of a study that are not done yet, and tell its figures; an interrupted study goes on.

    A step that fails leaves the others alone; the command then ends with exit code 1, after the table.

    Example: `finedefics study run jobs/studies/both.yaml`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.study.document import load_study
    from finedefics_platform.study.plan import plan
    from finedefics_platform.study.run import run_study
    from finedefics_platform.tracking.tracker import Tracker

    out, workspace = reporter(json), open_workspace()
    study, documents = load_study(file)
    if dry_run:
        _show_plan(out, workspace, plan(workspace, study, documents))
        return
    tracker = Tracker(workspace, "finedefics-studies")
    done = run_study(workspace, study, documents, tracker=tracker, progress=out, at_once=at_once)
    _show(out, done.summary)
    pages = done.place.local or done.place
    out.say(f"{done.done} steps done, {done.reused} found finished; pages: {pages}/study.html, study.md")
    if failed := done.summary["failed"]:
        from finedefics.errors import FinedeficsError

        raise FinedeficsError(
            f"{len(failed)} of {done.figures} "
            f"figures are missing, first {failed[0]['arm']} in {failed[0]['world']} ({failed[0]['error']})",
            place=done.key,
            cure="mend it and run the study again: what is finished stands",
        )
    out.done(
        study=done.key,
        folder=str(done.place),
        done=done.done,
        reused=done.reused,
        result=done.summary,
        mlflow_run=done.parent_run_id,
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the study, or its key.")], json: Json = False
) -> None:
    """Show the figures of a study that was run.

    Example: `finedefics study show both`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.study.run import open_study

    out = reporter(json)
    place, told = open_study(open_workspace(), name)
    _show(out, told)
    out.say(f"pages: {place.local or place}/study.html, study.md")
    out.done(study=place.name, folder=str(place), result=told)


def _show_plan(out: Reporter, workspace: "Workspace", planned: "Plan") -> None:
    from finedefics_platform.study.records import finished, to_do

    uses, there = planned.uses, finished(workspace, planned)
    left = {step.address for step in to_do(workspace, planned, there)}
    rows: list[list[Any]] = []
    for address, step in planned.steps.items():
        state = "to do" if address in left else "finished" if address in there else "not needed"
        out.event(
            "planned", address=address, kind=step.kind, title=step.title, figures=uses[address], state=state
        )
        rows.append([address, escape(step.title), step.kind, uses[address], state])
    out.table(f"{planned.key}: steps", ["step", "what", "kind", "figures it goes into", "state"], rows)
    kinds: dict[str, int] = {}
    for step in planned.steps.values():
        kinds[step.kind] = kinds.get(step.kind, 0) + (step.address in left)
    counted = ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
    shared = sum(count > 1 for count in uses.values())
    out.say(f"{len(planned.cells)} figures from {len(planned.steps)} steps, {shared} of them shared")
    out.say(f"to do: {counted}")
    out.done(study=planned.key, steps=len(planned.steps), to_do=len(left), shared=shared)


def _show(out: Reporter, told: dict[str, Any]) -> None:
    from finedefics_platform.study.page import interval, notes, p_value, signed, tables

    out.say(f"[bold]{escape(told['study'])}[/]: percent, mean over {len(told['worlds'])} worlds ± 95 %")
    for table in tables(told):
        rows = [[escape(row[0]), *row[1:]] for row in table.rows]
        out.table(table.title, ["arm", *table.columns], rows)
    planned = [row for row in told["differences"] if row["planned"]]
    if planned:
        compared = [
            [
                escape(row["arm"]),
                escape(row["against"]),
                row["metric"],
                signed(row["mean"]),
                interval(row),
                p_value(row["holm"]),
                row["n"],
            ]
            for row in planned
        ]
        columns = ["arm", "against", "metric", "difference", "95 % interval", "p (Holm)", "pairs"]
        out.table("Planned comparisons, points", columns, compared)
    for note in notes(told):
        out.say(f"[yellow]{escape(note)}[/]")
