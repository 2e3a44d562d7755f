"""MLflow's web interface on the workspace's own database, for as long as somebody looks at it."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.tracking.own_database import artifact_uri, settle
from finedefics_platform.tracking.reachability import without_password

START_SECONDS = 180  # an idle machine takes about 10 s, a busy one much longer
STOP_SECONDS = 10
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Interface:
    """A running web interface."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> None:
        """Block until the server ends; FinedeficsError if it ends by itself."""
        code = self.process.wait()
        cure = f"see {self.log}"
        raise FinedeficsError(f"the web interface ended (exit code {code})", place=self.url, cure=cure)


@contextmanager
def serve_interface(
    workspace: Workspace, *, host: str = "127.0.0.1", port: int = 5000, progress: Progress = SILENT
) -> Iterator[Interface]:
    """Start the web interface, yield it once it answers, and end its processes on the way out.

    Args:
        workspace: whose runs are shown.
        host: address to listen on; loopback by default, because whoever reaches it may change runs.
        port: 0 takes a free one.

    Raises:
        FinedeficsError: runs are kept on a server (which has its own interface), the port is taken, or the
            server does not start.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")  # the own one would make its folder
    if uri.startswith(("http://", "https://")):
        cure = "open that server in a browser, or unset MLFLOW_TRACKING_URI"
        thing = "runs are recorded on a server that has its own web interface"
        raise wrong_use(thing, place=without_password(uri), cure=cure)
    port = _claim(host, port)
    settle(workspace)
    log = workspace.state / "ui.log"
    with _written(log) as output:
        # A session of its own: the server's workers end with it, and a Ctrl-C reaches it once, through us.
        process = subprocess.Popen(
            _server(workspace, host, port),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,
        )
    try:
        url = _url(host, port)
        with progress.progress("starting the web interface", None):
            _wait_until_it_answers(process, url, log)
        yield Interface(url, process, log)
    finally:
        _end(process)


def _written(log: Path) -> BinaryIO:
    """The log, opened; FinedeficsError where the workspace cannot be written to, as the server will."""
    try:
        return log.open("wb")
    except OSError as error:
        raise FinedeficsError(
            f"the workspace cannot be written to ({(error.strerror or str(error)).lower()}), and MLflow's "
            "interface writes to its database",
            place=str(log.parent),
            cure="copy the workspace to where you may write, and set FINEDEFICS_HOME to it",
        ) from error


def _server(workspace: Workspace, host: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", workspace.tracking_uri),
        *("--artifacts-destination", artifact_uri(workspace.artifacts)),
        *("--host", host, "--port", str(port), "--workers", "1"),
    ]


def _claim(host: str, port: int) -> int:
    """The port if it is free, or one that is where 0 is asked for.

    Raises:
        FinedeficsError: this machine has no such address (exit code 2), or the port cannot be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will: TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            if isinstance(error, socket.gaierror) or error.errno in _NO_ADDRESS:
                raise wrong_use(
                    f"this machine has no such address ({reason})",
                    place=f"--host {host}",
                    cure="leave it out for this machine alone, or give 0.0.0.0 for every network it is in",
                ) from error
            cure = "choose another with --port, or --port 0 for a free one"
            thing = f"port {port} cannot be taken ({reason})"
            raise FinedeficsError(thing, place=f"{host}:{port}", cure=cure) from error
        return int(probe.getsockname()[1])


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _wait_until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=3):
                return
        except OSError:
            time.sleep(0.2)
    ended = process.poll()
    thing = f"no answer within {START_SECONDS} s" if ended is None else f"it ended (exit code {ended})"
    raise FinedeficsError(f"the web interface did not start: {thing}", place=url, cure=f"see {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers: their session's process group, asked first, then made to."""
    for sign, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
