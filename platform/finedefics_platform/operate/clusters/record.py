"""What is known of the clusters that were brought up on this machine: one folder each in the node's cache."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.storage.cache import cache_folder

# Every process of a cluster carries it in its environment, and so does whatever those start: this is how the
# cluster is found again and ended, whatever Ray's processes are called and whoever adopted them. (Ray's
# processes write a title of theirs over it unless SPT_NOENV is set.)
MARK_VARIABLE = "FINEDEFICS_CLUSTER_MARK"
UP = "finedefics cluster up --local"


@dataclass(frozen=True)
class ClusterRecord:
    """A local cluster. It holds no secret: the token is in ``token_file``, which only its owner can read.

    Attributes:
        name: what the user calls it.
        address: host:port of Ray's control store, for ``RAY_ADDRESS``.
        jobs_address: http:// address of the job API and the dashboard.
        token_file: for ``RAY_AUTH_TOKEN_PATH`` (with ``RAY_AUTH_MODE=token``).
        python: version of the interpreter that runs it.
        ray: version of Ray that runs it.
        pids: its processes by role: ``gcs``, ``dashboard``, ``head`` (a raylet), ``worker-1`` and so on.
        started: seconds since 1970.
        folder: Ray's temporary folder: sockets, logs, spilled objects.
        mark: value of `MARK_VARIABLE` in all its processes.
    """

    name: str
    address: str
    jobs_address: str
    token_file: str
    python: str
    ray: str
    pids: dict[str, int]
    started: float
    folder: str
    mark: str

    @property
    def alive(self) -> bool:
        """Whether its head still lives: control store, raylet and job API."""
        return all(_lives(self.pids[role], self.mark) for role in ("gcs", "head", "dashboard"))

    def token(self) -> str:
        """The token; FinedeficsError where its file is gone or may not be read."""
        try:
            return Path(self.token_file).read_text().strip()
        except OSError as error:
            raise FinedeficsError(
                f"its token cannot be read ({error.strerror})",
                place=f"cluster {self.name}",
                cure=f"take it down (finedefics cluster down --name {self.name}) and up again",
            ) from error


def folder_of(name: str) -> Path:
    """Where the record of a cluster is kept, whether there is one or not."""
    return cache_folder() / "clusters" / name


def known() -> list[ClusterRecord]:
    """The clusters of this machine whose head lives, by name."""
    return [record for record in recorded() if record.alive]


def recorded() -> list[ClusterRecord]:
    """Every cluster that was brought up and not taken down, dead ones too, by name."""
    files = sorted((cache_folder() / "clusters").glob("*/cluster.json"))
    return [record for record in map(_read, files) if record is not None]


def started() -> list[str]:
    """Names of all clusters that were started and not taken down, of those cut off while starting too."""
    return sorted(file.parent.name for file in (cache_folder() / "clusters").glob("*/started.json"))


def named(name: str) -> ClusterRecord:
    """The cluster of that name.

    Raises:
        FinedeficsError: there is none (exit code 2), or its head is dead.
    """
    record = _read(folder_of(name) / "cluster.json")
    if record is None:
        others = ", ".join(other.name for other in known())
        cure = f"use one of: {others}" if others else f"start one: {UP} --name {name}"
        raise wrong_use("there is no such cluster on this machine", place=f"cluster {name}", cure=cure)
    if not record.alive:
        raise dead(record)
    return record


def dead(record: ClusterRecord) -> FinedeficsError:
    """The error of a cluster whose head was lost."""
    gone = [role for role in ("gcs", "head", "dashboard") if not _lives(record.pids[role], record.mark)]
    names = {"gcs": "its control store", "head": "its head's raylet", "dashboard": "its job API"}
    return FinedeficsError(
        f"its head is dead ({', '.join(names[role] for role in gone)} ended)",
        place=f"cluster {record.name}",
        cure=f"clear it: finedefics cluster down --name {record.name}",
    )


def write(record: ClusterRecord) -> None:
    """Keep the record in the cluster's folder, which must exist; readers see all of it or nothing."""
    file = folder_of(record.name) / "cluster.json"
    aside = file.with_suffix(".new")
    aside.write_text(json.dumps(asdict(record), indent=1))
    aside.replace(file)


def marked(mark: str) -> Iterator[psutil.Process]:
    """The living processes that carry this mark: Ray's own, its workers, and what jobs started."""
    for process in psutil.process_iter():
        if _carries(process, mark):
            yield process


def _lives(pid: int, mark: str) -> bool:
    try:
        return _carries(psutil.Process(pid), mark)  # a number alone may by now be somebody else's
    except psutil.Error:
        return False


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        # A dead child that nobody waited for has no environment any more, and is no process of a cluster.
        return process.environ().get(MARK_VARIABLE) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def _read(file: Path) -> ClusterRecord | None:
    try:
        return ClusterRecord(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
