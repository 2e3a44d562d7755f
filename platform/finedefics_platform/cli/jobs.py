"""`finedefics jobs …`: commands sent to a Ray cluster, followed, stopped, gone on with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from finedefics.errors import FinedeficsError
from finedefics_platform.base.signals import INTERRUPTED, TERMINATED, Terminated
from finedefics_platform.base.times import in_words

from .console import Reporter, reporter

if TYPE_CHECKING:
    from finedefics_platform.operate.jobs.records import JobRecord, JobView

app = typer.Typer(help="Submit jobs to a Ray cluster, follow and stop them.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Id = Annotated[str, typer.Argument(help="A job's id, or the beginning of it.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a key of the job: --set retries=2.")]

_COLOURS = {"succeeded": "green", "failed": "red", "lost": "red", "stopped": "yellow", "waiting": "yellow"}


@app.command()
def submit(
    spec: Annotated[str, typer.Argument(help="Job file (YAML), such as jobs/specs/train.yaml.")],
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Name of a local cluster, http://host:port of a job API, or host:port "
            "(default: RAY_ADDRESS, else the local cluster that is up).",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a job that failed, was stopped or lost.")
    ] = False,
    set_: Set = None,
    follow: Annotated[bool, typer.Option("--follow", help="Then follow its log.")] = False,
    json: Json = False,
) -> None:
    """Check a job and send it to a cluster; the same job is not run twice.

    Checked first: the job's file and its experiment, the cluster, its token, versions and resources, and from
    there storage, tracking and files. A job that is refused leaves nothing behind.

    Example: `finedefics jobs submit jobs/specs/train.yaml --cluster http://ray.example:8265`

    Example: `finedefics jobs submit jobs/specs/train.yaml --resume --follow`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.job import load_job
    from finedefics_platform.operate.jobs.submission import submit as send

    out, workspace = reporter(json), open_workspace()
    job = load_job(spec, set_ or [])
    made = send(workspace, job, Path(spec), cluster=cluster, resume=resume, progress=out)
    name = escape(made.record.id)
    if made.fresh:
        said = f", attempt {made.attempt}" if made.attempt > 1 else ""
        out.say(f"submitted [bold]{name}[/]{said}")
        assert made.cluster is not None
        out.say(f"dashboard: {made.cluster.address}/#/jobs")
    elif made.state == "succeeded":
        out.say(f"[bold]{name}[/] ran before and succeeded: it is not run again")
    else:
        out.say(f"[bold]{name}[/] is {made.state}: it is not run twice")
    if follow:
        _follow(out, made.record, attempt=made.attempt)
    else:
        out.say(f"next: finedefics jobs logs {name} --follow")
        out.done(job=made.record.id, attempt=made.attempt, submitted=made.fresh, state=made.state)


@app.command("list")
def list_command(json: Json = False) -> None:
    """List the jobs of the workspace: state, age, what they asked for, and their runs.

    Example: `finedefics jobs list`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.operate.jobs.views import run_page, views

    out = reporter(json)
    workspace = open_workspace()
    found = views(workspace)
    rows = []
    for seen in found:
        out.event("job", **_fields(seen))
        rows.append(
            (escape(seen.id), _coloured(seen.state), in_words(seen.age), _asked(seen), escape(_run(seen)))
        )
    if found:
        out.table("Jobs", ("job", "state", "age", "asks for", "run"), rows)
        for seen in found:
            if seen.state in ("lost", "waiting"):
                out.say(f"{escape(seen.id)}: {escape(seen.message)}")
            if page := run_page(seen):
                out.say(f"{escape(seen.id)}: {escape(page)}")
    else:
        place = escape(workspace.root.uri)
        out.say(f"No jobs in {place}: `finedefics jobs submit JOB.yaml` sends one.")
    out.done(jobs=len(found))


@app.command()
def status(id_: Id, json: Json = False) -> None:
    """Tell how a job stands: state, attempts, run, and what it waits for; also when its cluster is gone.

    Example: `finedefics jobs status train-birds-1a2b`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.operate.jobs.records import find_job
    from finedefics_platform.operate.jobs.views import Clusters, missing, run_page, show_command, view

    out, workspace = reporter(json), open_workspace()
    record, clusters = find_job(workspace, id_), Clusters()
    seen = view(workspace, record, clusters)
    attempt = seen.job["attempts"][-1]
    waits = seen.message if seen.state == "waiting" else ""
    if seen.state == "running" and (cluster := clusters.of(attempt)) is not None:
        waits = missing(cluster)
    out.event("job", **_fields(seen), waits_for=waits)
    out.say(f"[bold]{escape(seen.id)}[/] {_coloured(seen.state)}, submitted {in_words(seen.age)} ago")
    rows: list[tuple[str, Any]] = [
        ("command", escape("finedefics " + " ".join(seen.job["command"]))),
        ("cluster", escape(f"{attempt['cluster']} ({attempt['address']}), there {attempt['ray_id']}")),
        ("attempt", f"{seen.attempt}, submitted by {escape(attempt['who'])}"),
        ("asks for", _asked(seen)),
        ("started", seen.status.get("started")),
        ("ended", seen.status.get("ended")),
        ("exit code", seen.status.get("exit_code")),
        ("run", escape(_run(seen)) or None),
        ("see", escape(run_page(seen) or show_command(seen) or "") or None),
        ("step", seen.status.get("run", {}).get("step")),
        ("heartbeat", None if seen.silent is None else f"{in_words(seen.silent)} ago"),
        ("message", escape(seen.message) or None),
        ("waits", escape(waits) or None),
    ]
    out.table("", ("what", ""), [row for row in rows if row[1] is not None])
    if seen.state in ("failed", "stopped", "lost"):
        out.say("go on: submit its file again with --resume")
    out.done(job=seen.id, state=seen.state)


