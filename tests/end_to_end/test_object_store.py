"""The whole journey with its workspace in an object store: only cache and database are local."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store import object_store

from finedefics_platform.base.storage import Location, committed
from finedefics_platform.base.workspace import Workspace, open_workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def home() -> Iterator[Workspace]:
    with object_store() as uri:
        yield open_workspace(f"{uri}/home")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk of the machine that drives: a current folder and a cache."""
    return tmp_path_factory.mktemp("node")


def finedefics(home: Workspace, node: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run a command in a process of its own; its JSON lines."""
    (node / "work").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "finedefics_platform.cli.main", *arguments, "--json"],
        env={**os.environ, "FINEDEFICS_HOME": str(home.root), "FINEDEFICS_CACHE": str(node / "cache")},
        cwd=node / "work",
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def demo(home: Workspace, node: Path) -> dict[str, Any]:
    return finedefics(home, node, "demo", "--small")[-1]


def test_the_journey_ends_with_a_champion(home: Workspace, node: Path, demo: dict[str, Any]) -> None:
    assert demo["event"] == "done"
    models = [line for line in finedefics(home, node, "models", "list") if line["event"] == "model"]
    assert any("champion" in line["aliases"] for line in models)
    table = home.place_of(demo["table"]).read_json()
    assert (
        table["joint"]["alignment"]["new"]["accuracy"]
        >= table["control"]["alignment"]["new"]["accuracy"] + 0.3
    )


def test_everything_lies_in_the_bucket(home: Workspace, node: Path, demo: dict[str, Any]) -> None:
    assert list((node / "work").iterdir()) == [], "no folder called s3:, nor any other"
    for place in (home.datasets, home.runs, home.evaluations, home.models, home.searches, home.demo):
        assert place.files(), place
    finished = [run for run in home.runs.children() if (run / "result.json").is_file()]
    assert len(finished) >= 4
    secrets = [os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"]]
    for way in home.root.files():
        if way.endswith((".json", ".jsonl", ".yaml", ".html", "MLmodel")):
            text = (home.root / way).read_text()
            assert not any(secret in text for secret in secrets), way


def test_another_machine_opens_the_champion(
    home: Workspace, node: Path, demo: dict[str, Any], tmp_path: Path
) -> None:
    """Its cache is empty; the database is the same, as a tracking server's would be."""
    from finedefics_platform.data.store import open_dataset

    sample = open_dataset(home, "birds-0").samples("test", limit=1)[0]
    picture = tmp_path / "bird.jpg"
    picture.write_bytes(sample.image)
    for kept in ("files", "folders"):
        shutil.rmtree(node / "cache" / kept, ignore_errors=True)
    lines = finedefics(home, node, "predict", demo["model"], str(picture))
    assert next(line for line in lines if line["event"] == "prediction")["candidates"]


def test_a_second_journey_reuses_the_first(home: Workspace, node: Path, demo: dict[str, Any]) -> None:
    before = {way: (home.root / way).modified() for way in home.root.files() if way.endswith(".safetensors")}
    finedefics(home, node, "demo", "--small")
    after = {way: (home.root / way).modified() for way in home.root.files() if way.endswith(".safetensors")}
    assert after == before


def test_models_are_committed_folders(home: Workspace, demo: dict[str, Any]) -> None:
    for base in home.models.children():
        if base.name.startswith("birds-base"):
            place = committed(base)
            assert isinstance(place, Location)
            assert (place / "config.json").is_file()
