"""Entries for a tracking server that is away: kept as JSON lines in the workspace, sent in order later.

A run that could not be created yet has an id of our own (``unsent-...``); the server's id is written to
``resolved.jsonl`` once it is known. Every entry may be sent twice without harm: a run is found again by its
tag, a metric is keyed by (run, name, step, time), so a connection that breaks after the server has already
stored an entry costs nothing.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

Entry = dict[str, Any]
UNSENT = "unsent-"

log = logging.getLogger(__name__)


class Spool:
    """One writer's file of unsent entries; ``folder`` is shared by all writers of a workspace.

    Args:
        folder: the workspace's spool folder.
        writer: name of the file, unique to one `Tracker`.
        server: the tracking URI without credentials, or `OWN_DATABASE`; entries are only ever sent there.
    """

    def __init__(self, folder: Path, writer: str, server: str) -> None:
        self.folder, self.server = folder, server
        self.path = folder / f"{writer}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_suffix(".lock"))

    def append(self, entries: Iterable[Entry]) -> None:
        """Keep entries behind those that already wait."""
        with self._lock, self.path.open("a") as file:
            if file.tell() == 0:
                file.write(json.dumps({"server": self.server}) + "\n")
            file.writelines(json.dumps(entry) + "\n" for entry in entries)

    def waiting(self) -> list[Entry]:
        """The entries not sent yet, oldest first."""
        return _read(self.path)[1:]

    def drain(self, send: Callable[[list[Entry]], int]) -> int:
        """Send what waits; ``send`` returns how many of the leading entries the server has.

        Returns the number of entries left. The file stays until all are sent.
        """
        if not self.path.exists():
            return 0
        with self._lock:
            waiting = self.waiting()
            left = waiting[send(waiting) :] if waiting else []
            if left:
                rewritten = self.path.with_suffix(".rewritten")
                lines = [{"server": self.server}, *left]
                rewritten.write_text("".join(json.dumps(line) + "\n" for line in lines))
                os.replace(rewritten, self.path)
            else:
                self.path.unlink(missing_ok=True)
        return len(left)

    def refuse(self, entry: Entry, reason: str) -> None:
        """Put aside an entry that the server will never take, so that it does not block those behind it."""
        file = self.folder / "refused.jsonl"
        log.warning("the tracking server refused an entry (%s); it is kept in %s", reason, file)
        _append(file, {**entry, "reason": reason})

    def resolve(self, run_id: str, server_id: str) -> None:
        """Remember the server's id of a run that was made while the server was away."""
        _append(self.folder / "resolved.jsonl", {"run": run_id, "server_id": server_id})


def spools(folder: Path) -> list[Spool]:
    """Every writer's spool with entries that wait in ``folder``."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        entries = _read(path)
        if entries and "server" in entries[0]:
            found.append(Spool(folder, path.stem, entries[0]["server"]))
    return found


def resolved(folder: Path) -> dict[str, str]:
    """Server ids by our own ids."""
    return {entry["run"]: entry["server_id"] for entry in _read(folder / "resolved.jsonl")}


def _append(path: Path, entry: Entry) -> None:
    with FileLock(path.with_suffix(".lock")), path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def _read(path: Path) -> list[Entry]:
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            log.warning("%s: a line was cut short when its writer was killed; it is skipped", path)
    return entries
