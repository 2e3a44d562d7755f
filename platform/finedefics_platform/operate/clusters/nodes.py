"""Starts the nodes of a local cluster and ends; they stay. Runs in a process of its own: see `local`.

`ray start` puts the machine's outer address in the place of 127.0.0.1, starts a Ray Client server on all
interfaces that nobody needs, and fixes ports that a second cluster on the machine would want too. Ray's node
API, which `ray start` itself is made of, does what it is told.
"""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class NodesWanted:
    """What is to be started.

    Attributes:
        folder: Ray's temporary folder, a short path.
        port: of the control store; 0 takes a free one.
        jobs_port: of the job API; 0 takes a free one.
        head_cpus: logical CPUs of the head.
        worker_cpus: logical CPUs of each worker node, one entry a node.
        object_store: bytes a node.
        memory: bytes a node offers to tasks that ask for memory.
    """

    folder: str
    port: int
    jobs_port: int
    head_cpus: int
    worker_cpus: list[int]
    object_store: int
    memory: int

    def text(self) -> str:
        """As `main` reads it."""
        return json.dumps(asdict(self))


def main() -> None:
    """Read what is wanted from stdin; say what was started, one JSON object a line, on stdout."""
    wanted = NodesWanted(**json.loads(sys.stdin.read()))
    head = _start(_head_parameters(wanted), head=True)
    _tell(
        {
            "address": head.address,
            "jobs_address": f"http://{head.webui_url}",
            "gcs": _pid(head, "gcs_server"),
            "dashboard": _pid(head, "dashboard"),
        }
    )
    _tell({"node": "head", "raylet": _pid(head, "raylet")})
    for position, cpus in enumerate(wanted.worker_cpus, 1):
        # The machine's GPUs are counted once: Ray hands them out by node, and the nodes share them.
        gpus = None if position == 1 else 0
        worker = _start(
            {
                **_common(wanted, cpus),
                "num_gpus": gpus,
                "gcs_address": head.address,
                "include_log_monitor": False,
            },
            head=False,
        )
        _tell({"node": f"worker-{position}", "raylet": _pid(worker, "raylet")})


def _head_parameters(wanted: NodesWanted) -> dict[str, Any]:
    return {
        **_common(wanted, wanted.head_cpus),
        "num_gpus": 0 if wanted.worker_cpus else None,
        "gcs_server_port": wanted.port,
        "temp_dir": wanted.folder,
        "include_dashboard": True,
        "dashboard_host": LOOPBACK,
        "dashboard_port": wanted.jobs_port,
    }


def _common(wanted: NodesWanted, cpus: int) -> dict[str, Any]:
    return {
        "node_ip_address": LOOPBACK,
        "num_cpus": cpus,
        "memory": wanted.memory,
        "object_store_memory": wanted.object_store,
        "dashboard_agent_listen_port": 0,
        "min_worker_port": 0,  # free ones: Ray's range of 10002 and on is shared by all its nodes here
        "max_worker_port": 0,
    }


def _start(parameters: dict[str, Any], *, head: bool) -> Any:
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    return Node(RayParams(**parameters), head=head, shutdown_at_exit=False, spawn_reaper=False)


def _pid(node: Any, kind: str) -> int:
    return int(node.all_processes[kind][0].process.pid)


def _tell(said: dict[str, Any]) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
