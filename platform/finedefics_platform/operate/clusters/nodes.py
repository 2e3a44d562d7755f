"""Starts the nodes of a local cluster and ends; they stay. Runs in a process of its own: see `local`.

`ray start` puts the machine's outer address in the place of 127.0.0.1, starts a Ray Client server on all
interfaces that nobody needs, and fixes ports that a second cluster on the machine would want too. Ray's node
API, which `ray start` itself is made of, does what it is told.
"""

import importlib
import json
import socket
import sys
from contextlib import ExitStack
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
    head = start_node(_head_parameters(wanted), head=True)
    write_address(head.address, wanted.folder)
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
        worker = start_node(
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
        **agent_ports(),
        "min_worker_port": 0,  # free ones: Ray's range of 10002 and on is shared by all its nodes here
        "max_worker_port": 0,
    }


def agent_ports() -> dict[str, int]:
    """Free ports for a node's agents, chosen before the agents run: see `start_node`."""
    names = (
        "dashboard_agent_listen_port",
        "metrics_agent_port",
        "metrics_export_port",
        "runtime_env_agent_port",
    )
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in names]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}


def start_node(parameters: dict[str, Any], *, head: bool) -> Any:
    """Start a node by Ray's own parameters; its processes stay when this one ends."""
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    raylet: Any = importlib.import_module("ray._raylet")  # compiled, and half of it without types

    class PatientNode(Node):
        """A raylet gives its agent 15 s to write down its port, then ends; busy cores take longer."""

        def start_raylet(self, *arguments: Any, **options: Any) -> None:
            port = self._ray_params.dashboard_agent_listen_port
            name = raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME
            raylet.persist_port(self._session_dir, self._node_id, name, port)
            super().start_raylet(*arguments, **options)

    return PatientNode(RayParams(**parameters), head=head, shutdown_at_exit=False, spawn_reaper=False)


def write_address(address: str, folder: str) -> None:
    """Where Ray's jobs look for their cluster; without it, for one of several on the machine."""
    from ray._private.utils import write_ray_address

    write_ray_address(address, folder)


def _pid(node: Any, kind: str) -> int:
    return int(node.all_processes[kind][0].process.pid)


def _tell(said: dict[str, Any]) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
