"""`finedefics ui` answers on loopback, ends with its process, and tells in one line why it cannot start."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.tracker import Tracker

COMMAND = [sys.executable, "-m", "finedefics_platform.cli.main", "ui", "--json"]


def record(workspace: Workspace) -> None:
    """Two experiments with a run each, one without, and a model with a champion."""
    for name in ("older", "newest", "empty"):
        tracker = Tracker(workspace, name)
        if name != "empty":
            tracker.finish(tracker.parent("run", key=name))
    client = open_client(workspace)
    for name in ("birds", "parts"):
        client.create_registered_model(name)
    for _ in range(2):
        client.create_model_version("birds", str(workspace.root), run_id=None)
    client.set_registered_model_alias("birds", "champion", "2")


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host", "300.1.1.1", "nobody.invalid"])
def test_a_wrong_host_is_one_line(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(tmp_path / "home"))
    began = time.monotonic()
    assert main(["ui", "--host", host]) == 2
    assert time.monotonic() - began < 10
    told = capsys.readouterr()
    assert told.err.startswith(f"error: --host {host}: this machine has no such address (")
    assert told.err.count("\n") == 1
    assert not (tmp_path / "home" / "mlflow").exists()


def test_it_answers_on_loopback_and_leaves_nothing_running(tmp_path: Path) -> None:
    record(open_workspace(tmp_path))
    process = subprocess.Popen(
        [*COMMAND, "--port", "0"],
        env={**os.environ, "FINEDEFICS_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = next(event for event in map(json.loads, process.stdout) if event["event"] == "ready")
        assert ready["url"].startswith("http://127.0.0.1:")
        with urllib.request.urlopen(ready["url"], timeout=120) as answer:
            assert b"MLflow" in answer.read()
        experiment = open_client(open_workspace(tmp_path)).get_experiment_by_name("newest").experiment_id
        assert ready["start"] == f"{ready['url']}/#/experiments/{experiment}/runs"
        assert list(ready["runs"]) == ["newest", "older"], "an experiment without runs has no page of them"
        assert ready["champions"] == {"birds": f"{ready['url']}/#/models/birds/versions/2"}
        assert (tmp_path / "mlflow" / "mlflow.db").is_file()
        process.send_signal(signal.SIGTERM)
        remaining = [json.loads(line) for line in process.stdout]
        assert process.wait(timeout=60) == 0
        assert remaining[-1] == {"event": "done"}
    finally:
        process.kill()
        process.wait()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(ready["url"], timeout=5)


def test_a_port_in_use_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["ui", "--port", str(port)]) == 1
    line = (
        f"error: 127.0.0.1:{port}: port {port} cannot be taken (address already in use); "
        "choose another with --port, or --port 0 for a free one\n"
    )
    assert capsys.readouterr().err == line


def test_a_tracking_server_has_its_own_interface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@mlflow.example.org")
    assert main(["ui"]) == 2
    told = capsys.readouterr().err
    assert "open that server in a browser" in told
    assert "secret" not in told
