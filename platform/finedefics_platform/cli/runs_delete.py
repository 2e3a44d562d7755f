"""`finedefics runs delete`: a run, search or study with its record, where nothing needs it."""

from typing import Annotated

import typer
from rich.markup import escape

from finedefics.errors import FinedeficsError

from .console import reporter
from .units import size


def delete(
    runs: Annotated[
        list[str],
        typer.Argument(help="Keys, names or ids, as `runs list` prints them."),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without, nothing is touched.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Say what would go and how large it is; with --yes delete runs, searches (with their trials) or studies.

    What a registered model, a study, a search (its best trial) or somebody at work needs stays, and then
    nothing is deleted. Evaluations stay: they are evidence. In MLflow the run is marked deleted, and `mlflow
    runs restore` brings that record back until `finedefics gc` ends it.

    Example: `finedefics runs delete joint-1a2b3c4d5e6f --yes`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.operate.deleting import delete as carry_out
    from finedefics_platform.operate.deleting import doomed

    out, workspace = reporter(json), open_workspace()
    found = doomed(workspace, runs)
    needed = [each for each in found if each.needed_by]
    total = sum(each.bytes for each in found)
    rows = []
    for each in found:
        place = workspace.name_of(each.place) if each.place is not None else None
        told = {"run": each.key, "kind": each.kind, "bytes": each.bytes, "place": place}
        out.event("doomed", **told, mlflow_run=each.run_id, needed_by=each.needed_by)
        note = f"needed by {'; '.join(each.needed_by)}" if each.needed_by else place or "only its record"
        rows.append((escape(each.key), each.kind, size(each.bytes), escape(note)))
    out.table("Would go" if not yes or needed else "Deleted", ("run", "kind", "size", "note"), rows)
    if needed:
        raise FinedeficsError(
            f"it is needed by {'; '.join(needed[0].needed_by)}, so nothing was deleted",
            place=needed[0].key,
            cure="leave it out, or delete first what needs it",
        )
    if not yes:
        out.say(f"{size(total)} would go: the same command with --yes deletes it.")
        out.done(deleted=0, bytes=total)
        return
    for each in found:
        carry_out(workspace, each)
    out.say(f"{len(found)} deleted, {size(total)}.")
    out.done(deleted=len(found), bytes=total)
