"""The checks of `finedefics doctor` tell a sound environment from one that is not, and how to mend it."""

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from object_store import object_store, variables

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.operate.checks import machine, packages, storage
from finedefics_platform.tracking.reachability import reach_tracking, without_password


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    httpd = HTTPServer(("127.0.0.1", 0), _Healthy)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as reserved:  # bound and not listening: a connection is refused
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


def test_this_environment_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(tmp_path / "home"))
    code = main(["doctor", "--json"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    checks = {event["name"]: event for event in events if event["event"] == "check"}
    assert set(checks) == {
        *("python", "standard library", "packages", "disk", "memory", "devices"),
        *("ports", "workspace", "tracking", "cluster", "hub", "clock", "movable", "deepspeed"),
    }
    its_own = {
        "disk",
        "memory",
        "devices",
        "ports",
        "cluster",
    }  # its business
    assert {
        name: check["found"] for name, check in checks.items() if check["status"] != "ok"
    }.keys() <= its_own
    assert (code == 0) == (events[-1]["event"] == "done")
    assert not (tmp_path / "home").exists()  # looking leaves nothing behind


def test_a_failed_check_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///somewhere")
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "fail tracking" in captured.out
    assert "set MLFLOW_TRACKING_URI to sqlite" in captured.out
    assert captured.err.splitlines()[-1].startswith("error: finedefics doctor: ")


def test_a_module_that_shadows_the_standard_library_is_found(tmp_path: Path) -> None:
    assert machine.check_standard_library(tmp_path).status == "ok"
    (tmp_path / "platform.py").touch()
    found = machine.check_standard_library(tmp_path)
    assert found.status == "fail"
    assert "remove platform.py" in found.cure


def test_a_package_outside_its_range_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["rich>=9999", "no-such-package-anywhere", 'other; extra == "dev"', "typer"]
    monkeypatch.setattr(packages.metadata, "requires", lambda name: needed)
    found = packages.check_packages()
    assert found.status == "fail"
    assert "(needed >=9999)" in found.found
    assert "no-such-package-anywhere is missing" in found.found
    assert "other" not in found.found


def test_a_workspace_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = storage.check_workspace(open_workspace(tmp_path / "file"))
    assert found.status == "fail"
    assert "FINEDEFICS_HOME" in found.cure
    assert not (tmp_path / "new").exists()
    assert storage.check_workspace(open_workspace(tmp_path / "new")).status == "ok"
    assert not (tmp_path / "new").exists()  # looking leaves nothing behind


def test_a_store_that_nobody_answers_for_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:  # takes connections, never answers
        for name, value in variables(silent.getsockname()[1]).items():
            monkeypatch.setenv(name, value)
        assert storage.STORE_SECONDS == 10
        monkeypatch.setattr(storage, "STORE_SECONDS", 2.0)
        began = time.monotonic()
        found = storage.check_workspace(open_workspace("s3://bucket/w"))
        assert time.monotonic() - began < 60, "two, and as long as Python takes to start on a busy machine"
    assert (found.status, found.found) == ("fail", "s3://bucket/w: no answer within 2 s")
    assert "AWS_ENDPOINT_URL" in found.cure


def test_a_store_that_refuses_is_told_apart_from_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path))
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "1")  # moto checks the keys after the bucket is made
    with object_store() as uri:
        refused = storage.check_workspace(open_workspace(f"{uri}/w"))
    assert refused.status == "fail"
    assert "ACCESS_DENIED" in refused.found
    assert "AWS_SECRET_ACCESS_KEY" in refused.cure
    assert "testing-" not in refused.found
    monkeypatch.delenv("INITIAL_NO_AUTH_ACTION_COUNT")
    with object_store() as uri:
        workspace = open_workspace(f"{uri}/w")
        assert storage.check_workspace(workspace).status == "ok"
        alone = storage.check_tracking(workspace)
        assert alone.status == "warn"
        assert "on this machine alone" in alone.found
        assert "set MLFLOW_TRACKING_URI" in alone.cure
        assert "the cache" in machine.check_disk(workspace).found
        assert workspace.root.files() == [], "looking leaves nothing behind"
        absent = storage.check_workspace(open_workspace("s3://no-such-bucket/w"))
    assert absent.status == "fail"
    assert absent.cure == "make the bucket, or correct FINEDEFICS_HOME"
    for name, value in variables(closed_port).items():
        monkeypatch.setenv(name, value)
    gone = storage.check_workspace(open_workspace("s3://bucket/w"))
    assert gone.status == "fail"
    assert "AWS_ENDPOINT_URL" in gone.cure


def test_a_database_that_opens_and_one_that_does_not(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    assert "will be made" in reach_tracking(f"sqlite:///{file}")
    with sqlite3.connect(file) as connection:
        connection.execute("create table runs (id)")
    connection.close()
    assert reach_tracking(f"sqlite:///{file}") == f"SQLite at {file}"
    file.write_bytes(b"not a database " * 100)
    with pytest.raises(FinedeficsError, match="not a database that opens"):
        reach_tracking(f"sqlite:///{file}")


def test_a_server_that_answers_and_one_that_does_not(server: str, closed_port: int) -> None:
    assert reach_tracking(f"http://ann:secret@{server}") == f"the server at http://{server} answers"
    with pytest.raises(FinedeficsError, match="does not answer") as caught:
        reach_tracking(f"http://ann:secret@127.0.0.1:{closed_port}")
    assert "secret" not in str(caught.value)
    with pytest.raises(FinedeficsError, match="answers 404"):
        reach_tracking(f"http://{server}/elsewhere")


def test_a_database_server_is_tried_at_its_port(server: str, closed_port: int) -> None:
    assert "accepts connections" in reach_tracking(f"postgresql+psycopg2://ann:secret@{server}/runs")
    with pytest.raises(FinedeficsError, match="no connection"):
        reach_tracking(f"mysql://127.0.0.1:{closed_port}/runs")


def test_passwords_are_not_shown() -> None:
    assert without_password("https://ann:secret@example.org/mlflow") == "https://example.org/mlflow"


@pytest.mark.slow
def test_ray_is_started_only_where_asked_for() -> None:
    assert packages.check_ray().status == "ok"
