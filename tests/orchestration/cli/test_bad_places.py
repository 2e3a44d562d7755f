"""Places that are wrong: nothing there, nobody answers, no right to write: a line each, and nothing made."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registered import answers, evaluation_of, trained_run

from finedefics.errors import FinedeficsError
from finedefics_platform.base import cluster_session, control_store
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.models.registration import register_run
from finedefics_platform.tracking import mlflow_client, reachability
from finedefics_platform.tracking.tracker import Tracker

Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Exit code, stdout and stderr of a command."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a workspace, and the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["data list", "runs list", "models list", "jobs list", "gc"])
def test_a_list_where_no_workspace_is_says_where_it_looked(command: str, nowhere: Path, told: Told) -> None:
    code, out, err = told(*command.split())
    assert (code, err) == (0, "")
    assert str(nowhere / ".finedefics") in out.replace("\n", "")
    assert list(nowhere.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        "runs show nope",
        "runs delete nope",
        "data show nope",
        "data inspect nope",
        "data mine nope",
        "models show nope",
        "models rollback nope",
        "models promote nope 1 --reason x",
        "categories list nope",
        "study show nope",
        "jobs status nope",
        "train --resume nope",
        "evaluate nope --data nope",
    ],
)
def test_a_name_that_there_is_not_is_wrong_use_everywhere(command: str, nowhere: Path, told: Told) -> None:
    code, out, err = told(*command.split())
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert list(nowhere.iterdir()) == []


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of somebody who takes a connection and says nothing, and MLFLOW_TRACKING_URI."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setattr(reachability, "SECONDS", 1.0)
        yield address


@pytest.mark.parametrize("command", ["runs list", "models list", "models promote x 1 --reason x"])
def test_an_address_that_does_not_answer_is_told_quietly_and_soon(
    command: str, silent: str, nowhere: Path, told: Told
) -> None:
    began = time.monotonic()
    code, out, err = told(*command.split())
    assert time.monotonic() - began < 10
    assert (code, out) == (1, "")
    assert err == (
        f"error: {silent}: the tracking server does not answer (timed out); start it, or correct or unset "
        "MLFLOW_TRACKING_URI\n"
    )


def test_a_name_that_nobody_finds_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up a name has no timeout of its own."""
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(60))
    monkeypatch.setattr(reachability, "PATIENCE", 0.3)
    began = time.monotonic()
    assert reachability.unanswered("http://mlflow.invalid") == "no answer within 0 s"
    assert time.monotonic() - began < 5
    ended.set()


def test_training_records_beside_an_address_that_does_not_answer(silent: str, workspace: Workspace) -> None:
    began = time.monotonic()
    tracker = Tracker(workspace, "away")
    run = tracker.parent("train", key="away-1")
    for step in range(500):
        tracker.metrics(run, step, {"loss": 1.0})
    tracker.finish(run)
    assert time.monotonic() - began < 10
    assert tracker.waiting() == 502


