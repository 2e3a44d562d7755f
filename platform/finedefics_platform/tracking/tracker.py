"""Records runs in MLflow without ever stopping the work it records.

One run a stage, trial or arm, under one parent a pipeline. Entries are buffered and sent in batches; while
the server is away they are kept in the workspace and sent at the next flush, at the end, or by
``finedefics runs sync``.
"""

import json
import logging
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, strftime
from time import time as now
from typing import Any, Literal

from finedefics.errors import FinedeficsError
from finedefics_platform.base.reasons import in_a_line
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.tracking.delivery import WORKSPACE, Delivery, keyed
from finedefics_platform.tracking.facts import flatten, system_facts
from finedefics_platform.tracking.mlflow_client import (
    check_writable,
    experiment_id,
    is_refusal,
    open_client,
    shown,
)
from finedefics_platform.tracking.notes import NOTE, cut
from finedefics_platform.tracking.own_database import is_own_database, is_workspace
from finedefics_platform.tracking.reachability import unanswered
from finedefics_platform.tracking.sources import ENVIRONMENT, source_tags
from finedefics_platform.tracking.spool import UNSENT, Entry, Spool, resolved, spools

Status = Literal["FINISHED", "FAILED", "KILLED"]
OWN_DATABASE = "the workspace's own database"
FAILURE = "finedefics.failure"  # the tag that says in a line why a run did not finish
BUFFERED_ENTRIES = 200
SECONDS_BETWEEN_SENDS = 2.0
# An unreachable host can cost a whole timeout, so it is not asked again at every batch.
SECONDS_BEFORE_ASKING_AGAIN = 30.0

log = logging.getLogger(__name__)


