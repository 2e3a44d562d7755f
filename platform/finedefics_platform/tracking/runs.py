"""Reads recorded runs back, as a list and one by one; and marks them deleted."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.names import meant
from finedefics_platform.base.storage import Location, holder
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.tracking.delivery import KEY, PARENT, WORKSPACE, keyed, quoted
from finedefics_platform.tracking.mlflow_client import answered, is_refusal, open_client, shown
from finedefics_platform.tracking.own_database import has_records, is_workspace, nothing_recorded
from finedefics_platform.tracking.tracker import FAILURE, server_run_id

if TYPE_CHECKING:
    from mlflow.entities import Run

KIND = "finedefics.kind"
PIPELINE, STAGE, SEARCH, TRIAL, STUDY, EVALUATION = (
    "pipeline",
    "stage",
    "search",
    "trial",
    "study",
    "evaluation",
)
LOST = "lost"  # no process has it any more, and none has said how it ended
NEWEST_FIRST = ["attributes.start_time DESC"]
LOOKED_THROUGH = 5000  # runs in which an abbreviated id is searched
_PAGE = 1000
_ACCURACY = "accuracy."  # begins the metrics of an evaluation: ``accuracy.<answer>.<group>``
_SHOWN = 5


@dataclass(frozen=True)
class RunRecord:
    """One recorded run; ``metrics`` are last values, times are milliseconds since the epoch.

    ``status`` is running, finished, failed, killed, deleted or lost: what MLflow has for running, and whose
    driver ended without a word.
    """

    run_id: str
    name: str
    status: str
    started: int
    ended: int | None
    parent: str | None
    key: str | None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long the run took, or has been running by now."""
        return max(0.0, (time.time() * 1000 if self.ended is None else self.ended) - self.started) / 1000

    @property
    def kind(self) -> str:
        """pipeline, stage, search, trial, study, study arm, evaluation, base; else ``other``."""
        return self.tags.get(KIND) or (STAGE if self.parent else PIPELINE if self.key else "other")

    @property
    def handle(self) -> str:
        """What a list calls it, and every command takes: its key, a stage's name, else its id."""
        return self.key or self.name or self.run_id

    @property
    def failure(self) -> str | None:
        """Why it did not finish and how to go on with it, in a line; None where it did or runs."""
        if self.status in ("finished", "running", "scheduled"):
            return None
        if self.tags.get("finedefics.stopped_early"):
            return "stopped early by its search"
        why = "its process is gone" if self.status == LOST else self.tags.get(FAILURE, "")
        following = _GO_ON.get(self.kind, "") if self.status in (LOST, "killed") else ""
        return "; ".join(part for part in (why, following.format(key=self.key)) if part) or None

    @property
    def accuracy(self) -> dict[str, dict[str, float]]:
        """Of an evaluation: shares of right answers, ``{answer: {group: share}}``; else empty."""
        found: dict[str, dict[str, float]] = {}
        for name, value in self.metrics.items():
            answer, dot, group = name.removeprefix(_ACCURACY).rpartition(".")
            if name.startswith(_ACCURACY) and dot:
                found.setdefault(answer, {})[group] = value
        return found


_GO_ON = {
    PIPELINE: "go on: finedefics train --resume {key}",
    SEARCH: "go on: the same `finedefics tune`",
    STUDY: "go on: the same `finedefics study run`",
}


def list_runs(workspace: Workspace, *, limit: int = 50, kind: str | None = None) -> list[RunRecord]:
    """The newest runs of all experiments that are under no other, each followed by all that are under it, in
    the order of their start.

    Where nothing was recorded there are none; asking makes nothing.

    Args:
        workspace: names the tracking URI.
        limit: how many runs, those under another not counted.
        kind: only runs of this kind (`RunRecord.kind`).

    Raises:
        FinedeficsError: the server is away.
    """
    under: dict[str | None, list[RunRecord]] = {}
    tops: list[RunRecord] = []
    for run in _newest(workspace, None) if has_records(workspace) else ():
        record = _record(run)
        if record.parent is not None:
            under.setdefault(record.parent, []).append(record)
        elif kind in (None, record.kind):
            tops.append(_as_it_stands(workspace, record))
        if len(tops) == limit:  # what is under a run began after it, so it has been seen
            break

    def below(record: RunRecord) -> Iterator[RunRecord]:
        for child in reversed(under.get(record.run_id, [])):
            # whose driver is gone, what is under it goes on no more
            gone = record.status == LOST and child.status == "running"
            child = replace(child, status=LOST) if gone else child
            yield child
            yield from below(child)

    return [one for record in tops for one in (record, *below(record))]


