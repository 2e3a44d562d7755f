"""Before a job is made: everything that would stop it on the cluster, found while it costs nothing."""

import json
import secrets
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finedefics.errors import FinedeficsError
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.job import SUBMITTER, Job
from finedefics_platform.operate.connection import Cluster
from finedefics_platform.operate.jobs import probe
from finedefics_platform.operate.jobs.needs import Bundle, Group, nodes_of, refuse_what_never_fits
from finedefics_platform.operate.jobs.package import Package
from finedefics_platform.operate.storage_probe import written

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PROBE_SECONDS = 240.0  # a busy head takes a minute to start a process
_POLL_SECONDS = 0.3
_MONITOR_SECONDS = 1.2  # Ray's job monitor writes a job that was deleted sooner down again, as failed


@dataclass(frozen=True)
class Ground:
    """What a job is submitted with, once it was checked."""

    client: "JobSubmissionClient"
    runtime_env: dict[str, Any]


def secret_values(job: Job, environment: Mapping[str, str]) -> dict[str, str]:
    """Values of the secrets that the submitter brings; FinedeficsError where a variable is not set."""
    wanted = [name for name, source in job.secrets.items() if source == SUBMITTER]
    for name in wanted:
        if not environment.get(name):
            raise FinedeficsError(
                f"the variable {name} is not set here",
                place=f"secrets: {name}",
                cure="set it, or write `cluster` where every node has it already",
            )
    return {name: environment[name] for name in wanted}


def check_token_for_secrets(cluster: Cluster, values: Mapping[str, str]) -> None:
    """Secrets are sealed with the cluster's token: an open cluster gets none."""
    if values and cluster.token is None:
        raise FinedeficsError(
            f"this cluster takes jobs from anybody, and the job brings secrets ({', '.join(values)})",
            place=cluster.address,
            cure="turn its token authentication on (RAY_AUTH_MODE=token), or set them on its nodes",
        )


def check_resources(
    cluster: Cluster, bundles: Sequence[Bundle], groups: Sequence[Mapping[str, Any]], progress: Progress
) -> None:
    """Refuse what the cluster will never have; say where it has to grow first."""
    nodes = nodes_of(cluster.ask("/api/v0/nodes?limit=10000"))
    can_come = [Group(dict(group["resources"]), int(group["most"])) for group in groups]
    if not refuse_what_never_fits(bundles, nodes, can_come, place=f"cluster {cluster.name}"):
        progress.say("the cluster has no room for it yet: its autoscaler has to bring nodes")


def check_from_the_cluster(
    cluster: Cluster,
    ground: Ground,
    job: Job,
    package: Package,
    workspace: Workspace,
    place: str,
    progress: Progress,
) -> dict[str, Any]:
    """Run the probe there and refuse what it cannot reach; returns what it found.

    Raises:
        FinedeficsError: the cluster lacks the platform, does not see the workspace or its files or
            variables, or cannot reach the tracking server.
    """
    asked = {
        "outside": list(package.outside),
        "variables": [name for name, source in job.secrets.items() if source != SUBMITTER],
    }
    name = f".seen-{secrets.token_hex(8)}"  # whoever sees this file sees this workspace
    with progress.progress("asking the cluster what it sees", None), written(workspace.root, name, b""):
        found = _run_probe(cluster, ground, {**asked, "written": name})
    if "error" in found:
        raise FinedeficsError(
            f"the cluster cannot use this ({found['error']})", place=place, cure="correct the job's keys"
        )
    if found["storage"]:
        raise FinedeficsError(
            f"the cluster does not reach it ({found['storage']})",
            place=place,
            cure="check address, network and credentials there, or set `storage` to what the cluster reaches",
        )
    if not found["workspace"]:
        raise FinedeficsError(
            "the cluster sees another workspace there than this machine",
            place=place,
            cure="use one that both see (s3://…, a shared folder), or set `storage` to its place there",
        )
    if found["tracking"]:
        raise FinedeficsError(
            f"the cluster does not reach the tracking server ({found['tracking']})",
            place=f"cluster {cluster.name}",
            cure="set `tracking` to its address as the cluster reaches it",
        )
    if found["outside"]:
        raise FinedeficsError(
            f"not there on the cluster: {', '.join(found['outside'][:3])}",
            place=f"cluster {cluster.name}",
            cure="name it by a URI, put it on storage that every node sees, or list it in `include`",
        )
    if found["variables"]:
        raise FinedeficsError(
            f"not set on the cluster: {', '.join(found['variables'])}",
            place="secrets",
            cure="set it on every node (its manifests, its environment), or take it from here: `submitter`",
        )
    return found


