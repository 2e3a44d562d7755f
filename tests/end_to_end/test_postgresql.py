"""From pictures to a champion, nothing on the machine: runs in PostgreSQL behind a password, files in S3."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from object_store import object_store
from PIL import Image
from postgresql import postgresql

from finedefics.base_model import untrained_backbone
from finedefics_platform.base.storage import Location
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
        "MLFLOW_BACKEND_STORE_URI": f"{database}/runs",  # a command line is read by everybody
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
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


@contextmanager
def files_seen(place: Location) -> Iterator[set[str]]:
    """Every file that was below a place at some time meanwhile."""
    seen, over = set[str](), threading.Event()

    def look() -> None:
        while not over.wait(0.3):
            seen.update(place.files())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join(30)


@pytest.fixture(scope="module")
def champion(service: Service) -> str:
    """Ingested, trained with a checkpoint, evaluated, registered and promoted; the run's key."""
    pictures, model = service.folder / "pictures", service.folder / "model"
    rng = np.random.default_rng(7)
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        for name in ("tern", "wren", "lark"):
            (pictures / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(pictures / split / name / f"{number}.png")
    torch.manual_seed(7)
    untrained_backbone().save_pretrained(model)
    document = {
        "name": "far",
        "data": {"dataset": "birds", "negatives": 0},
        "model": {"path": str(model)},
        "resources": {"workers": 1},
        "stages": [{"name": "name", "steps": 4, "feeds": {"labelled": 4}, "terms": {"answer": 1}}],
        "tracking": {"checkpoint_every": 2},
    }
    (service.folder / "experiment.yaml").write_text(json.dumps(document))
    finedefics(service, "data", "ingest", str(pictures), "--name", "birds")
    with files_seen(open_workspace(service.environment["FINEDEFICS_HOME"]).runs) as seen:
        lines, _ = finedefics(service, "train", str(service.folder / "experiment.yaml"))
    # A finished run needs its checkpoints no more: they are there while it trains.
    assert any("checkpoint_" in way for way in seen), sorted(seen)
    run = next(line["run"] for line in lines if line["event"] == "step")
    finedefics(service, "evaluate", run, "--data", "birds", "--answers", "names", "--register", "birds")
    # The gate wants more pictures and a better model: this is about where things lie, so it is overruled.
    because = ("--reason", "the first", "--force", "a model of four steps, looked at on six pictures")
    finedefics(service, "models", "promote", "birds", "1", *because)
    return str(run)


def test_runs_are_in_the_database_and_files_in_the_bucket(service: Service, champion: str) -> None:
    ((metrics,),) = rows(service, "SELECT count(*) FROM metrics WHERE key LIKE '%loss%'")
    assert metrics >= 4
    ((unfinished,),) = rows(service, "SELECT count(*) FROM runs WHERE status <> 'FINISHED'")
    assert unfinished == 0
    ((aliases,),) = rows(service, "SELECT count(*) FROM registered_model_aliases WHERE alias = 'champion'")
    assert aliases == 1

    home = open_workspace(service.environment["FINEDEFICS_HOME"])
    for place in (home.datasets, home.runs, home.evaluations, home.models):
        assert place.files(), place
    written = (home.runs / champion).files()
    assert any(way.endswith(".safetensors") for way in written)
    assert list((service.folder / "work").iterdir()) == [], "nothing lies where the command was given"
    assert not list((service.folder / "cache").rglob("mlflow.db"))


def test_no_secret_is_in_the_database_or_the_bucket(service: Service, champion: str) -> None:
    told = [rows(service, f"SELECT key, value FROM {table}") for table in ("params", "tags")]
    told.append(rows(service, "SELECT name, artifact_location FROM experiments"))
    assert not [secret for secret in service.secrets if secret in repr(told)]
    home = open_workspace(service.environment["FINEDEFICS_HOME"])
    for way in home.root.files():
        content = (home.root / way).read_bytes()
        assert not [secret for secret in service.secrets if secret.encode() in content], way
