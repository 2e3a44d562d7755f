"""`finedefics runs …`: what was recorded, and what still waits to be."""

from collections import Counter
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from finedefics.errors import FinedeficsError
from finedefics_platform.base.times import in_words

from .console import reporter
from .runs_compare import compare
from .runs_delete import delete

if TYPE_CHECKING:
    from finedefics_platform.tracking.runs import RunRecord

app = typer.Typer(help="Browse, compare, delete and synchronise recorded runs.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Run = Annotated[str, typer.Argument(help="A run: its key, name or id, or the beginning of one.")]

_ID = 12  # characters of an id that are shown; `runs show` takes them
_LOST = ("lost", "failed", "killed")


@app.command("list")
def list_command(
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="How many runs; those under another are not counted.")
    ] = 50,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Only: pipeline, search, study, base, evaluation, other.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Stages, trials and evaluations too, under the run they are of.")
    ] = False,
    json: Json = False,
) -> None:
    """List the newest runs: how right, how long, and why one failed.

    The accuracy is that of a run's newest evaluation, by its righter answer. Whatever stands in the first
    column is taken by `runs show` and `runs delete`; a run's by `train --resume` and `evaluate` too.

    Example: `finedefics runs list --limit 20`

    Example: `finedefics runs list --kind search --all`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.tracking.runs import list_runs, record_place

    out, workspace = reporter(json), open_workspace()
    found = list_runs(workspace, limit=limit, kind=kind)
    below: dict[str, list[RunRecord]] = {}
    for record in found:
        if record.parent:
            below.setdefault(record.parent, []).append(record)
    depth: dict[str | None, int] = {}
    rows = []
    for record in found:
        depth[record.run_id] = depth.get(record.parent, -1) + 1
        under = below.get(record.run_id, [])
        accuracy = _accuracy(record, under)
        out.event("run", **_fields(record), evaluated=accuracy, children=[child.run_id for child in under])
        if everything or depth[record.run_id] == 0:
            rows.append(_row(record, under, accuracy, "  " * depth[record.run_id]))
    if found:
        columns = ("run", "id", "kind", "status", "started", "took", "accuracy", "loss", "note")
        out.table("Runs", columns, rows)
    else:
        place = record_place(workspace)
        what = f"No {kind} runs" if kind else "No runs"
        out.say(f"{what} in {escape(place)}: `finedefics train EXPERIMENT.yaml` makes one there.")
    out.done(runs=len(found))


@app.command()
def show(run: Run, json: Json = False) -> None:
    """Show one run: how it ended, its evaluations, parameters, last metrics, tags, and the runs under it.

    Example: `finedefics runs show joint-1a2b3c4d5e6f`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.tracking.runs import children, get_run

    out, workspace = reporter(json), open_workspace()
    record = get_run(workspace, run)
    under = children(workspace, record.run_id)
    out.event("run", **_fields(record), children=[child.run_id for child in under])
    out.say(f"[bold]{escape(record.handle)}[/] {record.kind} {record.run_id} {record.status}")
    verb = "running for" if record.status == "running" else "took"
    out.say(f"started {_when(record.started)}, {verb} {in_words(record.seconds)}")
    if record.failure:
        out.say(f"[yellow]{escape(record.failure)}[/]")
    for one in (record, *under):
        if one.accuracy:
            out.say(
                f"{escape(one.tags.get('finedefics.dataset') or one.name)}: {escape(_all_of(one.accuracy))}"
            )
    for title, values in (("Parameters", record.params), ("Tags", record.tags)):
        if values:
            out.table(title, ("name", "value"), [(escape(k), escape(v)) for k, v in sorted(values.items())])
    if record.metrics:
        rows = [(escape(name), f"{value:.6g}") for name, value in sorted(record.metrics.items())]
        out.table("Metrics (last value)", ("name", "value"), rows)
    if under:
        lines = [
            (child.run_id[:_ID], escape(child.name), child.kind, child.status, in_words(child.seconds))
            for child in under
        ]
        out.table("Runs under it", ("id", "name", "kind", "status", "took"), lines)
    out.done(run_id=record.run_id)


app.command()(compare)


app.command()(delete)


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


def _fields(record: "RunRecord") -> dict[str, Any]:
    """A run as a machine is told of it."""
    more = {"kind": record.kind, "seconds": record.seconds, "failure": record.failure}
    return {**asdict(record), **more}


def _accuracy(record: "RunRecord", under: list["RunRecord"]) -> dict[str, dict[str, float]]:
    """Of the newest evaluation of a run, or the run's own where it is one."""
    return next((one.accuracy for one in (record, *reversed(under)) if one.accuracy), {})


def _row(
    record: "RunRecord", under: list["RunRecord"], accuracy: dict[str, dict[str, float]], indent: str
) -> tuple[object, ...]:
    loss = next((one.metrics["loss"] for one in (record, *reversed(under)) if "loss" in one.metrics), None)
    kinds = Counter(child.kind for child in under)
    holds = ", ".join(f"{n} {kind if n == 1 else _plural(kind)}" for kind, n in kinds.items())
    colour = "red" if record.status in _LOST else "yellow" if record.status == "running" else ""
    return (
        indent + escape(record.handle),
        record.run_id[:_ID],
        record.kind,
        f"[{colour}]{record.status}[/]" if colour else record.status,
        _when(record.started),
        in_words(record.seconds),
        escape(_best_of(accuracy)),
        "" if loss is None else f"{loss:.4g}",
        escape(record.failure or holds),
    )


def _plural(kind: str) -> str:
    return f"{kind.removesuffix('y')}ies" if kind.endswith("y") else f"{kind}s"


def _best_of(accuracy: dict[str, dict[str, float]]) -> str:
    """The righter answer's shares."""
    if not accuracy:
        return ""
    best = max(accuracy, key=lambda answer: sum(accuracy[answer].values()) / len(accuracy[answer]))
    return _all_of({best: accuracy[best]})


def _all_of(accuracy: dict[str, dict[str, float]]) -> str:
    """``alignment 61.2 % labelled, 45.0 % new; names …``"""
    return "; ".join(
        f"{answer} " + ", ".join(f"{100 * share:.1f} % {group}" for group, share in groups.items())
        for answer, groups in accuracy.items()
    )


def _when(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M")
