"""The cluster that a command speaks to: which one, with which token, and whether it answers as ours do."""

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finedefics.errors import FinedeficsError, reason_of, wrong_use
from finedefics_platform.base.control_store import (
    ask_control_store,
    check_versions,
    refused_token,
    token_of_environment,
)
from finedefics_platform.operate.clusters.record import UP, ClusterRecord, known, named, recorded

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

KNOCK_SECONDS = 5.0
ANSWER_SECONDS = 20.0
CLOCK_SECONDS = 5.0  # a difference worth a word; an answer's time has whole seconds
_WRONG_ADDRESS = "correct --cluster or RAY_ADDRESS (http://host:port of the job API, usually port 8265)"


@dataclass(frozen=True)
class Cluster:
    """A cluster by its job API.

    Attributes:
        name: as the user named it.
        address: http:// or https:// address of the job API.
        token: sent with every request; never shown.
        python: interpreter of its nodes: that of a cluster on this machine is known, whatever is on its PATH.
    """

    name: str
    address: str
    token: str | None = field(default=None, repr=False)
    python: str = "python"

    def ask(self, path: str, *, seconds: float = ANSWER_SECONDS) -> Any:
        """The JSON that the API answers to GET.

        Raises:
            FinedeficsError: nobody answers, or the token is missing or wrong.
        """
        return self._ask(path, seconds)[0]

    def check(self) -> float:
        """That it answers, takes the token and runs our versions; returns how far its clock is ahead (s)."""
        asked = time.time()
        version, date = self._ask("/api/version", ANSWER_SECONDS)
        between = (asked + time.time()) / 2
        if "ray_version" not in version:
            raise FinedeficsError("no job API of Ray answers here", place=self.address, cure=_WRONG_ADDRESS)
        about = self.ask("/api/v0/cluster_metadata").get("data", {})
        check_versions(self.address, version["ray_version"], str(about.get("pythonVersion", "")))
        return clock_difference(date, between)

    def client(self) -> "JobSubmissionClient":
        """Ray's own client, let in by the token, whatever RAY_AUTH_MODE says; `check` first: it is loud."""
        import logging

        from ray.job_submission import JobSubmissionClient

        for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(name).setLevel(logging.ERROR)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else None
        with self.speaking():
            return JobSubmissionClient(self.address, headers=headers)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """What Ray's client raises inside becomes one line."""
        try:
            yield
        except FinedeficsError:
            raise
        except Exception as error:  # RuntimeError, requests' own and Ray's AuthenticationError
            text = str(error)
            if "Authentication" in type(error).__name__ or "status code 401" in text:
                raise refused_token(self.address, self.token) from None
            raise FinedeficsError(
                f"the job API did not do this ({reason_of(error)})",
                place=self.address,
                cure="see the cluster's dashboard, and try again",
            ) from error

    def _ask(self, path: str, seconds: float) -> tuple[Any, str | None]:
        parts = urlsplit(self.address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((str(parts.hostname), port), timeout=KNOCK_SECONDS).close()
            request = urllib.request.Request(self.address + path)
            if self.token:
                request.add_header("Authorization", f"Bearer {self.token}")
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return json.loads(answer.read()), answer.headers.get("Date")
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise refused_token(self.address, self.token) from None
            if error.code == 404:
                return {}, None
            reason = f"answers {error.code}"
        except ValueError:
            reason = "answers something else than a job API does"
        except OSError as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        raise FinedeficsError(f"no answer ({reason})", place=self.address, cure=_WRONG_ADDRESS)


def find_cluster(chosen: str | None = None) -> Cluster:
    """The cluster of ``--cluster``, else of RAY_ADDRESS, else the one local cluster that is up.

    Args:
        chosen: a local cluster's name, http:// address of a job API, or host:port of a control store.

    Raises:
        FinedeficsError: none is named and none is up, or several are (exit code 2); or it does not answer.
    """
    chosen = chosen or os.environ.get("RAY_ADDRESS")
    if chosen:
        return _at(chosen) if "://" in chosen or ":" in chosen else _of(named(chosen))
    there = known()
    if len(there) == 1:
        return _of(there[0])
    if there:
        names = ", ".join(record.name for record in there)
        raise wrong_use(f"several clusters are up ({names})", place="--cluster", cure="name one of them")
    raise wrong_use(
        "no cluster is named, and none is up on this machine",
        place="--cluster",
        cure=f"start one ({UP}), or give --cluster or RAY_ADDRESS (http://host:port)",
    )


def clock_difference(date: str | None, now: float) -> float:
    """Seconds by which the clock of an answer's ``Date`` is ahead of ``now``; 0 below `CLOCK_SECONDS`."""
    try:
        difference = parsedate_to_datetime(date or "").timestamp() + 0.5 - now
    except (TypeError, ValueError):
        return 0.0
    return difference if abs(difference) > CLOCK_SECONDS else 0.0


def _of(record: ClusterRecord) -> Cluster:
    return Cluster(record.name, record.jobs_address.rstrip("/"), record.token(), sys.executable)


def _at(address: str) -> Cluster:
    address = address.rstrip("/")
    for record in recorded():  # whoever brought it up here needs no token in the environment
        if address in (record.address, record.jobs_address.rstrip("/")) and record.alive:
            return _of(record)
    token = token_of_environment()
    if address.startswith(("http://", "https://")):
        parts = urlsplit(address)
        if parts.username or parts.password or not parts.hostname:
            raise wrong_use("no address of a job API", place="--cluster", cure="write http://host:port")
        return Cluster(address, address, token)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise wrong_use("no address of a cluster", place=address, cure=_WRONG_ADDRESS)
    try:
        told = ask_control_store(address, token)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FinedeficsError(f"no answer ({reason})", place=address, cure=_WRONG_ADDRESS) from error
    if told is not None and told.jobs:
        # As the cluster has it: an address of any interface is that of the host which was asked.
        jobs_host, _, jobs_port = told.jobs.rpartition(":")
        jobs_host = host if jobs_host in ("0.0.0.0", "::") else jobs_host
        return Cluster(address, f"http://{jobs_host}:{jobs_port}", token)
    return Cluster(address, f"http://{address}", token)  # perhaps it is the job API's own port
