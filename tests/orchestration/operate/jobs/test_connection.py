"""Which cluster is spoken to, and what is said where it is not there, not open to us, or not like us."""

import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.operate.connection import Cluster, clock_difference, find_cluster
from finedefics_platform.operate.jobs.sealing import SEALED, open_sealed, seal, unseal


class Api(BaseHTTPRequestHandler):
    """Answers as a job API does, by what the server was told."""

    def do_GET(self) -> None:
        told: dict[str, Any] = self.server.told  # type: ignore[attr-defined]
        sent = self.headers.get("Authorization")
        code = 200
        if told.get("token") is not None and sent != f"Bearer {told['token']}":
            code = 403 if sent else 401
        body = {"ray_version": told["ray"]} if self.path == "/api/version" else {"data": told["about"]}
        self.send_response_only(code)
        self.send_header("Date", formatdate(time.time() + told.get("ahead", 0), usegmt=True))
        self.end_headers()
        self.wfile.write(json.dumps(body).encode() if told.get("json", True) else b"<html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[tuple[str, dict[str, Any]]]:
    import platform

    import ray

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    told = {"ray": ray.__version__, "about": {"pythonVersion": platform.python_version()}}
    server.told = told  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", told
    server.shutdown()
    server.server_close()


def refusal(address: str, token: str | None = None) -> str:
    started = time.monotonic()
    with pytest.raises(FinedeficsError) as caught:
        Cluster(address, address, token).check()
    assert time.monotonic() - started < 10
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_token_that_is_missing_or_wrong_is_said_with_the_cure(api: tuple[str, dict]) -> None:
    address, told = api
    told["token"] = "the-right-one"
    assert "asks for a token" in refusal(address)
    said = refusal(address, "planted-wrong-one")
    assert "does not take this token" in said
    assert "RAY_AUTH_MODE=token" in said
    assert "planted" not in said
    assert Cluster(address, address, "the-right-one").check() == 0
    assert "right" not in repr(Cluster(address, address, "the-right-one"))


def test_other_versions_are_refused(api: tuple[str, dict]) -> None:
    address, told = api
    told["about"] = {"pythonVersion": "3.9.1"}
    assert "runs Python 3.9.1" in refusal(address)
    told["ray"] = "2.9.0"
    assert "runs Ray 2.9.0" in refusal(address)


def test_what_is_no_job_api_is_said(api: tuple[str, dict]) -> None:
    address, told = api
    told["json"] = False
    assert "something else" in refusal(address)
    assert "no answer" in refusal("http://127.0.0.1:1")
    assert "no answer" in refusal("http://nowhere.invalid:8265")


def test_a_clock_that_is_off_is_told_and_a_second_is_not(api: tuple[str, dict]) -> None:
    address, told = api
    told["ahead"] = -90
    assert Cluster(address, address).check() == pytest.approx(-90, abs=5)
    assert clock_difference(formatdate(1000, usegmt=True), 1002.0) == 0
    assert clock_difference("no date", 1000.0) == 0


def test_submitting_to_a_cluster_whose_clock_is_off_says_so(
    api: tuple[str, dict], workspace: Workspace, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, told = api
    told["ahead"] = 300
    monkeypatch.setenv("FINEDEFICS_HOME", workspace.root.uri)
    spec = tmp_path / "job.yaml"
    spec.write_text("{name: tried, job: mine, arguments: [nothing]}")
    assert main(["jobs", "submit", str(spec), "--cluster", address]) == 1  # this API takes no job
    printed = capsys.readouterr()
    said = " ".join((printed.out + printed.err).split())
    assert "the cluster's clock is 300 s ahead of this machine's: times in logs are the cluster's" in said
    assert not workspace.root.exists()


def test_no_cluster_named_and_none_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path))
    with pytest.raises(FinedeficsError, match="finedefics cluster up --local") as caught:
        find_cluster()
    assert caught.value.exit_code == 2
    with pytest.raises(FinedeficsError, match="no such cluster"):
        find_cluster("unknown")
    with pytest.raises(FinedeficsError, match="no answer"):
        find_cluster("127.0.0.1:1")
    with pytest.raises(FinedeficsError, match="no address"):
        find_cluster("http://me:pw@host:8265")


def test_sealed_secrets_open_with_the_clusters_token_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = seal({"HF_TOKEN": "planted-value"}, "token-a")
    assert b"planted" not in sealed
    assert unseal(sealed, "token-a") == {"HF_TOKEN": "planted-value"}
    with pytest.raises(FinedeficsError, match="another token"):
        unseal(sealed, "token-b")
    (tmp_path / SEALED).write_bytes(sealed)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(FinedeficsError, match="no token to open"):
        open_sealed(tmp_path)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token-a")
    assert open_sealed(tmp_path) == {"HF_TOKEN": "planted-value"}