class Tracker:
    """Writes the runs of one experiment; safe to share between threads, one for each process that writes.

    Args:
        workspace: names the tracking URI and holds what could not be sent.
        experiment_name: the MLflow experiment (`Tracking.experiment`), made if it does not exist.

    Raises:
        FinedeficsError: MLFLOW_TRACKING_URI is not the address of a server or database, the experiment was
            deleted, the workspace's storage does not answer, or a package to reach it is missing.
    """

    def __init__(self, workspace: Workspace, experiment_name: str) -> None:
        self._workspace, self._experiment_name = workspace, experiment_name
        self._client = open_client(workspace)
        self._identity = workspace.id
        self._lock = threading.RLock()
        self._ask_again, self._away = 0.0, False
        self._check_experiment()
        writer = f"{strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
        self._spool = Spool(_spool_folder(workspace), writer, destination(workspace))
        self._delivery = Delivery(workspace, self._client, self._spool)
        self._buffer: list[Entry] = []
        self._last_sent = monotonic()

    @property
    def experiment_name(self) -> str:
        """The MLflow experiment whose runs it writes."""
        return self._experiment_name

    def parent(
        self,
        name: str,
        *,
        key: str,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        fresh: bool = False,
        time: float | None = None,
    ) -> str:
        """Open the run of a whole pipeline and return its id.

        This workspace's run with the same ``key`` is continued, not made a second time, unless ``fresh``.
        Command, commit and user are added to the tags, and package versions as the artefact
        ``environment.json``; nested parameters become dotted keys.
        ``time`` is when it began (Unix seconds, default: now).
        """
        told = flatten({**(tags or {}), "key": key})
        return self._open(name, None, told, params, key=key, fresh=fresh, time=time, texts=environment())

    def child(
        self,
        parent_id: str,
        name: str,
        *,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        time: float | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> str:
        """Open a run (a stage, a trial, an arm) under a parent; its name is its identity there.

        One that is there already is continued. ``time`` is when it began (Unix seconds, default: now);
        ``texts`` are artefacts by file name, written where the run is new.
        """
        told = flatten(tags or {})
        return self._open(name, parent_id, told, params, key=None, fresh=False, time=time, texts=texts or {})

    def metrics(self, run_id: str, step: int, values: Mapping[str, float], time: float | None = None) -> None:
        """Record values at a step. Buffered; never raises because of the server.

        Args:
            time: when it happened (Unix seconds). An event that has its time may be told again, by a log that
                is read again or a step that is repeated after a restart: the first value of a step stays.
                Without it, the values are measured now and recorded, whatever was recorded before.
        """
        numbers = {name: float(value) for name, value in values.items()}
        entry: Entry = {"run": run_id, "entry": "metrics", "step": int(step), "values": numbers}
        self._add({**entry, "time": _milliseconds(time), "once": time is not None})

    def tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags on a run (under ``finedefics.`` unless they say ``mlflow.``)."""
        self._add({"run": run_id, "entry": "tags", "tags": _namespaced(flatten(tags))})

    def describe(self, run_id: str, note: str) -> None:
        """Set what MLflow's page of the run says about it (Markdown; a long one is cut at a line's end)."""
        self._add({"run": run_id, "entry": "tags", "tags": {NOTE: cut(note)}})

    def inputs(self, run_id: str, dataset: str, context: str, *, pictures: int | None = None) -> None:
        """Say which dataset went into a run, as MLflow's pages and searches have it.

        Args:
            dataset: ``name@digest`` of the version.
            context: "training" or "evaluation".
            pictures: how many rows it gave.
        """
        entry: Entry = {"run": run_id, "entry": "inputs", "dataset": dataset, "context": context}
        self._add({**entry, "pictures": pictures})

    def artifact(self, run_id: str, path: str | Path | Location, artifact_path: str | None = None) -> None:
        """Upload a file or folder. It must stay where it is until it is sent: flushed, or synced later."""
        place = self._workspace.name_of(Location.of(path))
        self._add({"run": run_id, "entry": "artifact", "path": place, "artifact_path": artifact_path})

    def finish(
        self,
        run_id: str,
        status: Status = "FINISHED",
        *,
        why: str | BaseException | None = None,
        time: float | None = None,
    ) -> None:
        """Close a run and send everything that waits.

        Args:
            why: it did not finish, as a tag in one line.
            time: when it ended (Unix seconds).
        """
        if why is not None and status != "FINISHED":
            self.tags(run_id, {FAILURE: why if isinstance(why, str) else in_a_line(why)})
        self._add({"run": run_id, "entry": "finish", "status": status, "time": _milliseconds(time)})
        self.flush()

    def flush(self) -> bool:
        """Try to send everything now; False if something had to be kept for later."""
        with self._lock:
            self._ask_again = 0.0
            return self._send()

    def find_run(self, key: str) -> str | None:
        """Id of this workspace's finished run of this key, None if there is none or the server is away."""
        try:
            experiment = self._client.get_experiment_by_name(self._experiment_name)
            if experiment is None:
                return None
            wanted = f"{keyed(key, self._identity)} and attributes.status = 'FINISHED'"
            runs = self._client.search_runs([experiment.experiment_id], wanted, max_results=1)
        except Exception as error:
            if is_refusal(error):
                raise
            self._note_absence(error)
            return None
        return runs[0].info.run_id if runs else None

    def waiting(self) -> int:
        """Entries kept for later because the server was away."""
        return len(self._spool.waiting())

    def _check_experiment(self) -> None:
        """A deleted experiment is a mistake to report at the start; a server that is away is not."""
        check_writable(self._workspace)
        if reason := unanswered(self._workspace.tracking_uri):  # MLflow itself would try for a minute
            self._note_absence(reason)
            return
        try:
            experiment_id(self._client, self._workspace, self._experiment_name)
        except FinedeficsError:
            raise
        except Exception as error:
            self._note_absence(error)

    def _open(
        self,
        name: str,
        parent: str | None,
        tags: dict[str, str],
        params: Mapping[str, Any] | None,
        *,
        key: str | None,
        fresh: bool,
        time: float | None,
        texts: Mapping[str, str],
    ) -> str:
        run_id = f"{UNSENT}{uuid.uuid4().hex}"
        entry: Entry = {"run": run_id, "entry": "run", "experiment": self._experiment_name, "name": name}
        entry |= {"parent": parent, "key": key, "fresh": fresh, "time": _milliseconds(time)}
        entry |= {"tags": source_tags() | _namespaced(tags) | {WORKSPACE: self._identity}}
        entry |= {"params": flatten(params or {}), "texts": dict(texts)}
        with self._lock:
            self._buffer.append(entry)
            self._send()
            try:
                return self._delivery.server_id(run_id)
            except KeyError:
                return run_id

    def _add(self, entry: Entry) -> None:
        with self._lock:
            self._buffer.append(entry)
            full = len(self._buffer) >= BUFFERED_ENTRIES
            if full or monotonic() - self._last_sent > SECONDS_BETWEEN_SENDS:
                self._send()

    def _send(self) -> bool:
        """Send the spool, then the buffer; whatever stays goes to the spool, behind what waits there."""
        self._last_sent = monotonic()
        entries, self._buffer = self._buffer, []
        if self._last_sent < self._ask_again or (self._away and unanswered(self._workspace.tracking_uri)):
            self._spool.append(entries)
            return False
        left = self._spool.drain(self._delivery.send)
        settled = self._delivery.send(entries) if left == 0 else 0
        if settled < len(entries):
            self._spool.append(entries[settled:])
        if left or settled < len(entries):
            self._note_absence(self._delivery.failure)
            return False
        self._away = False
        return True

    def _note_absence(self, error: Exception | str | None) -> None:
        self._away = True
        if self._ask_again == 0.0:
            log.debug("the tracking server is away: %s", error)
        self._ask_again = monotonic() + SECONDS_BEFORE_ASKING_AGAIN


