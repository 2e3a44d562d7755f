"""A cluster over hosts with networks of their own: a training across them outlives one that is cut off.

Honest about what is shared: the hosts have one set of processors, and the workspace is a folder of one disk,
as a volume would be that all of them mount. Network, processes, shared memory and Ray's own folder are each
host's own.
"""

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hosts import INTERFACE, Host, hosts

from finedefics_platform.base.cluster_session import RAY_SETTINGS
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.operate.jobs.log import LogReader
from finedefics_platform.operate.jobs.records import JobRecord, find_job
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.runs import children, list_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = 60
STORE_PORT, JOBS_PORT = 6379, 8265
# Ray looks after its nodes every second and gives up one that was silent for some fifteen.
PATIENCE = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
}
START = """
import json, signal, sys, time
from finedefics_platform.operate.clusters.nodes import agent_ports, start_node, write_address
told = json.loads(sys.argv[1])
start_node({**agent_ports(), **told["parameters"]}, head=told["head"])
write_address(told["store"], told["parameters"]["temp_dir"])  # where jobs look for their cluster
print("up", flush=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the first process of a machine buries all others
while True:
    time.sleep(60)
"""
LOOK = """
import os, sys
from finedefics_platform.operate.clusters.state import look
print(*(node.host for node in look(sys.argv[1], os.environ["RAY_AUTH_TOKEN"]).nodes))
"""


class Cluster:
    """A head without CPUs and two hosts of three, each started as its own machine would start it."""

    def __init__(self, head: Host, workers: list[Host]) -> None:
        self.head, self.workers = head, workers
        self._started: list[subprocess.Popen[str]] = []
        self.jobs = f"http://{head.address}:{JOBS_PORT}"
        self.variables = {
            **RAY_SETTINGS,
            **PATIENCE,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_raylet_start_wait_time_s": "120",
            "GLOO_SOCKET_IFNAME": INTERFACE,
        }
        options = {
            "gcs_server_port": STORE_PORT,
            "include_dashboard": True,
            "dashboard_host": head.address,
            "dashboard_port": JOBS_PORT,
        }
        self._start(head, cpus=0, **options)
        for host in workers:
            self.join(host)

    def join(self, host: Host) -> None:
        """Start the host's node."""
        self._start(host, cpus=3, gcs_address=f"{self.head.address}:{STORE_PORT}")

    def bury(self) -> None:
        """Wait for what was started and was ended."""
        for process in self._started:
            process.wait(60)

    def nodes(self) -> set[str]:
        """Addresses of those that the head takes for alive."""
        return set(self.command("-c", LOOK, self.jobs).split())

    def command(self, *arguments: str, **variables: str) -> str:
        """What a Python program says that runs beside the head."""
        return self.head.run([sys.executable, *arguments], {**self.variables, **variables})

    def _start(self, host: Host, *, cpus: int, **options: Any) -> None:
        parameters = {
            "node_ip_address": host.address,
            "temp_dir": str(host.ray_folder),
            "num_cpus": cpus,
            "num_gpus": 0,
            "memory": 2 * 2**30,
            "object_store_memory": 200_000_000,
            "min_worker_port": 0,
            "max_worker_port": 0,
            **options,
        }
        store = f"{self.head.address}:{STORE_PORT}"
        told = {"head": host is self.head, "store": store, "parameters": parameters}
        log = host.disk / "start.log"
        with log.open("w") as said:
            program = [sys.executable, "-c", START, json.dumps(told)]
            started = host.start(program, self.variables, stdout=said, stderr=said)
        self._started.append(started)
        until(lambda: "up\n" in log.read_text() or started.poll() is not None, 300, log.read_text)
        assert started.poll() is None, log.read_text()[-3000:]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with hosts(3) as (head, *workers):
        made = Cluster(head, workers)
        until(lambda: len(made.nodes()) == 3)
        yield made
    made.bury()


def until(said: Callable[[], Any], seconds: float = 300, told: Callable[[], Any] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < deadline, told()
        time.sleep(0.3)


def running(host: Host, name: str) -> list[psutil.Process]:
    """Those there in whose command or title this is."""
    return [one for one in host.processes() if any(name in part for part in titles(one))]


def titles(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def submitted(
    cluster: Cluster, workspace: Workspace, dataset: Dataset, model: Path, folder: Path
) -> JobRecord:
    """A training job of two workers, neither of which fits beside the other."""
    stage = {"name": "name", "steps": STEPS, "feeds": {"labelled": 8}, "terms": {"answer": 1}}
    experiment = {
        "name": "across-hosts",
        "data": {"dataset": dataset.name, "negatives": 2},
        "model": {"path": str(model)},
        "stages": [stage],
        "tracking": {"checkpoint_every": 5},
        "resources": {"workers": 2, "cpus_per_worker": 2, "threads_per_worker": 2},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    spec = folder / "job.yaml"
    spec.write_text(yaml.safe_dump({"name": "across", "job": "train", "document": "experiment.yaml"}))
    assert workspace.root.local is not None
    submit = ["-m", "finedefics_platform.cli.main", "jobs", "submit", str(spec), "--cluster", cluster.jobs]
    cluster.command(*submit, FINEDEFICS_HOME=workspace.root.uri)
    return find_job(workspace, "across")


def test_a_training_across_hosts_outlives_one_that_is_cut_off(
    cluster: Cluster,
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    record = submitted(cluster, drawn_workspace, drawn_dataset, tiny_model, tmp_path)

    def told() -> Any:
        return record.status(), LogReader(record.log).take(last=True)

    def step() -> int:
        status = record.status()
        assert status.get("state", "running") == "running", told()
        return int(status.get("run", {}).get("step", 0))

    until(lambda: step() > STEPS // 6, 900, told)
    assert [len(running(host, "RayTrainWorker")) for host in cluster.workers] == [1, 1], "one a host"
    lost = next(host for host in cluster.workers if not running(host, "operate.jobs.supervise"))
    raylets = [one for one in lost.processes() if one.name() == "raylet"]
    assert len(raylets) == 1

    lost.cut_off()
    until(lambda: lost.address not in cluster.nodes(), 180)
    cut_at = step()
    assert STEPS // 6 < cut_at < STEPS, "in the middle of its training"
    lost.join_again()
    psutil.wait_procs(raylets, 120)  # told that it was given up, the node ends itself
    assert not raylets[0].is_running()
    lost.end()  # and the machine begins anew
    cluster.join(lost)
    until(lambda: record.status().get("state") != "running", 600, told)

    assert record.status()["state"] == "succeeded", told()
    key = record.status()["run"]["run"]
    (parent,) = [run for run in list_runs(drawn_workspace) if run.key == key and run.parent is None]
    (stage_run,) = children(drawn_workspace, parent.run_id)
    curve = open_client(drawn_workspace).get_metric_history(stage_run.run_id, "loss")
    assert [metric.step for metric in curve] == list(range(1, STEPS + 1)), "every step, and each once"
