"""Workspaces whose database is there already: making MLflow's tables takes seconds, copying them none."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.own_database import own_file


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a workspace in which nothing was recorded."""
    empty = open_workspace(tmp_path_factory.mktemp("empty"))
    open_client(empty)
    return own_file(empty)


@pytest.fixture
def new_workspace(empty_database: Path, tmp_path: Path) -> Callable[[str], Workspace]:
    """Makes workspaces by name, or by URI."""

    def make(name: str) -> Workspace:
        workspace = open_workspace(name if "://" in name else tmp_path / name)
        shutil.copyfile(empty_database, own_file(workspace))
        return workspace

    return make
