"""Whether a tracking store answers, asked without MLflow: MLflow's own client retries for minutes."""

import base64
import configparser
import contextlib
import http.client
import os
import socket
import sqlite3
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from finedefics.errors import FinedeficsError, wrong_use

SECONDS = 3.0
PATIENCE = 6.0  # finding the name and connecting
OPEN = "asks for no password"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def reach_tracking(uri: str) -> str:
    """One line about the store at ``uri``, without the password that may stand in it.

    Raises:
        FinedeficsError: it does not open or does not answer within `SECONDS`, or MLflow knows no such kind.
    """
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        return _open_sqlite(sqlite_file(uri))
    if scheme in ("http", "https"):
        return _ask_server(parts)
    if scheme in DATABASE_PORTS and parts.hostname:
        return _connect(parts, DATABASE_PORTS[scheme])
    cure = "set MLFLOW_TRACKING_URI to sqlite:///<file>, http(s)://<server> or a database, or unset it"
    raise wrong_use("MLflow keeps no runs in such a place", place=without_password(uri), cure=cure)


def unanswered(uri: str) -> str | None:
    """Why nothing answers at ``uri``, asked within `PATIENCE` seconds; None where something does.

    Whatever a server says, it answers; of a SQLite file, and of kinds that are not asked, it is believed.
    """
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in ("http", "https", *DATABASE_PORTS) or not parts.hostname:
        return None
    found: list[str | None] = []
    # To find a name alone may take half a minute, which no timeout of a connection ends.
    thread = threading.Thread(target=lambda: found.append(_knock(parts, scheme)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return found[0] if found else f"no answer within {PATIENCE:.0f} s"


def sqlite_file(uri: str) -> Path:
    """The file of a ``sqlite:`` address.

    Raises:
        FinedeficsError: its folder does not exist (exit code 2), which MLflow would try for minutes.
    """
    file = Path(uri.partition(":///")[2].partition("?")[0])
    if not file.parent.is_dir():
        cure = "make the folder or correct MLFLOW_TRACKING_URI"
        raise wrong_use("the database's folder does not exist", place=str(file.parent), cure=cure)
    return file


def _knock(parts: SplitResult, scheme: str) -> str | None:
    try:
        if scheme in DATABASE_PORTS:
            port = parts.port or DATABASE_PORTS[scheme]
            socket.create_connection((parts.hostname, port), timeout=SECONDS).close()
            return None
        with urllib.request.urlopen(_health(parts), timeout=SECONDS):
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__


def _health(parts: SplitResult) -> str:
    host, path = parts.netloc.rpartition("@")[2], f"{parts.path.rstrip('/')}/health"
    return parts._replace(netloc=host, path=path, query="", fragment="").geturl()


def enter_tracking(uri: str) -> str:
    """Whether the store lets us in, to end what `reach_tracking` says; with `OPEN` where anybody is.

    The credentials are those that MLflow would send: the address's own, MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, or ``~/.mlflow/credentials``.

    Raises:
        FinedeficsError: it asks for credentials and there are none, or it does not take them; or the package
            that speaks to such a database is missing.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        return _enter_server(parts)
    if parts.scheme.partition("+")[0] == "postgresql":
        return _enter_postgresql(uri)
    return ""


def is_alone(uri: str) -> bool:
    """Whether only this machine reaches the store."""
    return urlsplit(uri).hostname in (None, "localhost", "127.0.0.1", "::1")


def without_password(uri: str) -> str:
    """The address as it may be shown: user and password are left out."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _open_sqlite(file: Path) -> str:
    if not file.exists():
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
    try:
        with urllib.request.urlopen(_health(parts), timeout=SECONDS):
            return f"the server at {shown} answers"
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):  # it answers, and MLflow's client brings the credentials
            return f"the server at {shown} answers and asks for credentials"
        reason = f"answers {error.code}"
    except (OSError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
    cure = "start it or correct MLFLOW_TRACKING_URI; runs are kept and sent later meanwhile"
    raise FinedeficsError(f"the tracking server does not answer ({reason})", place=shown, cure=cure)


def _enter_server(parts: SplitResult) -> str:
    shown = without_password(parts.geturl())
    credentials = _credentials(parts)
    asked = parts._replace(
        netloc=parts.netloc.rpartition("@")[2],
        path=f"{parts.path.rstrip('/')}/api/2.0/mlflow/experiments/search",
        query="max_results=1",
        fragment="",
    )
    if _allows(asked.geturl(), None):
        return f" and {OPEN}"
    cure = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if credentials is None:
        raise FinedeficsError("the tracking server asks for a user", place=shown, cure=cure)
    if not _allows(asked.geturl(), credentials):
        cure = f"correct or {cure}"
        raise FinedeficsError("the tracking server does not take this user", place=shown, cure=cure)
    return " and lets this user in"


def _allows(url: str, credentials: str | None) -> bool:
    """Whether a question is not refused for who asks it; other errors are no refusal."""
    request = urllib.request.Request(url)
    if credentials:
        request.add_header("Authorization", credentials)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code not in (401, 403)
    except (OSError, http.client.HTTPException):  # `reach_tracking` says whether it answers at all
        return True


def _credentials(parts: SplitResult) -> str | None:
    """The header that MLflow would send."""
    stored = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):
        stored.read(Path.home() / ".mlflow" / "credentials")

    def said(name: str, in_address: str | None) -> str:
        kept = stored.get("mlflow", name, fallback="")
        return unquote(in_address or "") or os.environ.get(name.upper()) or kept

    user = said("mlflow_tracking_username", parts.username)
    password = said("mlflow_tracking_password", parts.password)
    if user:
        return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return f"Bearer {token}" if token else None


def _enter_postgresql(uri: str) -> str:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError

    shown = without_password(uri)
    try:
        engine = create_engine(uri, connect_args={"connect_timeout": int(SECONDS)})
        with engine.connect():
            pass
        engine.dispose()
    except ModuleNotFoundError as error:
        cure = 'run `pip install "finedefics[postgres]"` and write postgresql+psycopg://…'
        thing = f"{error.name} is missing, which speaks to it"
        raise FinedeficsError(thing, place=shown, cure=cure) from error
    except DBAPIError as error:
        reason = next(iter(str(error.orig).strip().splitlines()), type(error).__name__)
        cure = "correct user, password and name of the database in MLFLOW_TRACKING_URI"
        raise FinedeficsError(f"the database lets nobody in so ({reason})", place=shown, cure=cure) from error
    return " and lets this user in"


def _connect(parts: SplitResult, usual_port: int) -> str:
    shown = without_password(parts.geturl())
    try:
        with socket.create_connection((parts.hostname, parts.port or usual_port), timeout=SECONDS):
            return f"the database at {shown} accepts connections"
    except OSError as error:
        cure = "start the database or correct MLFLOW_TRACKING_URI"
        raise FinedeficsError(f"no connection ({error})", place=shown, cure=cure) from error
