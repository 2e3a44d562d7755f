"""Doing the steps of a study: as many at a time as the cluster has room for, each once, whatever fails."""

import os
import queue
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape

from finedefics.errors import FinedeficsError
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.events import EventWriter
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.study.plan import Plan
from finedefics_platform.study.records import finished, to_do, write_record
from finedefics_platform.study.steps import Result, Room, Step, Train

SECONDS_TO_STOP = 60.0


@dataclass(frozen=True)
class Outcome:
    """What came of a study's steps.

    Attributes:
        records: of the finished steps, by address.
        failed: why steps failed, by address; steps that rest on them are there with the same reason.
        done, reused: how many steps were done now, and how many were finished before.
    """

    records: dict[str, dict[str, Any]]
    failed: dict[str, str]
    done: int
    reused: int


@dataclass
class Capacity:
    """What the cluster has, less what runs.

    A training run reads its pictures in tasks of their own, for which it leaves a CPU free; but not where Ray
    was told of more CPUs than this machine has, and steps are held to those that it has.
    """

    cpus: float
    gpus: float
    reading: float
    running: dict[str, tuple[float, float]] = field(default_factory=dict)
    at_once: int | None = None

    def fits(self, step: Step) -> bool:
        """Whether the step can run now; one that is larger than everything there is runs alone."""
        if not self.running:
            return True
        if self.at_once is not None and len(self.running) >= self.at_once:
            return False
        cpus, gpus = self._of(step)
        used = [sum(each) for each in zip(*self.running.values(), strict=True)]
        return used[0] + cpus <= self.cpus and used[1] + gpus <= self.gpus

    def take(self, step: Step) -> None:
        self.running[step.address] = self._of(step)

    def give_back(self, step: Step) -> None:
        del self.running[step.address]

    def _of(self, step: Step) -> tuple[float, float]:
        if step.kind == "train":
            return step.cpus + self.reading, step.gpus
        return step.cpus, 1.0 if step.kind == "evaluate" and self.gpus >= 1 else step.gpus


def capacity(at_once: int | None = None) -> Capacity:
    """Of the cluster this process is connected to."""
    import ray

    total = ray.cluster_resources()
    cpus, cores = total.get("CPU", 1.0), float(os.cpu_count() or 1)
    alone = sum(node["Alive"] for node in ray.nodes()) == 1 and cores < cpus
    return Capacity(
        min(cpus, cores) if alone else cpus, total.get("GPU", 0.0), 0.0 if alone else 1.0, at_once=at_once
    )


def carry_out(
    workspace: Workspace, plan: Plan, place: Location, progress: Progress, at_once: int | None = None
) -> Outcome:
    """Do what is not done yet; a step that fails stops those that rest on it, and no others.

    Args:
        place: of the study; its ``events/`` get a line when a step starts, finishes or fails.
        at_once: at most so many steps at a time.
    """
    records = finished(workspace, plan)
    steps = to_do(workspace, plan, records)
    reused = sum(address in records for address in plan.steps) - sum(s.address in records for s in steps)
    for step in steps:
        records.pop(step.address, None)
    if not steps:
        return Outcome(records, {}, 0, reused)
    ensure_ray(progress=progress)
    events = place / "events"
    writer = EventWriter(events, 1 + len({way.partition("-")[0] for way in events.files()}))
    try:
        work = _Work(workspace, plan, records, steps, writer, progress, capacity(at_once))
        work.do()
    finally:
        writer.close()
    return Outcome(records, work.failed, len(steps) - len(work.failed), reused)


class _Work:
    """The steps still to do, and the threads that do them; all but the threads' work is the caller's."""

    def __init__(
        self,
        workspace: Workspace,
        plan: Plan,
        records: dict[str, dict[str, Any]],
        steps: list[Step],
        writer: EventWriter,
        progress: Progress,
        capacity: Capacity,
    ) -> None:
        self.workspace, self.records, self.capacity = workspace, records, capacity
        self.waiting, self.total, self.name = list(steps), len(steps), plan.study.name
        self.writer, self.progress = writer, progress
        self.results = dict(plan.given) | {address: record["result"] for address, record in records.items()}
        self.failed: dict[str, str] = {}
        self.stop = threading.Event()
        self.ended: queue.Queue[tuple[Step, float, Result | BaseException]] = queue.Queue()
        self.threads: dict[str, threading.Thread] = {}

    def do(self) -> None:
        """Until every step is finished or cannot be; an interrupt ends those that run, in order."""
        with self.progress.progress(f"study {self.name}: steps", self.total) as advance:
            try:
                while self.waiting or self.capacity.running:
                    self._start_what_fits(advance)
                    if self.capacity.running:
                        self._take(*self.ended.get())
                        advance(1)
            except BaseException:
                self.stop.set()
                deadline = time.monotonic() + SECONDS_TO_STOP
                for thread in self.threads.values():
                    thread.join(max(0.0, deadline - time.monotonic()))
                self.writer.write("interrupted")
                raise

    def _start_what_fits(self, advance: Any) -> None:
        for step in list(self.waiting):
            cause = next((self.failed[need] for need in step.needs if need in self.failed), None)
            if cause is not None:
                self.waiting.remove(step)
                self._fail(step, cause)
                advance(1)
            elif all(need in self.results for need in step.needs) and self.capacity.fits(step):
                self.waiting.remove(step)
                self._start(step)

    def _start(self, step: Step) -> None:
        self.capacity.take(step)
        self._tell("step_started", step)
        thread = threading.Thread(target=self._work, args=(step,), name=step.title, daemon=True)
        self.threads[step.address] = thread
        thread.start()

    def _work(self, step: Step) -> None:
        """In the step's own thread."""
        began = time.monotonic()
        try:
            with ExitStack() as bars:
                advance = bars.enter_context(self.progress.progress(step.title, _size(step)))
                found: Result | BaseException = step.task.do(
                    Room(self.workspace, self.stop, self.results), advance
                )
        except BaseException as error:  # carried over to the caller's thread
            found = error
        self.ended.put((step, time.monotonic() - began, found))

    def _take(self, step: Step, seconds: float, found: Result | BaseException) -> None:
        self.capacity.give_back(step)
        del self.threads[step.address]
        if isinstance(found, BaseException):
            self._fail(step, _reason(found))
            self.progress.say(f"  [red]failed[/] {escape(step.title)}: {escape(_reason(found))}")
            return
        self.records[step.address] = write_record(self.workspace, step, found, seconds)
        self.results[step.address] = found
        self._tell("step_finished", step, seconds=seconds, result=found)
        left = len(self.waiting) + len(self.capacity.running)
        self.progress.say(f"  {escape(step.title)} [dim]({seconds:.0f} s, {left} left)[/]")

    def _fail(self, step: Step, reason: str) -> None:
        self.failed[step.address] = reason
        self._tell("step_failed", step, error=reason)

    def _tell(self, name: str, step: Step, **more: Any) -> None:
        fields = {"address": step.address, "kind": step.kind, "title": step.title, **more}
        self.writer.write(name, **fields)
        self.progress.event(name, **fields)


def _size(step: Step) -> int | None:
    if not isinstance(step.task, Train):
        return None
    return sum(stage["steps"] for stage in step.task.document["stages"])


def _reason(error: BaseException) -> str:
    """One line: of the mistake that a user can mend, if it was one."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, FinedeficsError):
        return str(cause)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''}".rstrip(": ")
