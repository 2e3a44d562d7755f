"""A real PostgreSQL on loopback, from the system's packages, for tests of what lies in one."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "ann"
READY_SECONDS = 120


def programs() -> Path | None:
    """The folder of the newest server installed (Debian's is not on the PATH), None without one."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = shutil.which("postgres")
    folders += [Path(found).resolve().parent] if found else []
    return next((folder for folder in reversed(folders) if (folder / "initdb").is_file()), None)


@contextmanager
def postgresql(*databases: str) -> Iterator[tuple[str, str]]:
    """Start a server with these databases, end it and remove its data on the way out.

    Yields its address (``postgresql+psycopg://user:password@host:port``) and the password.
    """
    found = programs()
    if found is None:
        pytest.skip("there is no PostgreSQL here (Debian: apt install postgresql)")
    folder, password = Path(tempfile.mkdtemp(prefix="pg-")), secrets.token_urlsafe(12)
    account = _account()
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "password").write_text(password)
        if account:
            for place in (folder, folder / "password"):
                os.chown(place, account["user"], account["group"])
        settle = [found / "initdb", "-D", folder / "data", "-U", USER, "--pwfile", folder / "password"]
        settle += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        subprocess.run(settle, cwd=folder, check=True, capture_output=True, timeout=300, **account)
        command = [found / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port)]
        command += ["-k", folder, "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **account)
        try:
            _make(databases, port, password, server, folder / "log")
            yield f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{port}", password
        finally:
            server.send_signal(signal.SIGINT)  # ends connections as well, and waits for its own processes
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> dict[str, int]:
    """As whom to run it: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        entry = pwd.getpwnam("nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid}


def _make(
    databases: tuple[str, ...], port: int, password: str, server: "subprocess.Popen[bytes]", log: Path
) -> None:
    import psycopg

    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            with psycopg.connect(
                host="127.0.0.1", port=port, user=USER, password=password, dbname="postgres", autocommit=True
            ) as connection:
                for name in databases:
                    connection.execute(f'CREATE DATABASE "{name}"'.encode())
                return
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, "the database did not come up"
            time.sleep(0.2)
