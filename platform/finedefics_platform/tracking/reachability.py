"""Whether a tracking store answers, asked without MLflow: MLflow's own client retries for minutes."""

import http.client
import socket
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from finedefics.errors import FinedeficsError, wrong_use

SECONDS = 3.0
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def reach_tracking(uri: str) -> str:
    """One line about the store at ``uri``, without the password that may stand in it.

    Raises:
        FinedeficsError: it does not open or does not answer within `SECONDS`, or MLflow knows no such kind.
    """
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        return _open_sqlite(Path(uri.partition(":///")[2]))
    if scheme in ("http", "https"):
        return _ask_server(parts)
    if scheme in DATABASE_PORTS and parts.hostname:
        return _connect(parts, DATABASE_PORTS[scheme])
    cure = "set MLFLOW_TRACKING_URI to sqlite:///<file>, http(s)://<server> or a database, or unset it"
    raise wrong_use("MLflow keeps no runs in such a place", place=without_password(uri), cure=cure)


def without_password(uri: str) -> str:
    """The address as it may be shown: user and password are left out."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _open_sqlite(file: Path) -> str:
    if not file.exists():
        if not file.parent.is_dir():
            cure = "make the folder or correct MLFLOW_TRACKING_URI"
            raise FinedeficsError("the database's folder does not exist", place=str(file.parent), cure=cure)
        return f"SQLite at {file} (will be made)"
    try:
        connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=SECONDS)
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        cure = "name another file in MLFLOW_TRACKING_URI, or move this one away"
        raise FinedeficsError(f"not a database that opens ({error})", place=str(file), cure=cure) from error
    return f"SQLite at {file}"


def _ask_server(parts: SplitResult) -> str:
    shown = without_password(parts.geturl())
    health = parts._replace(
        netloc=parts.netloc.rpartition("@")[2], path=f"{parts.path.rstrip('/')}/health", query="", fragment=""
    )
    try:
        with urllib.request.urlopen(health.geturl(), timeout=SECONDS):
            return f"the server at {shown} answers"
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):  # it answers, and MLflow's client brings the credentials
            return f"the server at {shown} answers and asks for credentials"
        reason = f"answers {error.code}"
    except (OSError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
    cure = "start it or correct MLFLOW_TRACKING_URI; runs are kept and sent later meanwhile"
    raise FinedeficsError(f"the tracking server does not answer ({reason})", place=shown, cure=cure)


def _connect(parts: SplitResult, usual_port: int) -> str:
    shown = without_password(parts.geturl())
    try:
        with socket.create_connection((parts.hostname, parts.port or usual_port), timeout=SECONDS):
            return f"the database at {shown} accepts connections"
    except OSError as error:
        cure = "start the database or correct MLFLOW_TRACKING_URI"
        raise FinedeficsError(f"no connection ({error})", place=shown, cure=cure) from error
