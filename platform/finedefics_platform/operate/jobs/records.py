"""What is kept of a job, in the workspace: ``jobs/<id>/``, so that it outlives job, head and cluster.

``job.json`` is written by whoever submits: what runs, when it was submitted, and each attempt with its
cluster. ``status.json`` is written by the supervisor on the cluster, with a heartbeat. ``stop.json`` asks an
attempt to stop. ``log/`` is the output. None holds a secret.

Clocks of two machines are never compared: ages are told by the storage's own clock, which stamps every file.
"""

import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace

HEARTBEAT_SECONDS = 3.0
LOST_AFTER_SECONDS = 45.0  # without a heartbeat: a store that is slow for a moment is no lost job
ENDED = ("succeeded", "failed", "stopped")


@dataclass(frozen=True)
class JobRecord:
    """A job as it is kept."""

    place: Location

    @property
    def id(self) -> str:
        """The submission id: the spec's name and a digest."""
        return self.place.name

    @property
    def log(self) -> Location:
        """Folder of the log's pieces."""
        return self.place / "log"

    def job(self) -> dict[str, Any]:
        """``job.json``; FileNotFoundError where nothing was submitted."""
        return self._json("job.json", needed=True)

    def status(self) -> dict[str, Any]:
        """``status.json`` of the newest attempt; empty where its supervisor has not begun."""
        return self._json("status.json")

    def stop(self) -> dict[str, Any]:
        """``stop.json``; empty where nobody asked."""
        return self._json("stop.json")

    def write_job(self, content: dict[str, Any]) -> None:
        """Replace ``job.json``."""
        (self.place / "job.json").write_json(content)

    def write_status(self, content: dict[str, Any]) -> None:
        """Replace ``status.json``."""
        (self.place / "status.json").write_json(content)

    def ask_to_stop(self, attempt: int, who: str) -> None:
        """Write ``stop.json``, which the attempt's supervisor looks for."""
        (self.place / "stop.json").write_json({"attempt": attempt, "who": who, "asked": now()})

    def submitted_at(self) -> datetime:
        """When ``job.json`` was written last, by the storage's clock."""
        return (self.place / "job.json").modified()

    def heartbeat_at(self) -> datetime | None:
        """When the supervisor was last heard of, by the storage's clock; None where it never was."""
        try:
            return (self.place / "status.json").modified()
        except FileNotFoundError:
            return None

    def _json(self, name: str, *, needed: bool = False) -> dict[str, Any]:
        try:
            return (self.place / name).read_json()
        except FileNotFoundError:
            if needed:
                raise
            return {}


@dataclass(frozen=True)
class JobView:
    """How a job stands, told from what is kept and, where its cluster answers, from the cluster.

    Attributes:
        state: waiting (its process has not begun), running, stopping, succeeded, failed, stopped, or lost:
            nobody has heard of it since its last heartbeat, and its cluster does not know better.
        age: seconds since it was submitted, by the storage's clock.
        silent: seconds since the last heartbeat, None before the first.
        message: why it waits, failed or is lost.
    """

    id: str
    state: str
    attempt: int
    age: float
    silent: float | None
    job: dict[str, Any]
    status: dict[str, Any] = field(default_factory=dict)
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of this attempt."""
        return self.state in (*ENDED, "lost")


def find_job(workspace: Workspace, name: str) -> JobRecord:
    """The job of an id, or of the beginning of one; FinedeficsError (exit code 2) for none or several."""
    exact = JobRecord(workspace.jobs / name) if _is_name(name) else None
    if exact is not None and (exact.place / "job.json").is_file():
        return exact
    found = [record for record in all_jobs(workspace) if record.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(record.id for record in found[:3])
        raise wrong_use(f"several jobs begin so ({ids})", place=name, cure="give more of the id")
    raise wrong_use(
        "there is no such job",
        place=f"{name} in {workspace.jobs}",
        cure="see `finedefics jobs list`, or set FINEDEFICS_HOME to the workspace it was submitted from",
    )


def all_jobs(workspace: Workspace) -> list[JobRecord]:
    """Every job of the workspace, by name."""
    places = workspace.jobs.children()
    return [JobRecord(place) for place in places if (place / "job.json").is_file()]


def clock_of(workspace: Workspace) -> datetime:
    """Now, by the storage's own clock; this machine's where nothing can be written."""
    probe = workspace.jobs / f".now-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"")
        return probe.modified()
    except (FinedeficsError, FileNotFoundError):
        return datetime.now(UTC)
    finally:
        with suppress(FinedeficsError):
            probe.delete()


def now() -> str:
    """This machine's time, to be read by people."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _is_name(text: str) -> bool:
    return bool(text) and "/" not in text and not text.startswith(".")
