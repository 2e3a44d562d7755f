"""`finedefics cluster`: bring a Ray cluster up on this machine, look at it, take it down, write manifests."""

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from finedefics.errors import wrong_use

from .console import Reporter, reporter

if TYPE_CHECKING:
    from finedefics_platform.operate.clusters.record import ClusterRecord
    from finedefics_platform.operate.clusters.state import ClusterState, NodeState

app = typer.Typer(
    help="Ray clusters: on this machine, on Kubernetes, on cloud machines.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Name = Annotated[
    str | None, typer.Option("--name", help="Which cluster; not needed where there is only one.")
]
MIB = 2**20
GIB = 2**30


@app.command()
def up(
    local: Annotated[
        bool, typer.Option("--local", help="On this machine (the only place `up` knows).")
    ] = False,
    name: Annotated[str, typer.Option("--name", help="What to call it.")] = "local",
    workers: Annotated[
        int, typer.Option("--workers", min=0, max=64, help="Worker nodes beside the head.")
    ] = 1,
    cpus_per_worker: Annotated[
        int, typer.Option("--cpus-per-worker", min=1, help="Logical CPUs of a worker node, whatever it has.")
    ] = 8,
    head_cpus: Annotated[
        int | None, typer.Option("--head-cpus", min=0, help="Of the head; none where there are workers.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="For drivers; 0: a free one.")] = 0,
    jobs_port: Annotated[
        int, typer.Option("--jobs-port", min=0, max=65535, help="For jobs and dashboard; 0: a free one.")
    ] = 0,
    object_store_mib: Annotated[
        int, typer.Option("--object-store-mib", min=80, help="Shared memory of a node.")
    ] = 286,
    json: Json = False,
) -> None:
    """Start a Ray cluster of several processes on this machine: token authentication on, loopback only.

    Example: `finedefics cluster up --local --workers 2`

    A second one: `finedefics cluster up --local --name other --workers 1 --cpus-per-worker 4`
    """
    from finedefics_platform.operate.clusters.local import LocalCluster
    from finedefics_platform.operate.clusters.local import up as bring_up

    if not local:
        cure = "add --local, or write manifests: finedefics cluster render kuberay | ray-up"
        raise wrong_use("it is not said where", place="finedefics cluster up", cure=cure)
    out = reporter(json)
    wanted = LocalCluster(
        name=_checked(name),
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        head_cpus=head_cpus,
        port=port,
        jobs_port=jobs_port,
        object_store=object_store_mib * MIB,
    )
    made = bring_up(wanted, out)
    out.say(f"[green]cluster {made.name} is up[/]: {workers} worker node(s) and a head, Ray {made.ray}")
    _say_next(out, made)
    out.done(**asdict(made))


@app.command()
def down(name: Name = None, json: Json = False) -> None:
    """End every process of a local cluster, also of one whose head died, and remove what it kept.

    Jobs that still run are ended; what they wrote to the workspace stays.

    Example: `finedefics cluster down`
    """
    from finedefics_platform.operate.clusters.local import down as take_down

    out = reporter(json)
    chosen = name or _only()
    ended = take_down(_checked(chosen), out)
    out.say(f"cluster {chosen} is down ({ended} processes ended)")
    out.done(name=chosen, processes=ended)


@app.command()
def status(name: Name = None, json: Json = False) -> None:
    """Show the local clusters: nodes, resources, versions, authentication, and what to type next.

    Example: `finedefics cluster status`
    """
    from finedefics_platform.operate.clusters import record as records
    from finedefics_platform.operate.clusters.state import look

    out = reporter(json)
    chosen = [records.named(_checked(name))] if name else records.recorded()
    dead = [record for record in chosen if not record.alive]
    for record in chosen:
        if record in dead:
            out.event("cluster", **asdict(record), alive=False)
            out.say(f"[red]{escape(str(records.dead(record)))}[/]")
            continue
        state = look(record.jobs_address, record.token())
        out.event("cluster", **asdict(record), alive=True, state=asdict(state), resources=state.resources)
        _show(out, record, state)
    if not chosen:
        out.say(f"No cluster is up on this machine. Start one: {records.UP}")
    if dead:
        raise records.dead(dead[0])
    out.done(clusters=len(chosen))


def _show(out: Reporter, record: "ClusterRecord", state: "ClusterState") -> None:
    guarded = (
        "token (who shows none is refused)" if state.authenticated else "[red]none: anybody may run jobs[/]"
    )
    out.say(
        f"[bold]cluster {record.name}[/]: Ray {state.ray}, Python {record.python}, authentication: {guarded}"
    )
    columns = ("node", "address", "CPUs", "GPUs", "memory", "object store")
    out.table("", columns, [_row(node) for node in state.nodes])
    taken = {name: state.used.get(name, 0.0) for name in ("CPU", "GPU") if name in state.resources}
    used = ", ".join(f"{amount:g} of {state.resources[name]:g} {name}s" for name, amount in taken.items())
    out.say(f"in use: {used or 'no CPUs'}; jobs that run or wait: {', '.join(state.running_jobs) or 'none'}")
    _say_next(out, record)


def _row(node: "NodeState") -> tuple[str, ...]:
    counts = (f"{node.resources.get(name, 0):g}" for name in ("CPU", "GPU"))
    sizes = (f"{node.resources.get(name, 0) / GIB:.1f} GiB" for name in ("memory", "object_store_memory"))
    return ("head" if node.head else f"worker {node.id[:8]}", node.host, *counts, *sizes)


def _say_next(out: Reporter, record: "ClusterRecord") -> None:
    out.say(f"jobs and dashboard: {record.jobs_address}; drivers: {record.address}")
    out.say(f"submit a job: finedefics jobs submit jobs/specs/train.yaml --cluster {record.name}")
    out.say(
        f"a driver of this shell: export RAY_ADDRESS={record.address} RAY_AUTH_MODE=token "
        f"RAY_AUTH_TOKEN_PATH={escape(shlex.quote(record.token_file))}"
    )


def _checked(name: str) -> str:
    import re

    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        cure = "use lower-case letters, digits and hyphens, 40 at most"
        raise wrong_use(f"not a cluster's name: {name!r}", place="--name", cure=cure)
    return name


def _only() -> str:
    """The one cluster that was brought up here, or half of one."""
    from finedefics_platform.operate.clusters.record import started

    names = started()
    if len(names) == 1:
        return names[0]
    thing = (
        f"there are {len(names)} clusters ({', '.join(names)})"
        if names
        else "no cluster is up on this machine"
    )
    cure = "name one with --name" if names else "there is nothing to take down"
    raise wrong_use(thing, place="finedefics cluster down", cure=cure)