@pytest.mark.parametrize("command", ["runs list", "models list", "runs show x", "train experiment.yaml"])
def test_a_database_in_a_folder_that_does_not_exist(
    command: str, nowhere: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = {
        "name": "one",
        "data": {"dataset": "birds"},
        "model": {"path": "base"},
        "stages": [{"name": "a", "steps": 4, "feeds": {"labelled": 8}, "terms": {"answer": 1}}],
    }
    (nowhere / "experiment.yaml").write_text(json.dumps(experiment))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{nowhere}/not/there/mlflow.db")
    began = time.monotonic()
    code, out, err = told(*command.split())
    assert time.monotonic() - began < 10
    assert (code, out) == (2, "")
    assert err == (
        f"error: {nowhere}/not/there: the database's folder does not exist; make the folder or correct "
        "MLFLOW_TRACKING_URI\n"
    )
    assert [path.name for path in nowhere.iterdir()] == ["experiment.yaml"]


def test_a_database_that_is_not_there_is_not_made_by_asking(
    nowhere: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{nowhere}/mlflow.db")
    code, out, _ = told("runs", "list")
    assert code == 0
    assert f"No runs in sqlite:///{nowhere}/mlflow.db" in out.replace("\n", "")
    assert list(nowhere.iterdir()) == []


# Root is bound by no rights, unless it is without the capabilities that let it pass them.
BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
needs_rights = pytest.mark.skipif(
    bool(BOUND) and shutil.which("setpriv") is None, reason="root is not bound by rights without setpriv"
)

READ_ONLY = """
import json, sys
from finedefics_platform.cli.main import main

for command in json.loads(sys.argv[1]):
    print("exit", main(command), flush=True)
"""


def bound(program: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A program run by somebody who is bound by rights."""
    return subprocess.run(
        [*BOUND, sys.executable, "-c", program, *arguments],
        env={**os.environ, "FINEDEFICS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@needs_rights
def test_in_a_read_only_workspace_reading_works_and_writing_is_one_line_each(
    tmp_path: Path, nowhere: Path
) -> None:
    home = tmp_path / "home"
    workspace = open_workspace(home)
    for number, right in enumerate((300, 310)):
        run = trained_run(workspace, f"birds-{number}")
        register_run(workspace, "birds", run, evaluation_of(workspace, run, answers(right)))
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text((workspace.runs / "birds-0" / "experiment.json").read_text())
    folders = [home, *(path for path in home.rglob("*") if path.is_dir())]
    for path in (*folders, home / "mlflow" / "mlflow.db"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    reading = [command.split() for command in ("runs list", "runs show birds-0", "models list", "gc")]
    writing = [
        ["models", "promote", "birds", "1", "--reason", "x"],
        ["train", str(experiment)],
        ["ui", "--port", "0"],
        ["categories", "add", "birds/1", "--name", "auk"],
    ]
    try:
        done = bound(READ_ONLY, json.dumps([*reading, *writing]), home=home)
    finally:
        for path in folders:
            path.chmod(0o755)
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit ")]
    assert codes == ["exit 0"] * len(reading) + ["exit 1"] * len(writing), done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == len(writing), done.stderr
    for error in errors:
        assert error.startswith(f"error: {home}") or "sqlite:///" in error
        assert "run again with --debug" not in error


@needs_rights
def test_an_unreadable_folder_is_not_an_empty_one(tmp_path: Path, nowhere: Path) -> None:
    pictures = tmp_path / "pictures" / "auk"
    pictures.mkdir(parents=True)
    (pictures / "a.jpg").write_bytes(b"x")
    program = (
        "import sys; from finedefics_platform.cli.main import main\n"
        "for place in sys.argv[1:]: print(main(['data', 'ingest', place, '--name', 'x']))"
    )
    pictures.chmod(0)
    try:
        done = bound(program, str(pictures.parent), str(pictures), home=tmp_path / "home")
    finally:
        pictures.chmod(0o755)
    said = f"error: {pictures}: this folder cannot be listed (Permission denied); check its rights\n"
    assert (done.stdout, done.stderr) == ("1\n1\n", 2 * said), "inside of another, and by itself"


def test_an_address_is_asked_once_and_then_trusted(silent: str, workspace: Workspace) -> None:
    mlflow_client._answered.add(silent)
    try:
        with mlflow_client.answered(workspace):
            pass
    finally:
        mlflow_client._answered.discard(silent)
    with pytest.raises(FinedeficsError, match="does not answer"), mlflow_client.answered(workspace):
        pass


def test_a_cluster_that_does_not_answer_is_told_quietly_and_soon(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever listens there says nothing: Ray itself would write a line a second, for twenty."""
    monkeypatch.setattr(control_store, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(FinedeficsError, match=f"{address}: Ray is not available .* unset RAY_ADDRESS"):
            cluster_session._connect(address, None)
    assert time.monotonic() - began < 10
    assert capfd.readouterr() == ("", "")
