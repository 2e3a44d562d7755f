"""A real cluster on this machine: up, seen, guarded, and gone again, whatever became of its head."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.cli.main import main
from finedefics_platform.operate.clusters import local
from finedefics_platform.operate.clusters import record as records
from finedefics_platform.operate.clusters.local import LocalCluster, down, up
from finedefics_platform.operate.clusters.record import ClusterRecord
from finedefics_platform.operate.clusters.state import look

SMALL = 100 * 2**20
# Two actors that fill a node each, and a process of theirs that outlives them.
WORK = """
import subprocess, ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=1.5)
class Worker:
    def node(self):
        subprocess.Popen(["sleep", "600"])
        return ray.get_runtime_context().get_node_id()

workers = [Worker.remote() for _ in range(2)]
nodes = set(ray.get([worker.node.remote() for worker in workers]))
print("two nodes worked" if len(nodes) == 2 else nodes)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own; clusters that are left in it are taken down."""
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    for name in records.started():
        down(name)


def listening_elsewhere(mark: str) -> list[Any]:
    sockets = [
        connection.laddr
        for process in records.marked(mark)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(sockets) >= 4
    return [address for address in sockets if address.ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")]


def forged(cache: Path, name: str, process: subprocess.Popen[bytes], mark: str) -> ClusterRecord:
    """A record whose head is one process that sleeps."""
    (home := cache / "clusters" / name).mkdir(parents=True)
    (folder := cache / f"ray-{name}").mkdir()
    (home / "started.json").write_text(json.dumps({"mark": mark, "folder": str(folder)}))
    pids = dict.fromkeys(("gcs", "dashboard", "head"), process.pid)
    token_file = str(home / "token")
    made = ClusterRecord(
        name, "127.0.0.1:1", "http://127.0.0.1:1", token_file, "", "", pids, 0.0, str(folder), mark
    )
    records.write(made)
    return made


def sleeper(mark: str) -> "subprocess.Popen[bytes]":
    """A process of a cluster, whose own child carries the mark on."""
    program = (
        "import subprocess, time; subprocess.Popen(['sleep', '600']); print(flush=True); time.sleep(600)"
    )
    environment = {**os.environ, records.MARK_VARIABLE: mark}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_up_status_and_down(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--name", "birds", "--workers", "1", "--cpus-per-worker", "3", "--object-store-mib", "100"]
    assert main(["cluster", "up", "--local", *options]) == 0
    printed = capsys.readouterr().out
    made = records.named("birds")
    token = made.token()
    assert "finedefics jobs submit" in printed
    assert [record.name for record in records.known()] == ["birds"]

    # Nobody but the user reads the token, and it stands nowhere else.
    assert stat.S_IMODE(Path(made.token_file).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(made.token_file).parent.stat().st_mode) == 0o700
    assert token not in printed + (cache / "clusters" / "birds" / "cluster.json").read_text()
    for process in records.marked(made.mark):
        assert token not in " ".join([*process.cmdline(), *process.environ().values()])
    assert listening_elsewhere(made.mark) == []

    state = look(made.jobs_address, token)
    assert state.authenticated
    assert [(node.head, node.resources.get("CPU", 0)) for node in state.nodes] == [(True, 0), (False, 3)]
    for wrong, expected in ((None, "a token is needed"), ("not-this-one", "the token is refused")):
        with pytest.raises(FinedeficsError, match=expected):
            look(made.jobs_address, wrong)

    assert main(["cluster", "status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (told["name"], told["alive"], told["resources"]["CPU"]) == ("birds", True, 3)
    assert main(["cluster", "up", "--local", "--name", "birds"]) == 1
    assert "is up" in capsys.readouterr().err

    assert main(["cluster", "down"]) == 0
    assert list(records.marked(made.mark)) == []
    assert records.known() == records.recorded() == []
    assert not Path(made.folder).exists()
    assert not (cache / "clusters" / "birds").exists()


@pytest.mark.slow
def test_jobs_run_on_the_workers_and_a_killed_head_is_told_and_cleared(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = up(LocalCluster(name="birds", workers=2, cpus_per_worker=2, object_store=SMALL))
    (program := tmp_path / "work.py").write_text(WORK)
    command = f"{sys.executable} {program}"
    environment = {**os.environ, **made.variables()}
    done = subprocess.run(command.split(), env=environment, capture_output=True, text=True, timeout=300)
    assert "two nodes worked" in done.stdout, done.stderr

    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(made.jobs_address, headers={"Authorization": f"Bearer {made.token()}"})
    # On a worker: the head has no CPUs.
    job = client.submit_job(entrypoint=command, entrypoint_num_cpus=0.1, submission_id="birds-1")
    seen = set()
    while (status := client.get_job_status(job).value) in ("PENDING", "RUNNING"):
        seen |= set(look(made.jobs_address, made.token()).running_jobs)
        time.sleep(0.2)
    assert (status, seen) == ("SUCCEEDED", {"birds-1"}), client.get_job_logs(job)
    assert "two nodes worked" in client.get_job_logs(job)
    assert listening_elsewhere(made.mark) == []  # workers that ran something included

    head = [psutil.Process(made.pids[role]) for role in ("gcs", "head")]
    for process in head:
        process.kill()
    psutil.wait_procs(head, 10)
    assert records.known() == []
    assert main(["cluster", "status"]) == 1
    assert "its head is dead" in capsys.readouterr().err
    assert main(["cluster", "up", "--local", "--name", "birds"]) == 1
    assert "finedefics cluster down --name birds" in capsys.readouterr().err
    assert main(["cluster", "down", "--name", "birds"]) == 0
    assert list(records.marked(made.mark)) == []  # what a task had started too


def test_a_dead_head_is_told_and_down_ends_what_is_left(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, left = sleeper("m1"), sleeper("m1")
    stranger = sleeper("m2")
    try:
        made = forged(cache, "birds", head, "m1")
        assert records.known() == [made]
        head.kill()
        head.wait()
        with pytest.raises(FinedeficsError, match="its head is dead"):
            records.named("birds")
        assert main(["cluster", "down"]) == 0
        assert left.wait(10) is not None
        assert list(records.marked("m1")) == []
        assert len(list(records.marked("m2"))) == 2
        assert not Path(made.folder).exists()
    finally:
        for process in (*records.marked("m1"), *records.marked("m2")):
            process.kill()
        for waited in (head, left, stranger):
            waited.wait()


def test_what_ray_never_started_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.NodesWanted, "text", lambda self: '{"no": "such field"}')
    with pytest.raises(FinedeficsError, match="Ray does not start"):
        up(LocalCluster(name="birds"))
    assert records.started() == []
    assert not (cache / "clusters" / "birds").exists()


def test_a_start_that_was_killed_is_told_and_cleared(cache: Path) -> None:
    (home := cache / "clusters" / "birds").mkdir(parents=True)
    (home / "started.json").write_text(json.dumps({"mark": "m3", "folder": str(cache / "ray")}))
    with pytest.raises(FinedeficsError, match="cut off"):
        up(LocalCluster(name="birds"))
    assert down("birds") == 0
    assert not home.exists()


def test_two_commands_for_one_name_do_not_meet(cache: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with local._alone("birds"):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(30)
    try:
        with pytest.raises(FinedeficsError, match="another command"):
            up(LocalCluster(name="birds"))
    finally:
        leave.set()
        thread.join()


def test_a_token_that_is_gone_is_one_line(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = sleeper("m4")
    try:
        forged(cache, "birds", head, "m4")
        assert main(["cluster", "status"]) == 1
        assert "its token cannot be read" in capsys.readouterr().err
    finally:
        for process in list(records.marked("m4")):
            process.kill()
        head.wait()


def test_wrong_use_is_one_line(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        wrong = {
            ("up",): "it is not said where",
            ("up", "--local", "--port", port): f"port {port} cannot be had",
            ("up", "--local", "--jobs-port", port): f"port {port} cannot be had",
            ("up", "--local", "--name", "../birds"): "not a cluster's name",
            ("down",): "no cluster is up",
            ("down", "--name", "nobody"): "no such cluster",
            ("status", "--name", "nobody"): "no such cluster",
        }
        for arguments, expected in wrong.items():
            assert main(["cluster", *arguments]) == 2, arguments
            error = capsys.readouterr().err
            assert expected in error
            assert len(error.strip().splitlines()) == 1
    assert records.started() == []


def test_a_cluster_that_is_not_there_or_something_else_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(FinedeficsError, match="no answer"):
            look(address, "token")
    assert time.monotonic() - began < 15
