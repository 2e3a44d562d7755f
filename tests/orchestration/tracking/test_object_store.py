"""A workspace in an object store: runs in a file of this machine, artefacts in the workspace, no secrets."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from object_store import object_store

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.runs import get_run, list_runs
from finedefics_platform.tracking.tracker import Tracker

Make = Callable[[str], Workspace]


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with object_store() as uri:
        yield uri


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_runs_stay_here_and_artefacts_go_there(
    store: str, cache: Path, new_workspace: Make, tmp_path: Path
) -> None:
    assert list_runs(open_workspace(f"{store}/w")) == []
    assert Location.of(f"{store}/w").files() == [], "asking makes nothing"
    workspace = new_workspace(f"{store}/w")
    tracker = Tracker(workspace, "birds")
    run = tracker.parent("train", key="birds-1", params={"long": "x" * 600, "error": "testing-secret-key"})
    (workspace.evaluations / "e1" / "items.txt").write_text("items")
    (workspace.evaluations / "e1" / "index" / "names.txt").write_text("names")
    (tmp_path / "local.txt").write_text("local")
    tracker.artifact(run, workspace.evaluations / "e1", "evaluation")
    tracker.artifact(run, workspace.evaluations / "e1" / "items.txt")
    tracker.artifact(run, tmp_path / "local.txt")
    tracker.tags(run, {"failure": "refused the key testing-key-id"})
    tracker.finish(run)
    assert tracker.waiting() == 0

    assert workspace.artifacts.files() == [
        f"birds/{run}/artifacts/{way}"
        for way in (
            *("environment.json", "evaluation/index/names.txt", "evaluation/items.txt"),
            *("items.txt", "local.txt", "parameters/long.txt"),
        )
    ]
    client = open_client(workspace)
    assert client.get_run(run).info.artifact_uri == f"{store}/w/mlflow/artifacts/birds/{run}/artifacts"
    assert Path(client.download_artifacts(run, "items.txt", str(tmp_path))).read_text() == "items"
    assert get_run(workspace, "birds-1").tags["finedefics.failure"] == "refused the key [hidden]"
    here = [path.read_bytes() for path in cache.rglob("*") if path.is_file()]
    there = [(workspace.root / way).read_bytes() for way in workspace.root.files()]
    for secret in (b"testing-key-id", b"testing-secret-key"):
        assert not [content for content in here + there if secret in content]


def test_a_missing_client_is_said_before_anything_is_recorded(
    store: str, new_workspace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = new_workspace(f"{store}/without")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "boto3" else find(name))
    with pytest.raises(FinedeficsError, match=r"MLflow needs boto3 .*finedefics\[s3\]"):
        Tracker(workspace, "birds")
