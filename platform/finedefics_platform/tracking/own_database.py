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
from finedefics_platform.tracking.reachability import sqlite_file, without_password

DATABASE = "mlflow.db"
_ROOT = "finedefics_root"
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
# Tables that hold what somebody wrote down: how a row is called, and what it says.
_SAID = (
    ("params", "key", "value"),
    ("tags", "key", "value"),
    ("experiment_tags", "key", "value"),
    ("registered_model_tags", "key", "value"),
    ("model_version_tags", "key", "value"),
    ("logged_model_params", "param_key", "param_value"),
    ("logged_model_tags", "tag_key", "tag_value"),
    ("datasets", "name", "dataset_source"),
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
    """Whether there is something to read runs and models from; asking makes nothing.

    Raises:
        FinedeficsError: MLFLOW_TRACKING_URI names a SQLite file in a folder that does not exist.
    """
    if chosen := os.environ.get("MLFLOW_TRACKING_URI"):
        return not chosen.startswith("sqlite:///") or sqlite_file(chosen).is_file()
    if workspace.root.local is not None:  # `state` would make the folder
        return (workspace.artifacts.parent / DATABASE).is_file()
    return is_workspace(workspace) and own_file(workspace).is_file()


def is_writable(workspace: Workspace) -> bool:
    """Whether the own database can be written to; one that cannot is read all the same."""
    file = own_file(workspace)
    effective = os.access in os.supports_effective_ids
    places = (file, file.parent, workspace.root.local)
    return all(
        os.access(place, os.W_OK, effective_ids=effective)
        for place in places
        if place is not None and place.exists()
    )


def nothing_recorded(workspace: Workspace) -> FinedeficsError:
    """The error of a question about runs or models where nothing was recorded (exit code 2)."""
    return wrong_use(
        "nothing was recorded here",
        place=without_password(os.environ.get("MLFLOW_TRACKING_URI") or workspace.root.uri),
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


def named_in_records(workspace: Workspace) -> list[str]:
    """What the own database says of the workspace's place beside where artefacts lie: tables and the keys of
    the rows, as ``mlflow.db: params model.path``. That is not put right after a move."""
    here, file = workspace.root, own_file(workspace)
    if here.local is None or not file.is_file():
        return []
    found = []
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=_SECONDS)) as database:
        there = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, key, value in _SAID:
            if table in there:
                query = f"SELECT DISTINCT {key} FROM {table} WHERE instr({value}, ?) > 0"
                found += [f"{DATABASE}: {table} {row[0]}" for row in database.execute(query, (f"{here}/",))]
    return found


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
