"""`finedefics tune` where everything lies in an object store: a process and a cluster of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finedefics_platform.base.storage import Location, commit
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.run import open_run
from tests.object_store import object_store

from .conftest import STAGE, document_of, search_of

pytestmark = pytest.mark.slow


def test_a_search_runs_in_an_object_store(
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    with object_store() as uri:
        workspace = open_workspace(f"{uri}/home")
        _copy(drawn_workspace.datasets, workspace.datasets)
        with commit(workspace.models / "tiny") as folder:
            for file in tiny_model.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
        stages = [{**STAGE, "name": "a", "steps": 2}]
        document = document_of(
            str(workspace.models / "tiny"), stages=stages, evaluation={"every": 2, "limit": 2}
        )
        space = {"stages.0.learning_rate": {"uniform": [1e-5, 1e-4]}}
        search = search_of(name="far", space=space, metric="val_alignment", trials=1)
        (tmp_path / "one.yaml").write_text(json.dumps(document))
        (tmp_path / "search.yaml").write_text(search.model_dump_json(exclude_none=True))
        done = _tuned(workspace, tmp_path / "search.yaml")
        assert (workspace.searches / done["search"]).files() == ["search.json"]
        assert open_run(workspace, done["best"]["run"]).parent_run_id is not None
        assert _tuned(workspace, tmp_path / "search.yaml") == done  # at once, from what is stored


def _tuned(workspace: Workspace, search: Path) -> dict[str, Any]:
    """The last line of the command."""
    ran = subprocess.run(
        [sys.executable, "-m", "finedefics_platform.cli.main", "tune", str(search), "--json"],
        env={**os.environ, "FINEDEFICS_HOME": str(workspace.root)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def _copy(source: Location, target: Location) -> None:
    for way in source.files():
        (target / way).write_bytes((source / way).read_bytes())
