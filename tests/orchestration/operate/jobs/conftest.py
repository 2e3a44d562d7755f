"""A cluster of this machine, with token authentication, for tests of jobs: one a module, ended with it."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from finedefics_platform.operate.clusters.local import LocalCluster, down, up
from finedefics_platform.operate.clusters.record import marked
from finedefics_platform.operate.connection import Cluster


class Head:
    """One node with eight logical CPUs that takes jobs from whoever has the token.

    It is recorded in a cache of its own: the tests' processes know its token only where they are told.
    """

    def __init__(self) -> None:
        self._name = f"jobs-{secrets.token_hex(3)}"
        self._cache = Path(tempfile.mkdtemp(prefix="cache-"))
        with self._own_cache():
            record = up(LocalCluster(name=self._name, workers=0, cpus_per_worker=8))
        self.folder, self.mark = Path(record.folder), record.mark
        self.address, self.jobs, self.token = record.address, record.jobs_address.rstrip("/"), record.token()

    @property
    def cluster(self) -> Cluster:
        """As a command speaks to it."""
        return Cluster(self.jobs, self.jobs, self.token)

    def kill(self) -> None:
        """SIGKILL for every process of it at once."""
        family = list(marked(self.mark))
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, 30)

    def end(self) -> None:
        """Take it down, whoever killed it before, and remove its files; once more does nothing."""
        if self._cache.exists():
            with self._own_cache():
                down(self._name)
        shutil.rmtree(self._cache, ignore_errors=True)

    @contextmanager
    def _own_cache(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FINEDEFICS_CACHE", str(self._cache))
            yield


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
