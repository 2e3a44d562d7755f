"""`finedefics ui` answers on loopback, ends with its process, and tells in one line why it cannot start."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from finedefics_platform.cli.main import main

COMMAND = [sys.executable, "-m", "finedefics_platform.cli.main", "ui", "--json"]


def test_it_answers_on_loopback_and_leaves_nothing_running(tmp_path: Path) -> None:
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
