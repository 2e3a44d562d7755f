"""Which datasets there are, and the versions of one: counts, makers, sizes on the disk."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.data.listing import list_datasets
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.data.versions import new_version


@pytest.fixture
def home(tmp_path: Path, drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Two versions of a dataset: the second lacks the negatives, and shares all other files."""
    assert drawn_dataset.root.local is not None
    shutil.copytree(drawn_dataset.root.local.parent, tmp_path / "datasets" / "drawn")
    workspace = open_workspace(tmp_path)
    drawn = open_dataset(workspace, drawn_dataset.reference)
    draft = new_version(workspace, "drawn")
    draft.keep(drawn, [name for name in drawn.manifest["tables"] if name not in ("negatives", "categories")])
    draft.write("categories", drawn.table("categories").slice(0, 5), {"step": "describe"})
    draft.publish("second")
    monkeypatch.setenv("FINEDEFICS_HOME", str(tmp_path))
    return workspace


def told(capsys: pytest.CaptureFixture[str], *command: str) -> list[dict[str, Any]]:
    assert main([*command, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_versions_have_their_sizes_and_the_newest_is_named(home: Workspace, drawn_dataset: Dataset) -> None:
    (listed,) = list_datasets(home)
    newest, first = listed.versions
    assert listed.latest == newest
    assert (newest.latest, first.latest) == (True, False)
    assert first.reference == drawn_dataset.reference
    assert newest.parent == drawn_dataset.digest
    assert newest.by == "describe"
    assert newest.pictures == {"train": 48, "val": 12}
    assert (newest.labelled, newest.categories) == (44, 5)
    assert "negatives" in first.tables
    assert "negatives" not in newest.tables
    files = [path for path in Path(home.datasets.uri).rglob("*") if path.is_file()]
    assert listed.bytes == sum(path.stat().st_size for path in files)
    tables = sum(path.stat().st_size for path in files if "tables" in path.parts)
    assert tables == first.bytes + newest.own_bytes
    assert first.own_bytes < first.bytes


def test_latest_is_a_version(home: Workspace) -> None:
    assert open_dataset(home, "drawn@latest") == open_dataset(home, "drawn")


def test_the_commands_say_it(home: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    newest = open_dataset(home, "drawn")
    dataset, done = told(capsys, "data", "list")
    assert (dataset["name"], dataset["versions"]) == ("drawn", 2)
    assert dataset["latest"]["reference"] == newest.reference
    assert done == {"event": "done", "datasets": 1}
    versions = told(capsys, "data", "show", "drawn")
    assert [version["latest"] for version in versions[:-1]] == [True, False]
    version, _ = told(capsys, "data", "show", "drawn@latest")
    assert version["tables"]["samples"] == 60
    assert main(["data", "show", "drawn"]) == 0
    assert f"{newest.digest} (latest)" in capsys.readouterr().out
    assert main(["data", "show", "drown"]) == 2
    assert "did you mean drawn?" in capsys.readouterr().err


def test_a_version_that_cannot_be_read_hides_no_other(home: Workspace, drawn_dataset: Dataset) -> None:
    manifest = home.datasets / "drawn" / drawn_dataset.digest / "manifest.json"
    manifest.write_json({**manifest.read_json(), "schema_version": 1})
    (listed,) = list_datasets(home)
    assert listed.unread == (drawn_dataset.digest,)
    assert len(listed.versions) == 1
