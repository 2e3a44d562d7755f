"""A Ray head with token authentication for tests of jobs: ports of its own, ended by its own processes."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.operate.connection import Cluster


class Head:
    """A head that takes jobs from whoever has the token."""

    def __init__(self) -> None:
        # Sockets lie below: their paths are limited to 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))
        self.token = secrets.token_hex(16)
        store, api, client = _free_ports(3)
        self.address, self.jobs = f"127.0.0.1:{store}", f"http://127.0.0.1:{api}"
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
            *(f"--port={store}", f"--dashboard-port={api}", f"--ray-client-server-port={client}"),
            *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--dashboard-agent-listen-port=0"),
            *(f"--temp-dir={self.folder}", "--num-cpus=8", "--object-store-memory=300000000"),
            "--disable-usage-stats",
        ]
        variables = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
        with (self.folder / "start.log").open("w") as log:
            self.process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        self._wait()

    @property
    def cluster(self) -> Cluster:
        """As a command speaks to it."""
        return Cluster(self.jobs, self.jobs, self.token)

    def kill(self) -> None:
        """SIGKILL for every process of it at once."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        for process in [*family, psutil.Process(self.process.pid)]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(30)
        psutil.wait_procs(family, 30)

    def end(self) -> None:
        """Kill it, if nobody did, and remove its files."""
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until and self.process.poll() is None:
            try:
                self.cluster.check()
                if self.cluster.ask("/api/v0/nodes")["data"]["result"]["result"]:
                    return
            except (FinedeficsError, KeyError, TypeError):
                pass
            time.sleep(0.5)
        said = (self.folder / "start.log").read_text()[-2000:]
        self.end()
        raise RuntimeError(f"the head did not start: {said}")


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    started = Head()
    yield started
    started.end()


@pytest.fixture
def let_in(head: Head, monkeypatch: pytest.MonkeyPatch) -> Head:
    """This process has the head's token and address, as a user would set them."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    monkeypatch.setenv("RAY_ADDRESS", head.jobs)
    return head
