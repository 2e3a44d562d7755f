"""A real Ray cluster on this machine: a head and worker nodes as processes of their own, on loopback."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO

import psutil
from filelock import FileLock, Timeout

from finedefics.errors import FinedeficsError, reason_of, wrong_use
from finedefics_platform.base.cluster_session import RAY_SETTINGS
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.operate.clusters import record as records
from finedefics_platform.operate.clusters.nodes import LOOPBACK, NodesWanted
from finedefics_platform.operate.clusters.record import ClusterRecord
from finedefics_platform.operate.clusters.state import ClusterState, look

OBJECT_STORE_BYTES = 300_000_000
START_SECONDS = 240
_LONGEST_TEMPORARY = 30  # of 107 characters that a socket's path may have, Ray's own names take some 70
_GRACE_SECONDS = 5
_KILLED_SECONDS = 10


@dataclass(frozen=True)
class LocalCluster:
    """What is asked for.

    Attributes:
        name: lower-case letters, digits and hyphens.
        workers: worker nodes beside the head.
        cpus_per_worker: logical CPUs of each.
        head_cpus: logical CPUs of the head; None: none where there are workers, as on a large cluster.
        port: of the control store; 0 takes a free one.
        jobs_port: of the job API; 0 takes a free one.
        object_store: bytes a node.
    """

    name: str = "local"
    workers: int = 1
    cpus_per_worker: int = 8
    head_cpus: int | None = None
    port: int = 0
    jobs_port: int = 0
    object_store: int = OBJECT_STORE_BYTES


def up(wanted: LocalCluster, progress: Progress = SILENT) -> ClusterRecord:
    """Start the cluster, wait until all nodes are there and the job API answers, and write its record.

    Raises:
        FinedeficsError: one of that name is up or half there, a port is in use, or Ray does not start; what
            was started is ended then.
    """
    with _alone(wanted.name):
        _refuse_existing(wanted.name)
        for port in (wanted.port, wanted.jobs_port):
            _refuse_taken(port)
        home = records.folder_of(wanted.name)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        mark, folder = secrets.token_hex(8), _short_folder()
        try:
            # First, so that what a killed command leaves can be found and ended.
            (home / "started.json").write_text(json.dumps({"mark": mark, "folder": folder}))
            (token_file := home / "token").touch(mode=0o600)
            token_file.write_text(secrets.token_urlsafe(32))
            made = _start(wanted, home, mark, folder, progress)
            records.write(made)
        except BaseException:
            _end(mark)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(home, ignore_errors=True)
            raise
    return made


def down(name: str, progress: Progress = SILENT) -> int:
    """End every process of the cluster, of one whose head died too, and remove what it kept.

    Returns:
        How many processes were ended.

    Raises:
        FinedeficsError: there is no such cluster (exit code 2), or a process does not end.
    """
    with _alone(name):
        home = records.folder_of(name)
        try:
            started = json.loads((home / "started.json").read_text())
        except (OSError, ValueError):
            known = ", ".join(record.name for record in records.recorded())
            cure = f"use one of: {known}" if known else "there is nothing to take down"
            raise wrong_use(
                "there is no such cluster on this machine", place=f"cluster {name}", cure=cure
            ) from None
        with progress.progress(f"ending cluster {name}", 1) as advance:
            ended = _end(started["mark"])
            advance(1)
        shutil.rmtree(started["folder"], ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)
    return ended


def _start(wanted: LocalCluster, home: Path, mark: str, folder: str, progress: Progress) -> ClusterRecord:
    head_cpus = wanted.head_cpus
    if head_cpus is None:
        head_cpus = 0 if wanted.workers else wanted.cpus_per_worker
    nodes = NodesWanted(
        folder=folder,
        port=wanted.port,
        jobs_port=wanted.jobs_port,
        head_cpus=head_cpus,
        worker_cpus=[wanted.cpus_per_worker] * wanted.workers,
        object_store=wanted.object_store,
        memory=psutil.virtual_memory().total // (wanted.workers + 1),
    )
    said: dict[str, str] = {}
    pids: dict[str, int] = {}
    with progress.progress(f"starting cluster {wanted.name}", wanted.workers + 2) as advance:
        for event in _started(nodes, home, mark):
            if "node" in event:
                pids[event["node"]] = int(event["raylet"])
                advance(1)
            else:
                pids |= {"gcs": int(event["gcs"]), "dashboard": int(event["dashboard"])}
                said |= {"address": event["address"], "jobs_address": event["jobs_address"]}
        made = ClusterRecord(
            name=wanted.name,
            **said,
            token_file=str(home / "token"),
            python=".".join(map(str, sys.version_info[:3])),
            ray=metadata.version("ray"),
            pids=pids,
            started=time.time(),
            folder=folder,
            mark=mark,
        )
        _wait(made, nodes=wanted.workers + 1)
        advance(1)
    return made


def _started(nodes: NodesWanted, home: Path, mark: str) -> Iterator[dict[str, str]]:
    """Run `nodes` in a process whose environment is the cluster's, and yield what it says."""
    environment = {**RAY_SETTINGS, **os.environ}
    for variable in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):  # of another cluster
        environment.pop(variable, None)
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "token"),
        "RAY_raylet_start_wait_time_s": "120",  # by default 30 s, too few where all cores are taken
        "RAY_JOB_START_TIMEOUT_SECONDS": "86400",  # a job waits for its turn; by default it fails after 900 s
        "SPT_NOENV": "1",
        records.MARK_VARIABLE: mark,
        **records.LOOPBACK_VARIABLES,
    }
    complaints = home / "start.log"
    with complaints.open("w") as errors:
        starter = subprocess.Popen(
            [sys.executable, "-m", nodes.__module__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd="/",  # the cluster outlives the folder that it was started from
            start_new_session=True,  # the terminal's Ctrl-C is the command's, not the cluster's
        )
        late = threading.Timer(START_SECONDS, starter.kill)
        late.start()
        try:
            yield from _events(starter, nodes)
            code = starter.wait()
        finally:
            late.cancel()
            starter.kill()
            starter.wait()
    if code != 0:
        lines = [line for line in complaints.read_text(errors="replace").splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else f"no answer within {START_SECONDS} s"
        raise FinedeficsError(
            f"Ray does not start ({reason})",
            place="this machine",
            cure="free memory, cores and /tmp, then try again",
        )


def _events(starter: "subprocess.Popen[str]", nodes: NodesWanted) -> Iterator[dict[str, str]]:
    send, receive = starter.stdin, starter.stdout
    assert send is not None
    assert receive is not None
    with send:
        send.write(nodes.text())
    with receive:
        yield from map(json.loads, _json_lines(receive))


def _json_lines(lines: IO[str]) -> Iterator[str]:
    return (line for line in lines if line.startswith("{"))  # Ray prints a line of its own now and then


def _wait(made: ClusterRecord, *, nodes: int) -> ClusterState:
    """Until the job API answers and every node is there."""
    end, reason = time.monotonic() + START_SECONDS, ""
    while time.monotonic() < end:
        if not made.alive:
            raise records.dead(made)
        try:
            state = look(made.jobs_address, made.token())
            if len(state.nodes) >= nodes:
                return state
            reason = f"{len(state.nodes)} of {nodes} nodes are there"
        except FinedeficsError as error:
            reason = reason_of(error)
        time.sleep(0.2)
    raise FinedeficsError(
        f"not ready within {START_SECONDS} s ({reason})",
        place=f"cluster {made.name}",
        cure="free memory and cores, then try again",
    )


def _end(mark: str) -> int:
    """End what carries the mark: asked first, killed after a few seconds, until none is left."""
    ended: set[int] = set()
    asked = list(records.marked(mark))
    for process in asked:
        _signal(process, kill=False)
    ended |= {process.pid for process in asked}
    psutil.wait_procs(asked, timeout=_GRACE_SECONDS)
    end = time.monotonic() + _KILLED_SECONDS
    while left := list(records.marked(mark)):  # what was started meanwhile too
        if time.monotonic() > end:
            numbers = ", ".join(str(process.pid) for process in left)
            raise FinedeficsError(
                "processes do not end", place=f"processes {numbers}", cure="end them, then take it down again"
            )
        for process in left:
            _signal(process, kill=True)
        ended |= {process.pid for process in left}
        psutil.wait_procs(left, timeout=1)
    return len(ended)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill() if kill else process.terminate()


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One command at a time brings up or takes down a cluster of that name."""
    folder = records.folder_of(name).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with FileLock(folder / f".{name}.lock", timeout=0):
            yield
    except Timeout as error:
        raise FinedeficsError(
            "another command is bringing it up or taking it down", place=f"cluster {name}", cure="wait for it"
        ) from error


def _refuse_existing(name: str) -> None:
    for record in records.recorded():
        if record.name == name:
            if not record.alive:
                raise records.dead(record)
            raise FinedeficsError(
                f"a cluster of that name is up ({record.address})",
                place=f"cluster {name}",
                cure=f"use it, take it down (finedefics cluster down --name {name}), or give another --name",
            )
    if (records.folder_of(name) / "started.json").exists():
        down_ = f"finedefics cluster down --name {name}"
        raise FinedeficsError(
            "starting it was cut off", place=f"cluster {name}", cure=f"clear what it left: {down_}"
        )


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise wrong_use(
                f"port {port} cannot be had ({error.strerror})",
                place=f"{LOOPBACK}:{port}",
                cure="give another one, or none for a free one",
            ) from error


def _short_folder() -> str:
    usual = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="fd-", dir=usual if len(usual) <= _LONGEST_TEMPORARY else "/tmp")
