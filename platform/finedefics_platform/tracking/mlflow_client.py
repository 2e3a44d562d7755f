"""Clients of the tracking server and registry: quiet, impatient, and free of MLflow's global state."""

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.secrets import without_secrets
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.tracking.notes import NOTE, experiment_note
from finedefics_platform.tracking.own_database import (
    artifact_uri,
    is_own_database,
    is_writable,
    settle,
)
from finedefics_platform.tracking.reachability import sqlite_file, unanswered

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's defaults (7 retries, 120 s each) would hold a training run up for minutes when a server is away.
# A server behind a slow store needs more for large uploads: these are the standard variables, so set them.
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_NOISY = ("alembic", "mlflow", "mlflow.tracking", "mlflow.models", "mlflow.pyfunc")
_SERVERS = ("http", "https", "databricks")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SECONDS_TO_OPEN = 120.0  # a busy machine takes 15 s for the tables
_opening = threading.Lock()
_answered: set[str] = set()  # addresses at which something was heard
_READ_ONLY = "readonly database"  # as SQLite says it


def open_client(workspace: Workspace) -> "MlflowClient":
    """A client for the workspace's tracking URI; the registry is on the same server.

    Raises:
        FinedeficsError: the URI names nothing MLflow can write to, or the database cannot be opened.
    """
    uri = workspace.tracking_uri
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme not in _SERVERS + _DATABASES:
        raise wrong_use(
            "not the address of a tracking server or database",
            place=f"MLFLOW_TRACKING_URI={shown(uri)}",
            cure="give http(s)://… or sqlite:///…, or unset it to use the workspace's own database",
        )
    if scheme == "sqlite":
        sqlite_file(uri)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    # It logs every error of a database with its traceback, and raises it too: once is enough.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        # The first client of a database creates its tables, which no two must do at once.
        with _opening, _first(workspace):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            if is_own_database(workspace):
                settle(workspace)
            return client
    except FinedeficsError:
        raise
    except Exception as error:
        if _READ_ONLY in str(error):
            raise read_only(workspace) from error
        raise FinedeficsError(
            f"the tracking database cannot be opened ({_first_line(error)})",
            place=shown(uri),
            cure="check that it can be written to; after an MLflow upgrade run `mlflow db upgrade <uri>`",
        ) from error


def _first(workspace: Workspace) -> AbstractContextManager[object]:
    if not is_own_database(workspace) or not is_writable(workspace):
        return nullcontext()
    return FileLock(workspace.state / "mlflow.lock", timeout=_SECONDS_TO_OPEN)


def experiment_id(client: "MlflowClient", workspace: Workspace, name: str) -> str:
    """The id of an experiment, which is made if it does not exist yet.

    Raises:
        FinedeficsError: the experiment was deleted, or boto3 is missing for a workspace in S3.
        MlflowException: the server is away.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        # A server chooses its own store; the workspace's database would use ./mlruns.
        location = artifact_uri(workspace.artifacts / name) if is_own_database(workspace) else None
        try:
            return client.create_experiment(
                name, artifact_location=location, tags={NOTE: experiment_note(name)}
            )
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise error
    if found.lifecycle_stage == "deleted":
        raise FinedeficsError(
            "this tracking experiment was deleted",
            place=f"tracking.experiment={name}",
            cure=f"run `mlflow experiments restore -x {found.experiment_id}` or choose another name",
        )
    if NOTE not in found.tags:  # made before there were notes; what a person wrote stays
        with suppress(MlflowException):
            client.set_experiment_tag(found.experiment_id, NOTE, experiment_note(name))
    return found.experiment_id


def shown(uri: str) -> str:
    """The URI without user and password."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri


def is_refusal(error: Exception) -> bool:
    """Whether sending the same again is pointless: the entry is wrong, not the server away."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in {
            "INVALID_PARAMETER_VALUE",
            "BAD_REQUEST",
            "INVALID_STATE",
            "RESOURCE_DOES_NOT_EXIST",
            "RESOURCE_ALREADY_EXISTS",
        }
    return isinstance(error, FinedeficsError | FileNotFoundError | KeyError)


def read_only(workspace: Workspace) -> FinedeficsError:
    """The error of writing into a database that can only be read."""
    return FinedeficsError(
        "the workspace's database can be read and not written to",
        place=shown(workspace.tracking_uri),
        cure="check the rights, or copy the workspace to where you may write and set FINEDEFICS_HOME to it",
    )


def check_writable(workspace: Workspace) -> None:
    """Ask before something is decided whether it can be written down (a server is asked when that is done).

    Raises:
        FinedeficsError: the workspace's own database is on a disk that may only be read.
    """
    if is_own_database(workspace) and not is_writable(workspace):
        raise read_only(workspace)


def _check_answers(uri: str) -> None:
    """Once for a process and address: after that MLflow's own errors tell."""
    if uri in _answered:
        return
    if reason := unanswered(uri):
        raise FinedeficsError(
            f"the tracking server does not answer ({reason})",
            place=shown(uri),
            cure="start it, or correct or unset MLFLOW_TRACKING_URI",
        )
    _answered.add(uri)


def _first_line(error: Exception) -> str:
    return without_secrets((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]


def _is_mlflows(error: Exception) -> bool:
    """Whether MLflow raised it; who has not imported MLflow does not have to for that."""
    exceptions = sys.modules.get("mlflow.exceptions")
    return exceptions is not None and isinstance(error, exceptions.MlflowException)


@contextmanager
def answered(workspace: Workspace) -> Iterator[None]:
    """Turn MLflow's errors inside the block into one line for the user.

    Raises:
        FinedeficsError: the server does not answer (known in seconds, where MLflow takes a minute), does not
            do what it is asked, or the database cannot be written to.
    """
    _check_answers(workspace.tracking_uri)
    try:
        yield
    except Exception as error:
        if not _is_mlflows(error):
            raise
        if _READ_ONLY in str(error):
            raise read_only(workspace) from error
        cure = (
            "check the names given"
            if is_refusal(error)
            else "check that it runs and MLFLOW_TRACKING_URI is right"
        )
        raise FinedeficsError(
            f"the tracking server did not do this ({_first_line(error)})",
            place=shown(workspace.tracking_uri),
            cure=cure,
        ) from error
