"""Exclusive work: of several drivers, on whatever machines, one does it and the others are told who has it.

A claim is a small file. Whoever wants the lease writes one and looks at what is there: alone, it has the
lease; otherwise it takes its claim back and tries again later. Both of two that ask at once see each other,
so no two ever hold it; this asks of a store no more than that a file which was written is seen. A holder
renews its claim; one that is not renewed for `TTL_SECONDS`, by the store's own clock, is dead. Whether a
process of this machine lives is known, however long it was stopped.
"""

import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from finedefics.errors import FinedeficsError
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage.location import Location
from finedefics_platform.base.user import user

TTL_SECONDS = 60.0
BEAT_SECONDS = 15.0
_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Holder:
    """Who has a lease."""

    who: str  # user@host, process 123
    since: str  # ISO time by the holder's clock

    def __str__(self) -> str:
        return f"{self.who}, since {self.since[:16].replace('T', ' ')} UTC"


class Lease:
    """A lease that is held; its claim is renewed in a thread."""

    def __init__(self, claim: Location, content: dict[str, Any]) -> None:
        self._claim, self._content = claim, content
        self._renewed = time.monotonic()
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Before something is made final: FinedeficsError where the lease ran out and may be another's."""
        if self._lost or not self._claim.exists():
            raise FinedeficsError(
                "this process was cut off from the storage for too long, and its work may be another's now",
                place=str(self._claim.parent),
                cure="run the same command again: it goes on from what was saved",
            )

    def _renew(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                late = time.monotonic() - self._renewed > TTL_SECONDS
                if not self._claim.exists():
                    self._lost = True
                    return
                self._content["beats"] += 1
                self._claim.write_json(self._content)
                # Whoever found the claim that old may have taken over while it was renewed.
                if late and self._is_taken_over():
                    self._lost = True
                    self._claim.delete()
                    return
                self._renewed = time.monotonic()
            except FinedeficsError:  # away for a moment, perhaps: `check` counts the seconds
                continue

    def _is_taken_over(self) -> bool:
        self._stop.wait(_POLL_SECONDS)
        return any(content["holds"] for _, content in _others(self._claim.parent, self._claim))

    def _end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._claim.delete()


@contextmanager
def lease(place: Location, work: str, *, wait: bool = True, progress: Progress = SILENT) -> Iterator[Lease]:
    """Hold the lease of ``place`` while the block runs.

    Args:
        place: a folder of its own for the claims, such as ``runs/<key>/lease``.
        work: what is done under it, for messages: "run joint-1a2b".
        wait: where somebody has it, wait for them and say who; else raise at once.
        progress: told who is waited for.

    Raises:
        FinedeficsError: somebody has it (``wait`` False), or the place cannot be written to.
    """
    held = _obtain(place, work, wait=wait, progress=progress)
    try:
        yield held
    finally:
        held._end()


def holder(place: Location) -> Holder | None:
    """Who holds the lease of ``place``; None if nobody does."""
    living = [content for _, content in _others(place, None) if content["holds"]]
    return Holder(living[0]["who"], living[0]["since"]) if living else None


def _obtain(place: Location, work: str, *, wait: bool, progress: Progress) -> Lease:
    claim = place / f"{secrets.token_hex(8)}.json"
    told: Holder | None = None
    while True:
        content = {**_self(), "holds": False, "beats": 0}
        claim.write_json(content)
        others = _others(place, claim)
        if not others:
            content["holds"] = True
            claim.write_json(content)
            return Lease(claim, content)
        claim.delete()
        holding = next((Holder(c["who"], c["since"]) for _, c in others if c["holds"]), None)
        if holding is None:  # others ask at the same moment: the next to look alone has it
            time.sleep(random.uniform(0.05, 0.5))
            continue
        if not wait:
            raise FinedeficsError(
                f"{work} is being done by {holding}", place=str(place.parent), cure="wait for it, or stop it"
            )
        if holding != told:
            progress.event("waiting", work=work, holder=holding.who, since=holding.since)
            progress.say(f"waiting: {work} is being done by {holding}")
            told = holding
        time.sleep(random.uniform(0.5, 1.0) * _POLL_SECONDS)


def _others(place: Location, own: Location | None) -> list[tuple[Location, dict[str, Any]]]:
    """Living claims of others; dead ones are removed on the way."""
    found = []
    for claim in place.children():
        if claim == own:
            continue
        try:
            content, renewed = claim.read_json(), claim.modified()
        except (FileNotFoundError, ValueError):
            continue
        if content["machine"] == _machine():
            dead = _started(content["pid"]) != content["started"]
        else:
            now = own.modified() if own is not None else datetime.now(UTC)
            dead = (now - renewed).total_seconds() > TTL_SECONDS
        if dead:
            claim.delete()
        else:
            found.append((claim, content))
    return found


def _self() -> dict[str, Any]:
    return {
        "who": f"{user()}@{socket.gethostname()}, process {os.getpid()}",
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def _started(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


@cache
def _machine() -> str:
    """This machine since its start, and this container: process numbers mean nothing beyond."""
    boot, processes = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [socket.gethostname()]
    parts += [boot.read_text().strip()] if boot.is_file() else []
    parts += [str(processes.stat().st_ino)] if processes.exists() else []
    return "/".join(parts)