def environment() -> dict[str, str]:
    """What ran, as an artefact of a run: too much for tags, which a person reads first."""
    return {ENVIRONMENT: json.dumps(system_facts(), indent=1) + "\n"}


@dataclass(frozen=True)
class Synced:
    """What `sync` did: entries sent now, entries still waiting, and writers bound to another server."""

    sent: int
    waiting: int
    other_servers: tuple[str, ...]


def sync(workspace: Workspace) -> Synced:
    """Send what earlier runs could not send, to the server it was meant for.

    Raises:
        FinedeficsError: MLFLOW_TRACKING_URI is not the address of a server or database.
    """
    if not is_workspace(workspace):
        return Synced(0, 0, ())
    client, here = open_client(workspace), destination(workspace)
    sent = waiting = 0
    others: set[str] = set()
    for spool in spools(_spool_folder(workspace)):
        before = len(spool.waiting())
        if spool.server != here:
            others.add(spool.server)
            waiting += before
            continue
        left = spool.drain(Delivery(workspace, client, spool).send)
        sent, waiting = sent + before - left, waiting + left
    return Synced(sent, waiting, tuple(sorted(others)))


def server_run_id(workspace: Workspace, run_id: str) -> str:
    """The server's id of a run that may have been opened while the server was away (else ``run_id``)."""
    return resolved(_spool_folder(workspace)).get(run_id, run_id) if is_workspace(workspace) else run_id


def destination(workspace: Workspace) -> str:
    """Where entries are bound for, as the spool writes it down: its own database moves with a workspace."""
    return OWN_DATABASE if is_own_database(workspace) else shown(workspace.tracking_uri)


def _spool_folder(workspace: Workspace) -> Path:
    return workspace.state / "spool"


def _namespaced(tags: Mapping[str, str]) -> dict[str, str]:
    known = ("mlflow.", "finedefics.")
    return {key if key.startswith(known) else f"finedefics.{key}": value for key, value in tags.items()}


def _milliseconds(time: float | None) -> int:
    """MLflow's unit; None is now."""
    return round((now() if time is None else time) * 1000)
