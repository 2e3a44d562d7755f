"""Jobs on a real Ray head with token authentication: submitted, followed, stopped, gone on with, outlived."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.config.job import load_job
from finedefics_platform.data.store import Dataset
from finedefics_platform.operate.jobs import views
from finedefics_platform.operate.jobs.following import follow, stop
from finedefics_platform.operate.jobs.log import LogReader
from finedefics_platform.operate.jobs.records import JobRecord, find_job
from finedefics_platform.operate.jobs.submission import Submitted, submit
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.runs import children, list_runs

if TYPE_CHECKING:
    from tests.orchestration.operate.jobs.conftest import Head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = 40
PLANTED = "planted-0123456789abcdef"
AWAY = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
TALKS = """
import time
for number in range(10**6):
    print("line", number, time.time(), flush=True)
    time.sleep(0.02)
"""


def spec(folder: Path, **keys: Any) -> Path:
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump({"name": "tried", "job": "mine", "arguments": ["nothing"], **keys}))
    return file


def sent(workspace: Workspace, file: Path, **options: Any) -> Submitted:
    return submit(workspace, load_job(file), file, **options)


def jobs_of(head: "Head") -> list[str]:
    return [job["submission_id"] for job in head.cluster.ask("/api/jobs/")]


def talking(folder: Path) -> Path:
    """A job that prints lines until it is ended."""
    (folder / "talks.py").write_text(TALKS)
    arguments = [str(folder), "--name", "x", "--reader", str(folder / "talks.py")]
    return spec(folder, name="talks", job="ingest", arguments=arguments, stop_grace=30)


def until(record: JobRecord, line: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not any(text.startswith(line) for text in LogReader(record.log).take()):
        assert time.monotonic() < deadline, record.status()
        time.sleep(0.2)


def test_without_the_token_every_command_says_so_in_one_line(
    head: "Head", workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", workspace.root.uri)
    for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    for address in (head.jobs, head.address):
        assert main(["jobs", "submit", str(spec(tmp_path)), "--cluster", address]) == 1
        said = capsys.readouterr().err
        assert "asks for a token" in said
        assert "RAY_AUTH_MODE=token" in said
        assert said.count("\n") == 1
    assert jobs_of(head) == []
    assert not workspace.jobs.exists()
    # a command that joins the cluster itself
    join = "from finedefics_platform.base.cluster_session import ensure_ray; ensure_ray()"
    for variables in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another"}):
        monkeypatch.setenv("RAY_ADDRESS", head.address)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        done = subprocess.run([sys.executable, "-c", join], capture_output=True, text=True, timeout=120)
        assert "RAY_AUTH_MODE=token" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"entrypoint": {"cpus": 1, "gpus": 3}}, r"asks for .*3 GPU.*; the cluster has 1 node: .*8 CPU"),
        ({"tracking": "http://127.0.0.1:1"}, "does not reach the tracking server"),
        ({"storage": "/tmp/finedefics-no-such-workspace"}, "sees another workspace"),
        ({"storage": "s3://away/home", "environment": AWAY}, "the cluster does not reach it"),
        ({"arguments": ["nothing", "--miner", "/no/such/file.py"]}, "not there on the cluster: /no/such"),
        ({"secrets": {"NOT_SET_THERE_TOKEN": "cluster"}}, "not set on the cluster: NOT_SET_THERE_TOKEN"),
        ({"secrets": {"NOT_SET_HERE_TOKEN": "submitter"}}, "not set here"),
    ],
)
def test_a_job_that_cannot_work_there_is_refused_and_leaves_nothing(
    let_in: "Head", workspace: Workspace, tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(FinedeficsError, match=said):
        sent(workspace, spec(tmp_path, **keys))
    assert [job for job in jobs_of(let_in) if "probe" in job or "tried" in job] == []
    assert not workspace.root.exists(), "the first thing that is asked of it is refused: nothing is begun"
    assert not Path("/tmp/finedefics-no-such-workspace").exists()


def test_submitted_followed_stopped_and_gone_on_with_as_one_run(
    let_in: "Head", drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, tmp_path: Path
) -> None:
    stage = {"name": "name", "steps": STEPS, "feeds": {"labelled": 32}, "terms": {"answer": 1, "caption": 1}}
    experiment = {
        "name": "as-a-job",
        "data": {"dataset": drawn_dataset.name, "negatives": 2},
        "model": {"path": str(tiny_model)},
        "stages": [stage],
        "tracking": {"checkpoint_every": 2},
        "resources": {"workers": 1},
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    file = spec(
        tmp_path, name="trained", job="train", document="experiment.yaml", arguments=[], stop_grace=60
    )
    first = sent(drawn_workspace, file)
    record = first.record
    deadline = time.monotonic() + 900  # a busy machine takes minutes to import
    while record.status().get("run", {}).get("step", 0) < 6:
        assert time.monotonic() < deadline, (record.status(), LogReader(record.log).take())
        time.sleep(0.2)
    again = sent(drawn_workspace, file)
    assert (again.fresh, again.state, again.record) == (False, "running", record)
    assert stop(drawn_workspace, record).state == "stopped"
    key = record.status()["run"]["run"]
    assert any("--resume" in line for line in LogReader(record.log).take())  # the training's own last word
    with pytest.raises(FinedeficsError, match="--resume"):
        sent(drawn_workspace, file)

    resumed = sent(drawn_workspace, file, resume=True)
    assert (resumed.record, resumed.attempt) == (record, 2)
    lines: list[str] = []
    seen = follow(drawn_workspace, record, lines.append, attempt=2)
    assert seen.state == "succeeded", lines
    assert lines[-1] == "[job] succeeded"
    assert seen.status["run"]["run"] == key
    assert sent(drawn_workspace, file).state == "succeeded"
    parents = [run for run in list_runs(drawn_workspace) if run.key == key and run.parent is None]
    assert len(parents) == 1
    (stage_run,) = children(drawn_workspace, parents[0].run_id)
    curve = open_client(drawn_workspace).get_metric_history(stage_run.run_id, "loss")
    assert sorted(metric.step for metric in curve) == list(range(1, STEPS + 1))


def test_secrets_reach_the_job_and_nothing_that_is_written(
    let_in: "Head", workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_TOKEN", PLANTED)
    # the file is run by the command, and by a task on the cluster
    (tmp_path / "asks.py").write_text(
        "import os, ray\n"
        "print('here', len(os.environ['PLANTED_TOKEN']), os.environ['PLANTED_TOKEN'])\n"
        "ray.init(log_to_driver=False)\n"
        "told = ray.remote(num_cpus=0)(lambda: len(os.environ['PLANTED_TOKEN'])).remote()\n"
        "print('there', ray.get(told))\n"
    )
    arguments = [str(tmp_path), "--name", "x", "--reader", str(tmp_path / "asks.py")]
    keys = {"job": "ingest", "arguments": arguments, "secrets": {"PLANTED_TOKEN": "submitter"}}
    made = sent(workspace, spec(tmp_path, name="asks", **keys))
    lines: list[str] = []
    follow(workspace, made.record, lines.append)
    assert f"here {len(PLANTED)} [hidden]" in lines
    assert f"there {len(PLANTED)}" in lines
    told = json.dumps(let_in.cluster.ask("/api/jobs/"))
    assert PLANTED not in told
    assert workspace.root.local is not None
    for folder in (let_in.folder, workspace.root.local):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert PLANTED.encode() not in path.read_bytes(), path


def test_a_job_that_waits_says_for_what_and_can_be_stopped_before_it_begins(
    let_in: "Head", workspace: Workspace, tmp_path: Path
) -> None:
    running = sent(workspace, talking(tmp_path)).record
    until(running, "line 1")
    waiting = sent(workspace, spec(tmp_path, name="waits", entrypoint={"cpus": 8})).record
    deadline = time.monotonic() + 60
    while "waits for 1 × 8 CPU; the cluster has 1 node" not in views.view(workspace, waiting).message:
        assert time.monotonic() < deadline, views.view(workspace, waiting)
        time.sleep(1)
    assert views.view(workspace, waiting).state == "waiting"
    assert stop(workspace, waiting).state == "stopped"
    assert waiting.status()["state"] == "stopped"  # kept, though its process never began
    assert stop(workspace, running).state == "stopped"
    deadline = time.monotonic() + 60  # ours is written first: Ray follows
    while (told := let_in.cluster.ask(f"/api/jobs/{running.id}")["status"]) == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert told == "STOPPED"


def test_a_job_outlives_its_killed_head(
    let_in: "Head", workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    made = sent(workspace, talking(tmp_path))
    until(made.record, "line 200")
    killed = time.time()
    let_in.kill()
    monkeypatch.setattr(views, "LOST_AFTER_SECONDS", 5.0)
    lines: list[str] = []
    seen = follow(workspace, made.record, lines.append)
    assert seen.state == "lost"
    assert "last heard of" in seen.message
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line")]
    assert numbers == list(range(len(numbers)))
    assert float(lines[-1].split()[2]) > killed - 1
    # the commands say the same, without a cluster, and when nothing of it is left on the machine
    let_in.end()
    assert not let_in.folder.exists()
    monkeypatch.setenv("FINEDEFICS_HOME", workspace.root.uri)
    assert main(["jobs", "status", made.record.id]) == 0
    assert "lost" in capsys.readouterr().out
    assert main(["jobs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["state"] == "lost"
    assert main(["jobs", "logs", made.record.id]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert main(["jobs", "logs", made.record.id, "--follow"]) == 1
    with pytest.raises(FinedeficsError, match="nothing to stop"):
        stop(workspace, find_job(workspace, "talks"))
