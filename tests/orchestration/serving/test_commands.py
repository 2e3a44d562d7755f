"""Servers as a user starts them: `finedefics serve` from beginning to end, and MLflow's own."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from registered import answers, evaluation_of, trained_run

from finedefics.scoring import Recogniser
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.registration import register_run

pytestmark = pytest.mark.slow
SECONDS = 180  # for a server to be there: the machine may be busy


@contextmanager
def started(command: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a session of its own, ended with all that is in it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answered(url: str, process: subprocess.Popen[bytes], log: Path) -> Any:
    """What a server says at an address, once it is there."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post(url: str, body: bytes, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(url, body, named), timeout=60) as answer:
        return json.loads(answer.read())


def test_serve_answers_with_the_token_it_printed_and_leaves_no_process(
    model_folder: Path, pictures: Sequence[bytes], recogniser: Recogniser, tmp_path: Path
) -> None:
    command = ("finedefics_platform.cli.main", "serve", str(model_folder), "--port", "0", "--json")
    log, mark = tmp_path / "log", f"serving-test-{os.getpid()}"
    home = str(tmp_path / "home")
    with started(command, log, FINEDEFICS_HOME=home, FINEDEFICS_TEST_MARK=mark) as process:
        deadline, ready = time.monotonic() + SECONDS, None
        while ready is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            lines = [line for line in log.read_text().splitlines() if line.startswith('{"event": "ready"')]
            ready = json.loads(lines[0]) if lines else time.sleep(0.2)
        answered(f"{ready['url']}health", process, log)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            post(f"{ready['url']}predict", pictures[0])
        told = post(f"{ready['url']}predict", pictures[0], Authorization=f"Bearer {ready['token']}")
        assert told["candidates"][0]["name"] == recogniser.recognise([pictures[0]])[0][0][1]
        assert any(_has(one, mark) for one in psutil.process_iter() if one.pid != process.pid), "replicas"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    assert json.loads(log.read_text().splitlines()[-1]) == {"event": "done", "model": str(model_folder)}
    deadline = time.monotonic() + 20
    while left := [one for one in psutil.process_iter() if _has(one, mark)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and (
            process.environ().get("FINEDEFICS_TEST_MARK") == mark
        )
    except psutil.Error:
        return False


def test_mlflows_own_server_answers_with_a_registered_version(
    workspace: Workspace,
    model_folder: Path,
    pictures: Sequence[bytes],
    recogniser: Recogniser,
    tmp_path: Path,
) -> None:
    run = trained_run(workspace, "one", model=model_folder / "model")
    evaluated = evaluation_of(workspace, run, answers(3, 12), index=model_folder / "index")
    register_run(workspace, "birds", run, evaluated)
    port, log = free_port(), tmp_path / "log"
    command = ("mlflow", "models", "serve", "-m", "models:/birds/1", "--env-manager", "local")
    where = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    asked = {
        "dataframe_split": {
            "columns": ["image"],
            "data": [[base64.b64encode(picture).decode()] for picture in pictures[:2]],
        },
        "params": {"top": 2},
    }
    with started((*command, *where), log, MLFLOW_TRACKING_URI=workspace.tracking_uri) as process:
        answered(f"http://127.0.0.1:{port}/health", process, log)
        told = post(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps(asked).encode(),
            Content_Type="application/json",
        )
    rows = told["predictions"]
    expected = recogniser.recognise(pictures[:2], top=2)
    assert [[a["name"] for a in row["answers"]] for row in rows] == [[n for _, n, _ in r] for r in expected]
    assert [row["score"] for row in rows] == pytest.approx([ranking[0][2] for ranking in expected], abs=1e-4)
