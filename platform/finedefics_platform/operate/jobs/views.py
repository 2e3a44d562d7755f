"""How jobs stand: what the workspace keeps of them, and what their clusters say where they answer."""

from datetime import datetime
from typing import Any

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.operate.connection import Cluster, find_cluster
from finedefics_platform.operate.jobs.needs import nodes_of, told_nodes, waited_for
from finedefics_platform.operate.jobs.records import (
    ENDED,
    LOST_AFTER_SECONDS,
    JobRecord,
    JobView,
    all_jobs,
    clock_of,
)
from finedefics_platform.tracking.spool import UNSENT

_RAY = {"SUCCEEDED": "succeeded", "FAILED": "failed", "STOPPED": "stopped"}
_ASK_SECONDS = 8.0


class Clusters:
    """The clusters that jobs were sent to; each is asked for once, one that does not answer as well."""

    def __init__(self) -> None:
        self._known: dict[str, Cluster | None] = {}

    def of(self, attempt: dict[str, Any]) -> Cluster | None:
        """The cluster of an attempt; None where it does not answer."""
        address = attempt["address"]
        if address not in self._known:
            try:
                cluster = find_cluster(address)
                answered = bool(cluster.ask("/api/version", seconds=_ASK_SECONDS))
                self._known[address] = cluster if answered else None
            except FinedeficsError:
                self._known[address] = None
        return self._known[address]


def view(
    workspace: Workspace, record: JobRecord, clusters: Clusters | None = None, clock: datetime | None = None
) -> JobView:
    """How one job stands.

    Args:
        clusters: those asked already; they are asked only where the workspace does not tell the end and no
            heartbeat is fresh.
        clock: now, by the storage's clock.
    """
    job, status = record.job(), record.status()
    clock = clock or clock_of(workspace)
    attempt = job["attempts"][-1]
    age = _seconds(clock, record.submitted_at())
    begun = status.get("attempt") == attempt["attempt"]
    beat = record.heartbeat_at() if begun else None
    silent = None if beat is None else _seconds(clock, beat)

    def told(state: str, message: str = "") -> JobView:
        kept = status if begun else {}
        return JobView(record.id, state, attempt["attempt"], age, silent, job, kept, message)

    if begun and status["state"] in ENDED:
        return told(status["state"], status["message"])
    if silent is not None and silent < LOST_AFTER_SECONDS:
        return told(status["state"])
    beaten = begun and status["heartbeat"]
    heard = f"last heard of at {status['heartbeat']} (the cluster's clock)" if beaten else "it never began"
    cluster = (clusters or Clusters()).of(attempt)
    if cluster is None:
        return told("lost", f"its cluster at {attempt['address']} does not answer; {heard}")
    seen = _by_its_cluster(told, cluster, attempt, heard)
    if seen.state in ENDED:  # its process could not say so: kept, as the cluster will not be there for ever
        kept = {"attempt": seen.attempt, "state": seen.state, "message": seen.message}
        record.write_status({"run": {}, "exit_code": None, "heartbeat": None, **status, **kept})
    return seen


def views(workspace: Workspace) -> list[JobView]:
    """All jobs, those submitted last first."""
    records = all_jobs(workspace)
    if not records:
        return []  # where there are none, the storage is not written to for its clock
    clusters, clock = Clusters(), clock_of(workspace)
    found = [view(workspace, record, clusters, clock) for record in records]
    return sorted(found, key=lambda seen: seen.age)


def run_page(seen: JobView) -> str | None:
    """Address of its run's page, where a server records it; None where none does, or there is no run yet."""
    run, server = _recorded_run(seen), seen.job.get("tracking")
    return f"{server.rstrip('/')}/#/runs/{run}" if run and server else None


def show_command(seen: JobView) -> str | None:
    """The command that shows its run; None where there is none yet."""
    run = _recorded_run(seen)
    return f"finedefics runs show {run[:12]}" if run else None


def _recorded_run(seen: JobView) -> str | None:
    """Its run's id in MLflow; None before it has one, and where the server has not been told of it yet."""
    run = seen.status.get("run", {}).get("mlflow_run")
    return None if run is None or run.startswith(UNSENT) else str(run)


def missing(cluster: Cluster) -> str:
    """What processes on the cluster wait for, beside what it has; empty where none waits."""
    try:
        wanted = waited_for(cluster.ask("/api/cluster_status"))
        if not wanted:
            return ""
        nodes = nodes_of(cluster.ask("/api/v0/nodes?limit=10000"))
        return f"waits for {wanted}; the cluster has {told_nodes(nodes)}"
    except FinedeficsError:
        return ""


def _by_its_cluster(told: Any, cluster: Cluster, attempt: dict[str, Any], heard: str) -> JobView:
    try:
        info = cluster.ask(f"/api/jobs/{attempt['ray_id']}", seconds=_ASK_SECONDS)
    except FinedeficsError as error:
        return told("lost", f"{error.thing}; {heard}")
    if not info:
        return told("lost", f"the cluster at {attempt['address']} does not know it; {heard}")
    message = " ".join(str(info.get("message") or "").split())
    if info["status"] == "PENDING":
        return told("waiting", missing(cluster) or message)
    if info["status"] == "RUNNING":
        return told("running", f"its storage is not written to: {heard}" if "never" not in heard else "")
    return told(_RAY.get(info["status"], "failed"), message[:400])


def _seconds(now: datetime, then: datetime) -> float:
    return max(0.0, (now - then).total_seconds())
