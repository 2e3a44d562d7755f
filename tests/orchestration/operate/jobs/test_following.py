"""Following and stopping from the workspace alone: the job is a plain process, and no cluster answers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.operate.jobs import following, views
from finedefics_platform.operate.jobs.following import follow, stop
from finedefics_platform.operate.jobs.log import LogReader, LogWriter
from finedefics_platform.operate.jobs.records import JobRecord, find_job
from finedefics_platform.operate.jobs.views import view

SUPERVISED = """
import sys
from finedefics_platform.base.storage import Location
from finedefics_platform.operate.jobs.records import JobRecord
from finedefics_platform.operate.jobs.supervise import Supervisor
record = JobRecord(Location.of(sys.argv[1]))
sys.exit(Supervisor(record, 1, [sys.executable, "-c", sys.argv[2]], grace=30).run())
"""
TALKS = "import time\nfor n in range(10**6): print('line', n, flush=True); time.sleep(0.02)"


@pytest.fixture
def begin(workspace: Workspace) -> Any:
    """Starts a job as a process of this machine, whose cluster's API nobody listens at."""
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str, name: str = "talks-1a2b") -> JobRecord:
        record = JobRecord(workspace.jobs / name)
        attempt = {"attempt": 1, "ray_id": name, "cluster": "x", "address": "http://127.0.0.1:1", "who": "me"}
        spec = {"stop_grace": 30, "entrypoint": {"cpus": 1}}
        told = {
            "id": name,
            "job": "mine",
            "command": ["data", "mine"],
            "spec": spec,
            "asks_for": [{"CPU": 1.0}],
        }
        record.write_job({**told, "attempts": [attempt]})
        if program:
            command = [sys.executable, "-c", SUPERVISED, record.place.uri, program]
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True))
        return record

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(said: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_ctrl_c_ends_the_following_and_not_the_job(begin: Any, workspace: Workspace, tmp_path: Path) -> None:
    record = begin(TALKS)
    wait_for(lambda: len(LogReader(record.log).take()) > 3)
    follower = subprocess.Popen(
        [sys.executable, "-m", "finedefics_platform.cli.main", "jobs", "logs", "talks", "--follow"],
        env={**os.environ, "FINEDEFICS_HOME": workspace.root.uri},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    assert [follower.stdout.readline() for _ in range(5)] == [f"line {n}\n" for n in range(5)]
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert "the job goes on" in said
    assert f"finedefics jobs logs {record.id} --follow" in said
    assert said.count("\n") == 1
    before = len(LogReader(record.log).take())
    wait_for(lambda: len(LogReader(record.log).take()) > before)

    assert stop(workspace, record).state == "stopped"  # by stop.json alone
    lines: list[str] = []
    assert follow(workspace, record, lines.append).state == "stopped"
    assert lines[-1].startswith("[job] stopped: asked by")


def test_a_storage_that_is_away_is_waited_for(
    begin: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = begin("print('one'); print('two')")
    wait_for(lambda: record.status().get("state") == "succeeded")
    take, calls = LogReader.take, []

    def flaky(self: LogReader, *, last: bool = False) -> list[str]:
        calls.append(last)
        if len(calls) <= 2:
            raise FinedeficsError("away", place="s3://x", cure="wait")
        return take(self, last=last)

    monkeypatch.setattr(LogReader, "take", flaky)
    lines: list[str] = []
    assert follow(workspace, record, lines.append).state == "succeeded"
    assert lines == ["one", "two", "[job] succeeded"]


def test_a_job_whose_cluster_is_gone_is_lost_and_its_log_is_read(
    begin: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    record = begin("")
    assert "never began" in view(workspace, record).message
    LogWriter(record.log, 1).write("its last words\n")
    record.write_status({"attempt": 1, "state": "running", "heartbeat": "2026-01-02T03:04:05+00:00"})
    assert view(workspace, record).state == "running"
    monkeypatch.setattr(views, "LOST_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(following, "LOST_AFTER_SECONDS", 0.0)
    seen = view(workspace, record)
    assert seen.state == "lost"
    assert "2026-01-02T03:04:05" in seen.message
    with pytest.raises(FinedeficsError, match="nothing to stop"):
        stop(workspace, record)
    monkeypatch.setenv("FINEDEFICS_HOME", workspace.root.uri)
    assert main(["jobs", "logs", record.id]) == 0
    assert capsys.readouterr().out == "its last words\n"
    assert main(["jobs", "list", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (told[0]["state"], told[-1]) == ("lost", {"event": "done", "jobs": 1})
    assert main(["jobs", "logs", record.id, "--follow"]) == 1


@pytest.mark.parametrize(
    ("server", "see"),
    [
        ("http://mlflow:5000/", "http://mlflow:5000/#/runs/3f2a9c0123456789"),
        (None, "finedefics runs show 3f2a9c012345"),
    ],
)
def test_where_its_run_is_seen_is_told(
    begin: Any,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    server: str | None,
    see: str,
) -> None:
    record = begin("")
    record.write_job({**record.job(), "tracking": server})
    run = {"run": "one", "mlflow_run": "3f2a9c0123456789"}
    kept = {"attempt": 1, "state": "succeeded", "message": "", "heartbeat": None}
    monkeypatch.setenv("FINEDEFICS_HOME", workspace.root.uri)
    record.write_status({**kept, "run": {}})
    assert main(["jobs", "status", record.id]) == 0
    assert "see" not in capsys.readouterr().out
    record.write_status({**kept, "run": run})
    assert main(["jobs", "status", record.id]) == 0
    assert see in capsys.readouterr().out
    assert main(["jobs", "list"]) == 0
    assert (see in capsys.readouterr().out) == (server is not None)


def test_a_list_of_no_jobs_makes_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", workspace.root.uri)
    assert main(["jobs", "list"]) == 0
    assert "No jobs in" in capsys.readouterr().out
    assert not workspace.root.exists()


def test_a_job_that_is_not_there_or_not_one_alone(begin: Any, workspace: Workspace) -> None:
    for name in ("talks-1a2b", "talks-1a3c"):
        begin("", name)
    assert find_job(workspace, "talks-1a2").id == "talks-1a2b"
    for name, said in (("nothing", "no such job"), ("talks", "several"), ("../x", "no such job")):
        with pytest.raises(FinedeficsError, match=said) as caught:
            find_job(workspace, name)
        assert caught.value.exit_code == 2
