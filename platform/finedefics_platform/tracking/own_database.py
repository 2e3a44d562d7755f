"""The database that a workspace keeps itself: a SQLite file of this machine that knows where it stands.

MLflow writes down where artefacts lie as absolute places. A workspace can be moved and copied, so the
database remembers the root that it was written for, and is put right where it is opened under another one.
"""

import importlib.util
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import IDENTITY, Workspace

DATABASE = "mlflow.db"
_ROOT = "finedefics_root"
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_SECONDS = 30.0
# How MLflow spells a scheme, what it needs to reach such a place, and the package that brings it.
_CLIENTS = {
    "s3": ("s3", "boto3", '"finedefics[s3]"'),
    "gs": ("gs", "google.cloud.storage", "google-cloud-storage"),
    "gcs": ("gs", "google.cloud.storage", "google-cloud-storage"),
    "abfs": ("abfss", "azure.storage.filedatalake", "azure-storage-file-datalake"),
    "abfss": ("abfss", "azure.storage.filedatalake", "azure-storage-file-datalake"),
}


def own_file(workspace: Workspace) -> Path:
    """The file of the workspace's own database."""
    return workspace.state / DATABASE


def is_own_database(workspace: Workspace) -> bool:
    """Whether runs are recorded in the workspace's own SQLite file and not on a server or elsewhere."""
    chosen = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not chosen.startswith("sqlite:"):
        return not chosen
    # `state` would make the folder
    return is_workspace(workspace) and chosen == f"sqlite:///{own_file(workspace)}"


def is_workspace(workspace: Workspace) -> bool:
    """Whether anything was ever made here; asking makes nothing."""
    return (workspace.root / IDENTITY).is_file()


def has_records(workspace: Workspace) -> bool:
    """Whether there is something to read runs and models from; asking makes nothing."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return True
    if workspace.root.local is not None:  # `state` would make the folder
        return (workspace.artifacts.parent / DATABASE).is_file()
    return is_workspace(workspace) and own_file(workspace).is_file()


def check_writable(workspace: Workspace) -> None:
    """Ask before something is decided whether it can be written down (a server is asked when that is done).

    Raises:
        FinedeficsError: the workspace's own database is on a disk that may only be read.
    """
    if not is_own_database(workspace) or workspace.root.local is None:
        return
    folder = workspace.root.local / "mlflow"
    effective = os.access in os.supports_effective_ids
    for place in (folder / DATABASE, folder, workspace.root.local):
        if place.exists() and not os.access(place, os.W_OK, effective_ids=effective):
            raise FinedeficsError(
                "the workspace cannot be written to",
                place=workspace.root.uri,
                cure="get the rights to write there, or copy it and set FINEDEFICS_HOME to the copy",
            )


def nothing_recorded(workspace: Workspace) -> FinedeficsError:
    """The error of a question about runs or models where nothing was recorded (exit code 2)."""
    return wrong_use(
        "nothing was recorded here",
        place=workspace.root.uri,
        cure="go to the folder that you worked in, or set FINEDEFICS_HOME (or MLFLOW_TRACKING_URI)",
    )


def artifact_uri(place: Location) -> str:
    """A place of the workspace as MLflow is told about it.

    Raises:
        FinedeficsError: MLflow cannot reach such a place with the packages that are installed.
    """
    if place.local is None:
        _check_client(place)
    return _spelt(place)


def _check_client(place: Location) -> None:
    """MLflow notices only when the first artefact is sent, and then again at every attempt."""
    _, module, package = _CLIENTS[place.uri.partition("://")[0]]
    if not _is_installed(module):
        raise FinedeficsError(
            f"MLflow needs {module} to keep artefacts here",
            place=place.uri,
            cure=f"run `pip install {package}`, or record on a server (MLFLOW_TRACKING_URI)",
        )


def settle(workspace: Workspace) -> None:
    """Make the workspace's own database, where there is one, speak of the workspace as it lies now.

    Only places that begin with the root it was written for change, all of them at once or none.

    Raises:
        sqlite3.Error: the database cannot be written to.
    """
    here, file = workspace.root, own_file(workspace)
    if not file.is_file():
        return
    with closing(sqlite3.connect(file, timeout=_SECONDS, isolation_level=None)) as database:
        if _written_for(database) == here.uri:
            return
        database.execute("BEGIN IMMEDIATE")
        try:
            before = _written_for(database)  # another process may have been faster
            if before is None:
                database.execute(f"CREATE TABLE IF NOT EXISTS {_ROOT} (uri TEXT NOT NULL)")
                database.execute(f"INSERT INTO {_ROOT} VALUES (?)", (here.uri,))
            elif before != here.uri:
                _move(database, Location(before), here)
                database.execute(f"UPDATE {_ROOT} SET uri = ?", (here.uri,))
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


def _written_for(database: sqlite3.Connection) -> str | None:
    known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    if database.execute(known, (_ROOT,)).fetchone() is None:
        return None
    found = database.execute(f"SELECT uri FROM {_ROOT}").fetchone()
    return None if found is None else str(found[0])


def _move(database: sqlite3.Connection, old: Location, new: Location) -> None:
    # A dictionary, because in an object store both spellings are usually the same.
    for before, after in {old.uri: new.uri, _spelt(old): _spelt(new)}.items():
        for table, column in _PLACES:
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (after, len(before) + 1, len(before) + 1, f"{before}/"),
            )


def _spelt(place: Location) -> str:
    if place.local is not None:
        return place.local.as_uri()
    scheme, _, rest = place.uri.partition("://")
    return f"{_CLIENTS[scheme][0]}://{rest}"
