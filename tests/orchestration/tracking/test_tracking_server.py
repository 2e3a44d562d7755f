"""A real tracking server, killed while a run is recorded and started again."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from registered import answers, evaluation_of, registered, trained_run

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.evaluation.recording import record_evaluation
from finedefics_platform.models.decisions import Entry, write
from finedefics_platform.models.promotion import history, promote
from finedefics_platform.models.references import open_model
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.notes import NOTE
from finedefics_platform.tracking.runs import get_run
from finedefics_platform.tracking.tracker import Tracker, server_run_id, sync

STEPS = 400


class Server:
    """``mlflow server`` with a database, artefacts and a port that survive its death."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + 180
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.2)

    def kill(self) -> None:
        """End the server and its worker the hard way."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_killed_in_the_middle_costs_nothing(
    server: Server, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    tracker = Tracker(workspace, "killed")
    parent = tracker.parent("birds", key="killed-1", params={"a": 1})
    stage1 = tracker.child(parent, "stage1")
    slowest = 0.0
    killer = threading.Timer(0.7, server.kill)
    killer.start()
    for step in range(STEPS):
        began = time.monotonic()
        tracker.metrics(stage1, step, {"loss": float(step)})
        if step % 20 == 0:
            tracker.flush()  # so that the kill falls between and into requests
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.005)
    killer.join()
    tracker.finish(stage1)
    stage2 = tracker.child(parent, "stage2")  # opened while nobody is there
    tracker.metrics(stage2, 0, {"loss": 0.5})
    assert slowest < 20
    assert tracker.waiting() > 0
    assert sync(workspace).sent == 0

    server.start()
    tracker.finish(stage2)
    tracker.finish(parent)
    assert tracker.waiting() == 0
    client = open_client(workspace)
    history = client.get_metric_history(stage1, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(s, float(s)) for s in range(STEPS)]
    second = get_run(workspace, stage2)
    assert (second.parent, second.metrics, second.status) == (parent, {"loss": 0.5}, "finished")
    assert server_run_id(workspace, stage2) == second.run_id
    assert tracker.find_run("killed-1") == parent


@pytest.mark.slow
def test_a_log_told_again_and_an_equal_workspace_add_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    runs = []
    for name in ("ours", "theirs"):
        workspace = open_workspace(tmp_path / name)
        for end in (30, 40):  # the second driver is told the first one's log, and goes on
            tracker = Tracker(workspace, "shared")
            parent = tracker.parent("birds", key="shared-1", time=1.7e9)
            stage = tracker.child(parent, "stage1", time=1.7e9)
            for step in range(end):
                tracker.metrics(stage, step, {"loss": 1 / (step + 1)}, time=1.7e9 + step + end * (step >= 25))
            tracker.finish(stage, time=1.7e9 + 100)
            tracker.finish(parent, time=1.7e9 + 100)
            runs.append((parent, stage))
    assert runs[0] == runs[1] != runs[2] == runs[3]
    for _, stage in (runs[0], runs[2]):
        history = open_client(workspace).get_metric_history(stage, "loss")
        assert sorted(metric.step for metric in history) == list(range(40))
        assert get_run(workspace, stage).seconds == 100
    assert get_run(workspace, "shared-1").run_id == runs[2][0]


@pytest.mark.slow
def test_a_registry_on_a_server_serves_models_to_other_machines(
    server: Server, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    registered(workspace, "birds", 300)
    assert promote(workspace, "birds", 1, reason="the first").changed
    registered(workspace, "birds", 320)
    second = trained_run(workspace, "birds-1")
    evaluated = evaluation_of(workspace, second, answers(320))
    child = open_client(workspace).get_run(
        record_evaluation(workspace, evaluated, second.key, run=second).run_id
    )
    assert child.data.metrics["accuracy.alignment.new"] == 0.8
    assert child.inputs.dataset_inputs[0].dataset.digest == "d1"
    assert "80.0 %" in child.data.tags[NOTE]

    elsewhere = open_workspace(tmp_path / "elsewhere")
    # the other machine gets the answers of both from the server, to compare them picture by picture
    why = "better on every slice; " * 1000  # longer than any tag
    told = promote(elsewhere, "birds", 2, reason=why).decision.reasons
    assert any("over 400 pictures" in reason for reason in told)
    entries = history(workspace, "birds")
    assert [(entry["version"], entry["reason"]) for entry in entries] == [(1, "the first"), (2, why)]
    assert "80.0 %" in open_client(elsewhere).get_model_version("birds", "2").description
    assert "Champion: **birds/2**" in open_client(elsewhere).get_registered_model("birds").description
    late = Entry("promote", 1, None, "bob", "2026-01-01T00:00:00+00:00", "me too", based_on=1)
    with pytest.raises(FinedeficsError, match="made birds/2 champion while this was decided"):
        write(workspace, "birds", late)
    opened = open_model(elsewhere, "birds@champion")
    assert opened.model.is_relative_to(elsewhere.models.uri)
    assert (opened.model / "w.safetensors").read_text() == "birds-1"
    assert opened.index is not None
    assert open_model(elsewhere, "birds/2").model == opened.model
    open_client(workspace).set_registered_model_alias("birds", "champion", "1")
    with pytest.raises(FinedeficsError, match="moved by hand to birds/1"):
        open_model(elsewhere, "birds")
