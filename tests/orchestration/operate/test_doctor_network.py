"""What the doctor says of servers, ports and clocks: who answers, whom it lets in, and what time it has."""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.operate.checks import finding, machine, network, storage
from finedefics_platform.operate.clusters.record import ClusterRecord, folder_of, write

PASSWORD = "correct-horse-9"
NODES = {"data": {"result": {"result": [{"state": "ALIVE", "resources_total": {"CPU": 8.0, "GPU": 1.0}}]}}}
ANSWERS: dict[str, Any] = {
    "/health": {},
    "/api/2.0/mlflow/experiments/search": {"experiments": []},
    "/api/version": {"ray_version": ray.__version__},
    "/api/v0/cluster_metadata": {"data": {}},
    "/api/v0/nodes": NODES,
    "/api/whoami-v2": {"name": "ann"},
}


class _Service(ThreadingHTTPServer):
    """Answers as a tracking server, a job API and a hub do; ``needs`` is the header that it lets in."""

    needs: str | None = None
    ahead: float = 0.0


class _Handler(BaseHTTPRequestHandler):
    server: _Service

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        may = self.server.needs in (None, self.headers.get("Authorization")) or path == "/health"
        content = json.dumps(ANSWERS.get(path, {})).encode()
        self.send_response_only(401 if not may else 200 if path in ANSWERS else 404)
        self.send_header("Date", formatdate(time.time() + self.server.ahead, usegmt=True))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[_Service]:
    server = _Service(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def nobody_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials or clusters of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def address(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_a_tracking_server_that_asks_for_a_password(
    service: _Service, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(service))
    assert storage.check_tracking(workspace).found.endswith("answers and asks for no password")
    service.needs = "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
    with pytest.raises(FinedeficsError, match="asks for a user; set MLFLOW_TRACKING_USERNAME"):
        storage.check_tracking(workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-horse-9")
    with pytest.raises(FinedeficsError, match="does not take this user") as caught:
        storage.check_tracking(workspace)
    assert "wrong-horse" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert storage.check_tracking(workspace).found.endswith("lets this user in")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    kept = tmp_path / ".mlflow" / "credentials"  # as MLflow keeps them
    kept.parent.mkdir()
    kept.write_text(f"[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = {PASSWORD}\n")
    assert storage.check_tracking(workspace).found.endswith("lets this user in")


def test_an_open_tracking_server_is_a_warning_where_others_reach_it(
    service: _Service, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "is_alone", lambda uri: False)  # here there is loopback only
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(service))
    found = storage.check_tracking(workspace)
    assert found.status == "warn"
    assert "basic-auth" in found.cure


def test_a_postgresql_without_a_driver_or_without_a_login_is_named(
    service: _Service, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"ann:{PASSWORD}@127.0.0.1:{service.server_port}/runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+pg8000://{place}")
    with pytest.raises(FinedeficsError, match=r"pg8000 is missing.*finedefics\[postgres\]") as caught:
        storage.check_tracking(workspace)
    assert PASSWORD not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+psycopg://{place}")
    with pytest.raises(FinedeficsError, match="the database lets nobody in so") as caught:
        storage.check_tracking(workspace)
    assert PASSWORD not in str(caught.value)


def test_a_cluster_says_what_it_has_and_whom_it_lets_in(
    service: _Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "none is named" in network.check_cluster().found
    monkeypatch.setenv("RAY_ADDRESS", address(service))
    open_one = network.check_cluster()
    assert open_one.status == "warn"
    assert "1 node: 1 × (8 CPU, 1 GPU); whoever reaches it can run programs" in open_one.found
    service.needs = f"Bearer {PASSWORD}"
    with pytest.raises(FinedeficsError, match="asks for a token, and there is none; set RAY_AUTH_MODE=token"):
        network.check_cluster()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong-horse-9")
    with pytest.raises(FinedeficsError, match="does not take this token"):
        network.check_cluster()
    monkeypatch.setenv("RAY_AUTH_TOKEN", PASSWORD)
    found = network.check_cluster()
    assert (found.status, "asks for a token and takes this one" in found.found) == ("ok", True)
    assert PASSWORD not in found.found


def test_a_cluster_of_this_machine_that_died_is_a_warning_with_its_cure() -> None:
    folder_of("mine").mkdir(parents=True)
    pids = dict.fromkeys(("gcs", "dashboard", "head"), 2**22 + 1)  # above the largest that Linux gives
    here = "127.0.0.1:6379"
    write(ClusterRecord("mine", here, f"http://{here}", "t", "3.11.9", "2.60.0", pids, 1.0, "/x", "m"))
    found = network.check_cluster()
    assert found.status == "warn"
    assert "finedefics cluster down --name mine" in found.cure


def test_the_hub_is_offline_or_knows_the_token(service: _Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert network.check_hub().found.startswith("offline")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "ENDPOINT", address(service))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    service.needs = f"Bearer {PASSWORD}"
    without = network.check_hub()
    assert (without.status, "no token, so public models only" in without.found) == ("ok", True)
    monkeypatch.setenv("HF_TOKEN", "wrong-horse-9")
    assert network.check_hub().status == "fail"
    monkeypatch.setenv("HF_TOKEN", PASSWORD)
    assert network.check_hub().found.endswith("answers and knows the token")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{reserved.getsockname()[1]}")
        gone = network.check_hub()
    assert gone.status == "warn"
    assert "HF_HUB_OFFLINE=1" in gone.cure


@pytest.mark.parametrize(("ahead", "status"), [(0, "ok"), (60, "warn"), (-60, "warn"), (3600, "fail")])
def test_a_clock_that_is_off(
    ahead: float, status: str, service: _Service, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no other machine" in network.check_clock(workspace).found
    service.ahead = ahead
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{PASSWORD}@127.0.0.1:{service.server_port}")
    found = network.check_clock(workspace)
    assert found.status == status
    assert "tracking server" in found.found
    assert ("behind" in found.found) == (ahead > 0)


def test_a_port_that_is_taken_is_named_with_who_wants_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = machine.check_ports({port: "finedefics ui"})
        assert (found.status, found.found) == ("warn", f"{port} (finedefics ui) is taken")
        assert "--port" in found.cure
    assert machine.check_ports({port: "finedefics ui"}).status == "ok"


def test_who_never_answers_is_waited_for_so_long_and_no_longer() -> None:
    never = threading.Event()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within 0 s"):
        finding.within(0.2, never.wait)
    assert time.monotonic() - began < 5
    never.set()