def record_place(workspace: Workspace) -> str:
    """Where runs are looked for, as it may be shown; asking makes nothing."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return shown(uri)
    return workspace.root.uri


def get_run(workspace: Workspace, reference: str) -> RunRecord:
    """The run that an id, the key of a pipeline, a name, or the beginning of an id or key stands for.

    Of runs with this key on a server that several workspaces share, this workspace's is meant; of runs with
    this name the one that is under no other.

    Raises:
        FinedeficsError: no run or several runs have this name (exit code 2), or the server is away.
    """
    if not has_records(workspace):
        raise nothing_recorded(workspace)
    client = open_client(workspace)
    with answered(workspace):
        try:
            return _as_it_stands(workspace, _record(client.get_run(server_run_id(workspace, reference))))
        except Exception as error:
            if not is_refusal(error):
                raise
    anyone = f"tags.`{KEY}` = {quoted(reference)}"
    ours = [keyed(reference, workspace.id)] if is_workspace(workspace) else []
    for wanted in [*ours, anyone]:
        if found := _search(workspace, wanted, 1):
            return _as_it_stands(workspace, _record(found[0]))
    named = [_record(r) for r in _search(workspace, f"attributes.run_name = {quoted(reference)}", _PAGE)]
    named = [record for record in named if record.parent is None] or named
    if not named:
        there = [_record(run) for run in _search(workspace, None, LOOKED_THROUGH)]
        named = [r for r in there if r.run_id.startswith(reference) or (r.key or "").startswith(reference)]
        if not named:
            names = [r.handle for r in there if r.parent is None] + [r.name for r in there]
            cure = f"{meant(reference, names)}see `finedefics runs list`"
            raise wrong_use("there is no such run", place=reference, cure=cure)
        if len({record.key for record in named}) == 1 and named[0].key:  # recorded more than once: the newest
            named = named[:1]
    if len(named) > 1:
        several = ", ".join(f"{record.run_id} ({record.handle})" for record in named[:_SHOWN])
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        raise wrong_use("several runs are called so", place=reference, cure=f"give one of: {several}{more}")
    return _as_it_stands(workspace, named[0])


def mark_deleted(workspace: Workspace, run_id: str) -> int:
    """Mark a run and all that is under it as deleted, as MLflow's page does: ``mlflow runs restore`` brings
    them back until ``finedefics gc``. Returns how many.

    Raises:
        FinedeficsError: the server is away or refuses.
    """
    client = open_client(workspace)
    below = [one for child in children(workspace, run_id) for one in _with_all_below(workspace, child)]
    with answered(workspace):
        for record in reversed(below):
            client.delete_run(record.run_id)
        client.delete_run(run_id)
    return 1 + len(below)


def _with_all_below(workspace: Workspace, record: RunRecord) -> Iterator[RunRecord]:
    yield record
    for child in children(workspace, record.run_id):
        yield from _with_all_below(workspace, child)


def children(workspace: Workspace, run_id: str) -> list[RunRecord]:
    """The stages, trials or arms under a run, in the order of their start."""
    found = _search(workspace, f"tags.`{PARENT}` = {quoted(run_id)}", LOOKED_THROUGH)
    return [_record(run) for run in reversed(found)]


def _search(workspace: Workspace, wanted: str | None, limit: int) -> list["Run"]:
    """The newest runs that a filter lets through."""
    return [run for run, _ in zip(_newest(workspace, wanted, limit), range(limit), strict=False)]


def _newest(workspace: Workspace, wanted: str | None, most: int = _PAGE) -> Iterator["Run"]:
    """Runs of all experiments, the newest first, asked for a page at a time."""
    client = open_client(workspace)
    with answered(workspace):
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        token: str | None = None
        while experiments:
            page = client.search_runs(
                experiments,
                wanted or "",
                max_results=min(most, _PAGE),
                order_by=NEWEST_FIRST,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return


def _as_it_stands(workspace: Workspace, record: RunRecord) -> RunRecord:
    """Lost, where MLflow has it for running and nobody holds its lease in this workspace."""
    place = _worked_on_at(workspace, record)
    if record.status == "running" and place is not None:
        with suppress(FinedeficsError):  # a store that is away, or read-only: it is believed
            if holder(place / "lease") is None:
                return replace(record, status=LOST)
    return record


def _worked_on_at(workspace: Workspace, record: RunRecord) -> Location | None:
    rooms = {PIPELINE: workspace.runs, TRIAL: workspace.runs, SEARCH: workspace.searches}
    room = (rooms | {STUDY: workspace.studies}).get(record.kind)
    if room is None or record.key is None or not is_workspace(workspace):
        return None
    place = room / record.key
    return place if record.tags.get(WORKSPACE) == workspace.id and place.exists() else None


def _record(run: "Run") -> RunRecord:
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status="deleted" if run.info.lifecycle_stage == "deleted" else run.info.status.lower(),
        started=run.info.start_time,
        # a run that goes on still has the end of its last attempt
        ended=None if run.info.status == "RUNNING" else run.info.end_time,
        parent=run.data.tags.get(PARENT),
        key=run.data.tags.get(KEY),
        params=run.data.params,
        metrics=run.data.metrics,
        tags={key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
    )