def _run_probe(cluster: Cluster, ground: Ground, asked: dict[str, Any]) -> dict[str, Any]:
    argument = json.dumps(asked)
    name = f"finedefics-probe-{secrets.token_hex(4)}"
    with cluster.speaking(), _probe_job(cluster, ground, name, argument):
        status, until = "PENDING", time.monotonic() + PROBE_SECONDS
        while status in ("PENDING", "RUNNING"):
            if time.monotonic() > until:
                raise FinedeficsError(
                    f"no process started there within {PROBE_SECONDS:.0f} s",
                    place=f"cluster {cluster.name}",
                    cure="see `ray status` on its head: it may be out of memory or disk",
                )
            time.sleep(_POLL_SECONDS)
            status = str(ground.client.get_job_status(name).value)
        log = ground.client.get_job_logs(name)
        for line in log.splitlines():
            if line.startswith(probe.MARK):
                return json.loads(line.removeprefix(probe.MARK))
        message = ground.client.get_job_info(name).message or ""
    raise _no_answer(cluster, f"{log}\n{message}")


def _no_answer(cluster: Cluster, said: str) -> FinedeficsError:
    place = f"cluster {cluster.name}"
    for package in ("finedefics_platform", "finedefics"):
        if f"No module named '{package}" in said:
            cure = "use an image with the platform (cluster/Dockerfile)"
            return FinedeficsError("the platform is not installed there", place=place, cure=cure)
    if "python: not found" in said or "python: command not found" in said:
        return FinedeficsError("no `python` is on its PATH", place=place, cure="put it on the nodes' PATH")
    lines = [line for line in said.strip().splitlines() if line.strip()] or ["nothing was said"]
    return FinedeficsError(
        f"the check there failed ({lines[-1][:200]})", place=place, cure="see the dashboard, and try again"
    )


@contextmanager
def _probe_job(cluster: Cluster, ground: Ground, name: str, argument: str) -> Iterator[None]:
    """A job that is gone afterwards, whatever happened."""
    ground.client.submit_job(
        entrypoint=entrypoint(cluster, "finedefics_platform.operate.jobs.probe", argument),
        submission_id=name,
        runtime_env=ground.runtime_env,
    )
    try:
        yield
    finally:
        with suppress(Exception):  # the cluster may have gone meanwhile, and the job with it
            if not ground.client.get_job_status(name).is_terminal():
                ground.client.stop_job(name)
                until = time.monotonic() + 10
                while not ground.client.get_job_status(name).is_terminal() and time.monotonic() < until:
                    time.sleep(_POLL_SECONDS)
            for _ in range(2):
                time.sleep(_MONITOR_SECONDS)
                ground.client.delete_job(name)  # raises where it is gone for good


def entrypoint(cluster: Cluster, module: str, *arguments: str) -> str:
    """The shell line that Ray runs; `exec`, so that no shell stands between Ray's signals and the process."""
    return shlex.join(["exec", cluster.python, "-m", module, *arguments])


def spec_place(path: str | Path, job: Job) -> str:
    """How the storage that the cluster shall see is named in messages."""
    return f"{path}: storage" if job.storage is not None else "storage (FINEDEFICS_HOME)"
