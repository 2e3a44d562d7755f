"""A workspace is moved and copied and reads its own; several share a server and keep their runs apart."""

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.artifacts import download_artifacts
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache as artifact_places
from typer.testing import CliRunner

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.runs import app
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.own_database import own_file
from finedefics_platform.tracking.runs import get_run, list_runs
from finedefics_platform.tracking.tracker import Tracker, sync

Make = Callable[[str], Workspace]


# In a process of its own, as in life: MLflow remembers for a process where a run's artefacts are.
ORIGINAL = """
import sys
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.tracker import Tracker

workspace = open_workspace(sys.argv[1])
tracker = Tracker(workspace, "birds")
run = tracker.parent("train", key="birds-1", params={"long": "x" * 600})
(workspace.runs / "birds-1" / "table.txt").write_text("a table")
tracker.artifact(run, workspace.runs / "birds-1" / "table.txt", "tables")
tracker.finish(run)
client = open_client(workspace)
found = client.get_run(run)
client.create_registered_model("birds")
client.create_model_version("birds", f"{found.info.artifact_uri}/tables", run_id=run)
client.create_logged_model(found.info.experiment_id, "model", source_run_id=run)
print(run)
"""


def record(workspace: Workspace, key: str, note: str) -> str:
    """One finished run with an artefact of the workspace."""
    tracker = Tracker(workspace, "birds")
    run = tracker.parent("train", key=key)
    (workspace.runs / key / "table.txt").write_text(note)
    tracker.artifact(run, workspace.runs / key / "table.txt", "tables")
    tracker.finish(run)
    return run


def places(workspace: Workspace) -> list[str]:
    """Every place that the database holds."""
    columns = (
        "artifact_location from experiments where experiment_id > 0",  # MLflow's own first one is nobody's
        "artifact_uri from runs",
        "artifact_location from logged_models",
        "source from model_versions",
        "coalesce(storage_location, source) from model_versions",
    )
    with closing(sqlite3.connect(own_file(workspace))) as database:
        return [str(row[0]) for column in columns for row in database.execute(f"select {column}")]


def content(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_copied_workspace_reads_and_writes_its_own(new_workspace: Make, tmp_path: Path) -> None:
    original = new_workspace("the original")
    assert original.root.local is not None
    command = [sys.executable, "-c", ORIGINAL, original.root.uri]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()
    before = content(original.root.local)
    shutil.copytree(original.root.local, tmp_path / "the copy")

    copy = open_workspace(tmp_path / "the copy")
    assert get_run(copy, "birds-1").run_id == run
    again = record(copy, "birds-1", "another table")
    assert again == run, "the same work of the same workspace"
    record(copy, "birds-2", "a second table")
    assert len(places(copy)) == 6
    assert [place for place in places(copy) if not place.startswith(f"{copy.root.local.as_uri()}/")] == []
    assert content(original.root.local) == before

    shutil.rmtree(original.root.local)
    client = open_client(copy)
    assert [record.key for record in list_runs(copy)] == ["birds-2", "birds-1"]
    shown = client.get_run(run)
    assert [file.path for file in client.list_artifacts(run, "tables")] == ["tables/table.txt"]
    assert Path(client.download_artifacts(run, "tables/table.txt")).read_text() == "another table"
    assert Path(client.download_artifacts(run, "parameters/long.txt")).read_text() == "x" * 600
    uri = client.get_model_version_download_uri("birds", "1")
    assert uri == f"{shown.info.artifact_uri}/tables"
    assert (Path(download_artifacts(uri)) / "table.txt").read_text() == "another table"


def test_only_the_own_root_is_put_right(new_workspace: Make, tmp_path: Path) -> None:
    original = new_workspace("w")
    client = open_client(original)
    foreign = {
        "neighbour": f"{original.root.uri}2/artifacts",
        "inside": f"/mnt{original.root.uri}/artifacts",
        "bucket": "s3://bucket/artifacts",
    }
    for name, place in foreign.items():
        client.create_experiment(name, artifact_location=place)
    client.create_experiment("path", artifact_location=f"{original.root.uri}/elsewhere")
    assert original.root.local is not None
    # The new root begins with the old one: what was put right once must not be again.
    original.root.local.rename(tmp_path / "aside")
    (tmp_path / "w").mkdir()
    (tmp_path / "aside").rename(tmp_path / "w" / "w")
    moved = open_workspace(tmp_path / "w" / "w")
    for _ in range(2):
        client = open_client(moved)
        for name, place in foreign.items():
            assert client.get_experiment_by_name(name).artifact_location.removeprefix("file://") == place
        path = client.get_experiment_by_name("path").artifact_location
        assert path.removeprefix("file://") == f"{moved.root.uri}/elsewhere"


def test_what_waits_to_be_sent_moves_with_the_workspace(
    new_workspace: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = new_workspace("original")
    tracker = Tracker(original, "birds")
    run = tracker.parent("train", key="moved-1")
    tracker._ask_again = float("inf")  # as after a store that did not answer
    (original.runs / "table.txt").write_text("a table")
    tracker.artifact(run, original.runs / "table.txt")
    with tracker._lock:
        tracker._send()
    assert tracker.waiting() == 1
    assert original.root.local is not None
    original.root.local.rename(tmp_path / "moved")
    moved = open_workspace(tmp_path / "moved")
    artifact_places.clear()  # who comes later is another process, and MLflow remembers places for one
    assert sync(moved).sent == 1
    assert [file.path for file in open_client(moved).list_artifacts(run)] == ["environment.json", "table.txt"]


def test_two_workspaces_on_one_server_never_write_into_one_run(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(empty_database, tmp_path / "shared.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    monkeypatch.chdir(tmp_path)  # where MLflow puts the artefacts of a database that is nobody's
    ours, theirs = open_workspace(tmp_path / "ours"), open_workspace(tmp_path / "theirs")
    runs = {}
    for workspace in (ours, theirs):
        tracker = Tracker(workspace, "birds")
        assert tracker.find_run("birds-1") is None, "another workspace's run is none of this one's"
        runs[workspace] = tracker.parent("train", key="birds-1")
        tracker.finish(runs[workspace])
        assert tracker.find_run("birds-1") == runs[workspace]
    assert runs[ours] != runs[theirs]
    for workspace in (ours, theirs):
        assert get_run(workspace, "birds-1").run_id == runs[workspace]
        assert Tracker(workspace, "birds").parent("train", key="birds-1") == runs[workspace]
        assert get_run(workspace, runs[workspace]).tags["finedefics.workspace"] == workspace.id

    nobody = open_workspace(tmp_path / "nobody")
    assert get_run(nobody, "birds-1").run_id in runs.values()
    assert len(list_runs(nobody)) == 2
    assert not (tmp_path / "nobody").exists(), "reading makes nothing"


def test_asking_where_nothing_was_recorded_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = CliRunner().invoke(app, ["list"], env={"COLUMNS": "300"}, catch_exceptions=False)
    assert str(tmp_path / ".finedefics") in listed.output
    machine = CliRunner().invoke(app, ["list", "--json"], catch_exceptions=False)
    assert json.loads(machine.output) == {"event": "done", "runs": 0}
    CliRunner().invoke(app, ["sync"], catch_exceptions=False)
    for command in (["show", "birds-1"], ["compare", "birds-1", "birds-2"]):
        refused = CliRunner().invoke(app, command).exception
        assert isinstance(refused, FinedeficsError)
        assert refused.exit_code == 2
        assert str(refused).startswith(f"{tmp_path / '.finedefics'}: nothing was recorded here; ")
    assert list(tmp_path.iterdir()) == []
