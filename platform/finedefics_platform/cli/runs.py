"""`finedefics runs …`: what was recorded, and what still waits to be."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.markup import escape

from finedefics.errors import FinedeficsError

from .console import reporter
from .runs_compare import compare

app = typer.Typer(help="Browse, compare and synchronise recorded runs.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Run = Annotated[str, typer.Argument(help="A run: its id, the beginning of it, or the key of a pipeline.")]

_ID = 12  # characters of an id that are shown; `runs show` takes them


@app.command("list")
def list_command(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many runs.")] = 50,
    json: Json = False,
) -> None:
    """List the newest runs, stages and trials under their pipeline.

    Example: `finedefics runs list --limit 20`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.tracking.runs import list_runs, record_place

    out, workspace = reporter(json), open_workspace()
    found = list_runs(workspace, limit=limit)
    depth: dict[str | None, int] = {}
    rows = []
    for record in found:
        out.event("run", **asdict(record))
        depth[record.run_id] = depth.get(record.parent, -1) + 1
        name = "  " * depth[record.run_id] + record.name
        loss = record.metrics.get("loss")
        rows.append(
            (
                record.run_id[:_ID],
                escape(name),
                record.status,
                _when(record.started),
                _duration(record.seconds),
                "" if loss is None else f"{loss:.4g}",
                record.key,
            )
        )
    if found:
        out.table("Runs", ("run", "name", "status", "started", "took", "loss", "key"), rows)
    else:
        place = record_place(workspace)
        out.say(f"No runs in {escape(place)}: `finedefics train EXPERIMENT.yaml` makes one there.")
    out.done(runs=len(found))


@app.command()
def show(run: Run, json: Json = False) -> None:
    """Show one run: parameters, last metrics, tags, and the runs under it.

    Example: `finedefics runs show 3f2a9c`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.tracking.runs import children, get_run

    out, workspace = reporter(json), open_workspace()
    record = get_run(workspace, run)
    under = children(workspace, record.run_id)
    out.event("run", **asdict(record), children=[child.run_id for child in under])
    out.say(f"[bold]{escape(record.name)}[/] {record.run_id} {record.status}")
    took = "running for" if record.ended is None else "took"
    out.say(f"started {_when(record.started)}, {took} {_duration(record.seconds)}")
    for title, values in (("Parameters", record.params), ("Tags", record.tags)):
        if values:
            out.table(title, ("name", "value"), [(escape(k), escape(v)) for k, v in sorted(values.items())])
    if record.metrics:
        rows = [(escape(name), f"{value:.6g}") for name, value in sorted(record.metrics.items())]
        out.table("Metrics (last value)", ("name", "value"), rows)
    if under:
        lines = [(child.run_id[:_ID], escape(child.name), child.status) for child in under]
        out.table("Runs under it", ("run", "name", "status"), lines)
    out.done(run_id=record.run_id)


app.command()(compare)


@app.command()
def sync(json: Json = False) -> None:
    """Send what could not be recorded while the tracking server was away.

    Example: `finedefics runs sync`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.tracking.tracker import sync as send

    out, workspace = reporter(json), open_workspace()
    result = send(workspace)
    if result.other_servers:
        raise FinedeficsError(
            f"{result.waiting} entries wait for another place ({', '.join(result.other_servers)})",
            place="finedefics runs sync",
            cure="set MLFLOW_TRACKING_URI to it (unset it for the workspace's own) and run this again",
        )
    if result.waiting:
        raise FinedeficsError(
            f"the server is still away, {result.waiting} entries wait",
            place="finedefics runs sync",
            cure="start it, or check MLFLOW_TRACKING_URI",
        )
    out.say(f"{result.sent} entries sent, nothing waits.")
    out.done(sent=result.sent)


def _when(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M")


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
