"""The same search where everything lies in an object store."""

from pathlib import Path
from typing import Any

import pytest

from finedefics_platform.base.storage import Location, commit
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.search.run import run_search
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
    import ray

    ray.shutdown()  # the processes of a cluster see the variables that name the store where it started after
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    with object_store() as uri:
        workspace = open_workspace(f"{uri}/home")
        monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
        _copy(drawn_workspace.datasets, workspace.datasets)
        with commit(workspace.models / "tiny") as folder:
            for file in tiny_model.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
        space = {"stages.0.learning_rate": {"uniform": [1e-5, 1e-4]}}
        search = search_of(name="far", space=space, metric="val_alignment", trials=1)
        document: dict[str, Any] = document_of(
            Path("unused"),
            model={"path": str(workspace.models / "tiny")},
            stages=[{**STAGE, "name": "a", "steps": 2}],
            evaluation={"every": 2, "limit": 2},
        )
        try:
            result = run_search(workspace, search, document)
            assert result.place.files() == ["search.json"]
            assert open_run(workspace, result.best["run"]).key == result.best["run"]
            assert run_search(workspace, search, document) == result
        finally:
            ray.shutdown()


def _copy(source: Location, target: Location) -> None:
    for way in source.files():
        (target / way).write_bytes((source / way).read_bytes())
