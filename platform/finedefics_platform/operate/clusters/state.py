"""What a Ray cluster says of itself over its dashboard's HTTP: no import of Ray, no wait for a driver."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from finedefics.errors import FinedeficsError, reason_of

_SECONDS = 10
_INTERNAL = "node:"  # resources that Ray makes for itself
_BYTES = ("memory", "object_store_memory")


@dataclass(frozen=True)
class NodeState:
    """A node that is there.

    Attributes:
        id: Ray's hex id.
        head: whether it is the head.
        host: its address.
        resources: what it has in all: CPUs, GPUs and custom resources by count, memory in bytes.
    """

    id: str
    head: bool
    host: str
    resources: dict[str, float]


@dataclass(frozen=True)
class ClusterState:
    """What a cluster has.

    Attributes:
        ray: its version of Ray.
        authenticated: whether it refuses who shows no token.
        nodes: those alive, the head first.
        used: of every resource, how much is taken.
        running_jobs: submission ids of jobs that run or wait.
    """

    ray: str
    authenticated: bool
    nodes: list[NodeState]
    used: dict[str, float]
    running_jobs: list[str]

    @property
    def resources(self) -> dict[str, float]:
        """What all nodes have together."""
        total: dict[str, float] = {}
        for node in self.nodes:
            for name, amount in node.resources.items():
                total[name] = total.get(name, 0.0) + amount
        return total


def look(jobs_address: str, token: str | None) -> ClusterState:
    """Ask a cluster for its version, nodes and resources.

    Raises:
        FinedeficsError: nothing answers there, the token is refused, or it is no Ray cluster.
    """
    version = _get(jobs_address, "/api/version", token)
    nodes = _get(jobs_address, "/api/v0/nodes?detail=1", token)
    status = _get(jobs_address, "/api/cluster_status", token)
    jobs = _get(jobs_address, "/api/jobs/", token)
    try:
        found = [_node(node) for node in nodes["data"]["result"]["result"] if node["state"] == "ALIVE"]
        # Absent until the autoscaler's monitor has reported for the first time.
        report = (status["data"]["clusterStatus"] or {}).get("loadMetricsReport") or {}
        return ClusterState(
            ray=version["ray_version"],
            authenticated=_refuses_strangers(jobs_address),
            nodes=sorted(found, key=lambda node: (not node.head, node.id)),
            used={_name(name): used for name, (used, _) in report.get("usage", {}).items() if _told(name)},
            running_jobs=[
                job["submission_id"]
                for job in jobs
                if job.get("submission_id") and job["status"] in ("PENDING", "RUNNING")
            ],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FinedeficsError(
            f"what answers is no Ray cluster of a known kind ({reason_of(error)})",
            place=jobs_address,
            cure="give the address of a Ray dashboard",
        ) from error


def _node(node: dict[str, Any]) -> NodeState:
    resources = {name: float(amount) for name, amount in node["resources_total"].items() if _told(name)}
    return NodeState(node["node_id"], bool(node["is_head_node"]), node["node_ip"], resources)


def _told(name: str) -> bool:
    return not name.startswith(_INTERNAL)


def _name(name: str) -> str:
    return "object_store_memory" if name == "objectStoreMemory" else name  # as the dashboard spells it


def _refuses_strangers(jobs_address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{jobs_address}/api/jobs/", timeout=_SECONDS):
            return False
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except OSError:
        return False


def _get(jobs_address: str, path: str, token: str | None) -> Any:
    request = urllib.request.Request(f"{jobs_address}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            thing = "the token is refused" if token else "a token is needed"
            cure = "set RAY_AUTH_TOKEN_PATH to the file with this cluster's token"
        else:
            thing, cure = f"it answers {error.code} to {path}", "give the address of a Ray dashboard"
        raise FinedeficsError(thing, place=jobs_address, cure=cure) from error
    except (OSError, ValueError) as error:
        reason = reason_of(getattr(error, "reason", error))
        raise FinedeficsError(
            f"no answer ({reason})",
            place=jobs_address,
            cure="check the address, and whether the cluster is up (finedefics cluster status)",
        ) from error