@app.command()
def logs(
    id_: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Begin with this attempt (default: the first).")
    ] = None,
    json: Json = False,
) -> None:
    """Print what a job said; also when the job, its head or its cluster is gone.

    With --follow the exit code is 0 where the job succeeded, else 1. Ctrl-C ends the following, not the job.

    Example: `finedefics jobs logs train-birds-1a2b --follow`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.operate.jobs.log import LogReader
    from finedefics_platform.operate.jobs.records import find_job

    out, workspace = reporter(json), open_workspace()
    record = find_job(workspace, id_)
    if follow:
        _follow(out, record, attempt=attempt)
        return
    count = 0
    for text in LogReader(record.log, attempt).take(last=True):
        _print(out, text)
        count += 1
    out.done(job=record.id, lines=count)


@app.command()
def stop(id_: Id, json: Json = False) -> None:
    """Stop a job: its command is asked to end in order, and killed only after the job's `stop_grace`.

    Example: `finedefics jobs stop train-birds-1a2b`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.operate.jobs.following import stop as ask
    from finedefics_platform.operate.jobs.records import find_job

    out, workspace = reporter(json), open_workspace()
    seen = ask(workspace, find_job(workspace, id_), progress=out)
    out.say(f"[bold]{escape(seen.id)}[/] {_coloured(seen.state)}")
    if seen.state == "stopped":
        out.say("go on: submit its file again with --resume")
    out.done(job=seen.id, state=seen.state)


def _follow(out: Reporter, record: "JobRecord", *, attempt: int | None) -> None:
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.operate.jobs.following import follow

    again = f"follow it again: finedefics jobs logs {record.id} --follow; or finedefics jobs stop {record.id}"
    try:
        seen = follow(open_workspace(), record, lambda text: _print(out, text), attempt=attempt, progress=out)
    except (KeyboardInterrupt, Terminated) as end:
        code = TERMINATED if isinstance(end, Terminated) else INTERRUPTED
        raise FinedeficsError(
            "the following ended, the job goes on", place=record.id, cure=again, exit_code=code
        ) from None
    if seen.state != "succeeded":
        raise FinedeficsError(
            f"the job {'was' if seen.state == 'stopped' else 'is' if seen.state == 'lost' else 'has'} "
            f"{seen.state}{f' ({seen.message})' if seen.message else ''}",
            place=record.id,
            cure="mend what it says and submit it again with --resume",
        )
    if run := _run(seen):
        from finedefics_platform.operate.jobs.views import run_page, show_command

        out.say(f"succeeded; run {escape(run)}")
        if see := run_page(seen) or show_command(seen):
            out.say(f"see: {escape(see)}")
    out.done(job=record.id, state=seen.state, run=seen.status.get("run", {}))


def _print(out: Reporter, text: str) -> None:
    out.event("line", text=text)
    if not out.json:
        print(text, flush=True)


def _fields(seen: "JobView") -> dict[str, Any]:
    from finedefics_platform.operate.jobs.views import run_page, show_command

    spec = seen.job["spec"]
    return {
        "job": seen.id,
        "kind": seen.job["job"],
        "state": seen.state,
        "attempt": seen.attempt,
        "age_seconds": round(seen.age, 1),
        "silent_seconds": None if seen.silent is None else round(seen.silent, 1),
        "asks_for": spec["entrypoint"],
        "run": seen.status.get("run", {}),
        "page": run_page(seen),
        "show": show_command(seen),
        "exit_code": seen.status.get("exit_code"),
        "heartbeat": seen.status.get("heartbeat"),
        "message": seen.message,
        "cluster": seen.job["attempts"][-1]["address"],
    }


def _asked(seen: "JobView") -> str:
    from finedefics_platform.operate.jobs.needs import told_bundles

    return told_bundles(seen.job["asks_for"])


def _run(seen: "JobView") -> str:
    """The run's key and, in MLflow, its id: what `finedefics runs show` takes."""
    run = seen.status.get("run", {})
    key = run.get("run") or run.get("search") or run.get("study") or run.get("dataset") or ""
    recorded = run.get("mlflow_run")
    return f"{key} ({recorded[:12]})" if recorded else str(key)


def _coloured(state: str) -> str:
    colour = _COLOURS.get(state)
    return f"[{colour}]{state}[/]" if colour else state
