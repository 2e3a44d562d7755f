"""From a job's file to a job on the cluster: once, under an id that its content gives."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finedefics import __version__
from finedefics.errors import FinedeficsError
from finedefics_platform.base.control_store import token_of_environment
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.secrets import without_secrets
from finedefics_platform.base.storage import lease
from finedefics_platform.base.user import user
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.job import Job
from finedefics_platform.operate.connection import Cluster, find_cluster
from finedefics_platform.operate.jobs.checks import (
    Ground,
    check_from_the_cluster,
    check_resources,
    check_token_for_secrets,
    entrypoint,
    secret_values,
    spec_place,
)
from finedefics_platform.operate.jobs.needs import Bundle, bundles_of
from finedefics_platform.operate.jobs.package import Package, gather
from finedefics_platform.operate.jobs.records import JobRecord, JobView, now
from finedefics_platform.operate.jobs.sealing import HOOK, SEALED, seal
from finedefics_platform.operate.jobs.views import view
from finedefics_platform.tracking.reachability import without_password

_GRACE_FOR_RAY = 60  # beyond the command's own: the supervisor writes log and status
_DIGITS = 12
_SUPERVISOR = "finedefics_platform.operate.jobs.supervise"


@dataclass(frozen=True)
class Submitted:
    """A job that was submitted, now or before.

    Attributes:
        attempt: number of the attempt, from 1.
        fresh: whether this call made it.
        state: as `JobView` has it.
    """

    record: JobRecord
    attempt: int
    fresh: bool
    state: str
    cluster: Cluster | None = None


def job_id(job: Job, package: Package) -> str:
    """The submission id: equal for equal specs, documents and files, on any machine."""
    said = job.model_dump(mode="json", exclude={"document"})
    content = json.dumps([said, package.digest, __version__], sort_keys=True)
    return f"{job.name}-{hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]}"


def submit(
    workspace: Workspace,
    job: Job,
    spec: Path,
    *,
    cluster: str | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Submitted:
    """Submit a job, unless it was; nothing is left behind where it is refused.

    Args:
        spec: the job's file.
        cluster: as `find_cluster` takes it.
        resume: start another attempt of one that failed, was stopped or was lost: it goes on with its run.

    Raises:
        FinedeficsError: anything in it or around it is wrong; or it ended badly before (without ``resume``).
    """
    bundles = bundles_of(job, spec)
    package = gather(job, spec)
    package.check_size()
    record = JobRecord(workspace.jobs / job_id(job, package))
    if (before := _before(workspace, record, resume)) is not None:
        return before
    chosen = find_cluster(cluster)
    ahead = chosen.check()
    if ahead:
        side = "ahead of" if ahead > 0 else "behind"
        progress.say(
            f"[yellow]the cluster's clock is {abs(ahead):.0f} s {side} this machine's[/]: times in logs are "
            "the cluster's, ages are told by the storage's clock"
        )
    if workspace.root.local is None and not (job.tracking or os.environ.get("MLFLOW_TRACKING_URI")):
        progress.say(
            "[yellow]no tracking server is named[/]: runs are recorded on the node that the job runs on, and "
            "are gone with it; set `tracking`"
        )
    values = secret_values(job, os.environ)
    environment, more = _environment(workspace, job)
    check_token_for_secrets(chosen, values | more)
    with _staged(package, values | more, chosen.token) as folder:
        ground = Ground(chosen.client(), _runtime_env(folder, environment, bool(values or more)))
        place = f"{spec_place(spec, job)}, {environment['FINEDEFICS_HOME']}"
        found = check_from_the_cluster(chosen, ground, job, package, workspace, place, progress)
        check_resources(chosen, bundles, found["groups"], progress)
        try:
            with lease(record.place / "lease", f"the submission of {record.id}", progress=progress):
                if (before := _before(workspace, record, resume)) is not None:
                    return before
                with progress.progress("sending the job", None):
                    attempt = _send(record, job, package, bundles, chosen, ground)
        except BaseException:
            if not (record.place / "job.json").exists():
                record.place.delete()
            raise
    return Submitted(record, attempt, True, "waiting", chosen)


def _before(workspace: Workspace, record: JobRecord, resume: bool) -> Submitted | None:
    """What became of the same job before; None where there is something to start."""
    if not (record.place / "job.json").is_file():
        return None
    seen = view(workspace, record)
    if not seen.ended or seen.state == "succeeded":
        return Submitted(record, seen.attempt, False, seen.state)
    if resume:
        return None
    raise _ended_badly(seen)


def _ended_badly(seen: JobView) -> FinedeficsError:
    why = f" ({seen.message})" if seen.message else ""
    return FinedeficsError(
        f"the same job was submitted before and {'is' if seen.state == 'lost' else 'has'} {seen.state}{why}"
        if seen.state != "stopped"
        else f"the same job was submitted before and was stopped{why}",
        place=seen.id,
        cure="go on with it: submit it with --resume; `finedefics jobs logs` tells what it said",
    )


def _send(
    record: JobRecord, job: Job, package: Package, bundles: list[Bundle], cluster: Cluster, ground: Ground
) -> int:
    try:
        before = record.job()
    except FileNotFoundError:
        before = {"attempts": []}
    attempts: list[dict[str, Any]] = before["attempts"]
    number = len(attempts) + 1
    ray_id = record.id if number == 1 else f"{record.id}-{number}"
    this = {
        "attempt": number,
        "ray_id": ray_id,
        "cluster": cluster.name,
        "address": cluster.address,
        "submitted": now(),
        "who": user(),
    }
    content = {
        "id": record.id,
        "name": job.name,
        "job": job.job,
        "command": list(package.command),
        "folder": package.folder,
        "files": sorted(package.files),
        "bytes": package.size,
        "asks_for": bundles,
        "tracking": _shown_tracking(job),
        "spec": job.model_dump(mode="json"),
        "version": __version__,
        "attempts": [*attempts, this],
    }
    record.write_job(content)  # first: the job's own process reads it
    ask = job.entrypoint
    try:
        with cluster.speaking():
            ground.client.submit_job(
                entrypoint=entrypoint(cluster, _SUPERVISOR, record.id, str(number)),
                submission_id=ray_id,
                runtime_env=ground.runtime_env,
                metadata={"finedefics_job": record.id, "attempt": str(number), "kind": job.job},
                entrypoint_num_cpus=ask.cpus or None,
                entrypoint_num_gpus=ask.gpus or None,
                entrypoint_memory=ask.memory or None,
                entrypoint_resources=ask.custom or None,
            )
    except BaseException:
        if attempts:
            record.write_job(before)
        else:
            (record.place / "job.json").delete()
        raise
    return number


def _environment(workspace: Workspace, job: Job) -> tuple[dict[str, str], dict[str, str]]:
    """Plain variables of the job, and those that turned out to hold a secret: they are sealed."""
    plain = {
        **job.environment,
        "FINEDEFICS_HOME": job.storage or workspace.root.uri,
        # Ray's signal is for the supervisor alone, see `supervise`.
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": str(int(job.stop_grace) + _GRACE_FOR_RAY),
    }
    sealed: dict[str, str] = {}
    tracking = job.tracking or os.environ.get("MLFLOW_TRACKING_URI")
    if tracking:
        held = plain if without_secrets(tracking) == tracking else sealed
        held["MLFLOW_TRACKING_URI"] = tracking
    return plain, sealed


def _shown_tracking(job: Job) -> str | None:
    """Where a run's page is, for whoever looks at the job: a server's address without user and password."""
    tracking = job.tracking or os.environ.get("MLFLOW_TRACKING_URI") or ""
    return without_password(tracking) if tracking.startswith(("http://", "https://")) else None


@contextmanager
def _staged(package: Package, values: dict[str, str], token: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="finedefics-job-") as name:
        folder = Path(name)
        package.write(folder)
        if values:
            token = token or token_of_environment()
            assert token is not None, "checked before"
            (folder / SEALED).write_bytes(seal(values, token))
        yield folder


def _runtime_env(folder: Path, environment: dict[str, str], sealed: bool) -> dict[str, Any]:
    hook = {"worker_process_setup_hook": HOOK} if sealed else {}
    return {"working_dir": str(folder), "env_vars": environment, **hook}
