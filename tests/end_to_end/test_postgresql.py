"""The whole journey with nothing kept on the machine: runs in PostgreSQL behind a password, files in S3."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from object_store import object_store
from postgresql import postgresql

from finedefics_platform.base.workspace import open_workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Service:
    """Where everything lies, and what the user's environment says about it."""

    bucket: str
    runs: str
    environment: Mapping[str, str]
    secrets: tuple[str, ...]
    folder: Path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("node")
    admin = secrets.token_urlsafe(12)
    with (
        object_store() as bucket,
        postgresql("runs", "auth") as (database, password),
        tracking_server(folder, database, f"{bucket}/artifacts", admin) as address,
    ):
        environment = {
            "FINEDEFICS_HOME": f"{bucket}/home",
            "FINEDEFICS_CACHE": str(folder / "cache"),
            "MLFLOW_TRACKING_URI": address,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": admin,
        }
        planted = (admin, password, os.environ["AWS_SECRET_ACCESS_KEY"])
        yield Service(bucket, f"{database}/runs", environment, planted, folder)


@contextmanager
def tracking_server(folder: Path, database: str, artifacts: str, password: str) -> Iterator[str]:
    """MLflow's server as a team runs it: runs and users in PostgreSQL, artefacts in the object store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = {database}/auth\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", f"{database}/runs"]
    command += ["--artifacts-destination", artifacts]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the session that it leads: its worker as well
        server.wait(60)


def _wait(server: "subprocess.Popen[bytes]", health: str, log: Path) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(health, timeout=2).close()
            return
        except OSError:
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, "the tracking server did not come up"
            time.sleep(0.3)


def finedefics(
    service: Service, *arguments: str, code: int = 0, **changes: str
) -> tuple[list[dict[str, Any]], str]:
    """Run a command in a process of its own; its JSON lines and what it said on stderr."""
    (service.folder / "work").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "finedefics_platform.cli.main", *arguments, "--json"],
        env={**os.environ, **service.environment, **changes},
        cwd=service.folder / "work",
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert not [secret for secret in service.secrets if secret in done.stdout + done.stderr]
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def rows(service: Service, question: str) -> list[tuple[Any, ...]]:
    """What the database itself says."""
    import psycopg

    with psycopg.connect(service.runs.replace("+psycopg", "")) as connection:
        return connection.execute(question.encode()).fetchall()


def test_without_the_password_nobody_is_let_in(service: Service) -> None:
    lines, _ = finedefics(service, "doctor", code=1, MLFLOW_TRACKING_PASSWORD="another-one-9")
    (tracking,) = [line for line in lines if line.get("name") == "tracking"]
    assert tracking["status"] == "fail"
    assert "does not take this user" in tracking["found"]
    _, said = finedefics(service, "models", "list", code=1, MLFLOW_TRACKING_PASSWORD="another-one-9")
    assert said.splitlines()[-1].startswith("error: ")


def test_the_journey_is_recorded_in_the_database_and_kept_in_the_bucket(service: Service) -> None:
    lines, _ = finedefics(service, "demo", "--small")
    assert lines[-1]["event"] == "done"
    models = [line for line in finedefics(service, "models", "list")[0] if line["event"] == "model"]
    assert any("champion" in line["aliases"] for line in models)

    ((metrics,),) = rows(service, "SELECT count(*) FROM metrics WHERE key LIKE '%loss%'")
    assert metrics > 100
    ((unfinished,),) = rows(service, "SELECT count(*) FROM runs WHERE status <> 'FINISHED'")
    assert unfinished == 0
    ((aliases,),) = rows(service, "SELECT count(*) FROM registered_model_aliases WHERE alias = 'champion'")
    assert aliases == 1

    home = open_workspace(service.environment["FINEDEFICS_HOME"])
    for place in (home.datasets, home.runs, home.evaluations, home.models):
        assert place.files(), place
    assert any("checkpoint" in way for way in home.runs.files())
    assert any(way.endswith(".safetensors") for way in home.models.files())
    assert list((service.folder / "work").iterdir()) == [], "nothing lies where the command was given"
    assert not list((service.folder / "cache").rglob("mlflow.db"))


def test_no_secret_is_in_the_database_or_the_bucket(service: Service) -> None:
    told = [rows(service, f"SELECT key, value FROM {table}") for table in ("params", "tags")]
    told.append(rows(service, "SELECT name, artifact_location FROM experiments"))
    assert not [secret for secret in service.secrets if secret in repr(told)]
    home = open_workspace(service.environment["FINEDEFICS_HOME"])
    for way in home.root.files():
        content = (home.root / way).read_bytes()
        assert not [secret for secret in service.secrets if secret.encode() in content], way
