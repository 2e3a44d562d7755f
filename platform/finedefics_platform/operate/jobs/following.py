"""Following a job's log, and stopping a job: from the workspace, whatever became of its cluster."""

import time
from collections.abc import Callable
from contextlib import suppress

from finedefics.errors import FinedeficsError
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.user import user
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.operate.jobs.log import LogReader
from finedefics_platform.operate.jobs.records import LOST_AFTER_SECONDS, JobRecord, JobView
from finedefics_platform.operate.jobs.views import Clusters, view

_LOOK_SECONDS = 2.0  # between two looks at how the job stands
_SPARE_SECONDS = 60.0  # beyond the grace, before Ray is told to kill


def follow(
    workspace: Workspace,
    record: JobRecord,
    line: Callable[[str], None],
    *,
    attempt: int | None = None,
    progress: Progress = SILENT,
) -> JobView:
    """Hand out every line of a job's log as it comes, until the job has ended; returns how.

    A storage that does not answer for a while is waited for, and no line is lost by it.

    Args:
        attempt: begin with this attempt's lines.
        progress: told what the job waits for, and that the storage is away.
    """
    reader, seen, told, away = LogReader(record.log, attempt), None, "", False
    looked = -_LOOK_SECONDS
    while True:
        try:
            lines = reader.take()
            for text in lines:
                line(text)
            if time.monotonic() - looked >= (_LOOK_SECONDS if not lines else 2 * _LOOK_SECONDS):
                seen, looked = view(workspace, record), time.monotonic()
            if away:
                progress.say("the storage answers again")
            away = False
        except FinedeficsError as error:
            if not away:
                progress.event("away", thing=error.thing, place=error.place)
                progress.say(f"[yellow]{error.place} does not answer[/]: waiting for it, nothing is lost")
            away = True
        if seen is not None and seen.ended and not away:
            for text in reader.take(last=True):
                line(text)
            return seen
        if seen is not None and seen.state == "waiting" and seen.message != told:
            told = seen.message
            progress.event("waiting", job=seen.id, message=told)
            progress.say(f"waiting: {told}")
        time.sleep(reader.seconds)


def stop(workspace: Workspace, record: JobRecord, *, progress: Progress = SILENT) -> JobView:
    """Ask a job to end in order and wait until it has; one that ended before is left as it is.

    Raises:
        FinedeficsError: it is lost, or its process does not answer and its cluster neither.
    """
    seen = view(workspace, record)
    if seen.state == "lost":
        raise FinedeficsError(
            f"there is nothing to stop: {seen.message}",
            place=record.id,
            cure="submit it with --resume to go on with it",
        )
    if seen.ended:
        return seen
    attempt = seen.job["attempts"][-1]
    record.ask_to_stop(attempt["attempt"], user())
    clusters = Clusters()
    with progress.progress(f"stopping {record.id}", None):
        _tell_ray(clusters, attempt)
        until = time.monotonic() + seen.job["spec"]["stop_grace"] + _SPARE_SECONDS + LOST_AFTER_SECONDS
        while time.monotonic() < until:
            seen = view(workspace, record, clusters)
            if seen.ended:
                return seen
            time.sleep(1)
    raise FinedeficsError(
        "it does not end", place=record.id, cure="see `finedefics jobs status`, or the cluster's dashboard"
    )


def _tell_ray(clusters: Clusters, attempt: dict) -> None:
    """The cluster as well: it stops a job that has not begun; `stop.json` reaches one without its API."""
    cluster = clusters.of(attempt)
    if cluster is not None:
        with suppress(FinedeficsError), cluster.speaking():
            cluster.client().stop_job(attempt["ray_id"])
