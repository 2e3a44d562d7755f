"""Reads recorded runs back: as a list, and one by one."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finedefics.errors import wrong_use
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.tracking.delivery import KEY, PARENT, keyed, quoted
from finedefics_platform.tracking.mlflow_client import answered, is_refusal, open_client, shown
from finedefics_platform.tracking.own_database import has_records, is_workspace, nothing_recorded
from finedefics_platform.tracking.tracker import server_run_id

if TYPE_CHECKING:
    from mlflow.entities import Run

NEWEST_FIRST = ["attributes.start_time DESC"]
LOOKED_THROUGH = 5000  # runs in which an abbreviated id is searched


@dataclass(frozen=True)
class RunRecord:
    """One recorded run; ``metrics`` are last values, times are milliseconds since the epoch."""

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


def list_runs(workspace: Workspace, *, limit: int = 50) -> list[RunRecord]:
    """The newest runs of all experiments, each parent followed by its children in the order of their start.

    Where nothing was recorded there are none; asking makes nothing.

    Args:
        workspace: names the tracking URI.
        limit: how many runs are read, children included.

    Raises:
        FinedeficsError: the server is away.
    """
    found = [_record(run) for run in _search(workspace, None, limit)] if has_records(workspace) else []
    ids = {record.run_id for record in found}
    under: dict[str | None, list[RunRecord]] = {}
    for record in found:
        under.setdefault(record.parent if record.parent in ids else None, []).append(record)

    def with_children(record: RunRecord) -> list[RunRecord]:
        below = reversed(under.get(record.run_id, []))
        return [record, *(one for child in below for one in with_children(child))]

    return [one for record in under.get(None, []) for one in with_children(record)]


def record_place(workspace: Workspace) -> str:
    """Where runs are looked for, as it may be shown; asking makes nothing."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return shown(uri)
    return workspace.root.uri


def get_run(workspace: Workspace, reference: str) -> RunRecord:
    """The run that an id, the beginning of an id, or the key of a pipeline names.

    Of runs with this key on a server that several workspaces share, this workspace's is meant.

    Raises:
        FinedeficsError: no run or several runs have this name (exit code 2), or the server is away.
    """
    if not has_records(workspace):
        raise nothing_recorded(workspace)
    client = open_client(workspace)
    with answered(workspace):
        try:
            return _record(client.get_run(server_run_id(workspace, reference)))
        except Exception as error:
            if not is_refusal(error):
                raise
    anyone = f"tags.`{KEY}` = {quoted(reference)}"
    ours = [keyed(reference, workspace.id)] if is_workspace(workspace) else []
    for wanted in [*ours, anyone]:
        if found := _search(workspace, wanted, 1):
            return _record(found[0])
    matching = [r for r in _search(workspace, None, LOOKED_THROUGH) if r.info.run_id.startswith(reference)]
    if len(matching) == 1:
        return _record(matching[0])
    if matching:
        several = ", ".join(run.info.run_id for run in matching[:5])
        raise wrong_use("several runs begin like this", place=reference, cure=f"give more of: {several}")
    raise wrong_use("there is no such run", place=reference, cure="see `finedefics runs list`")


def children(workspace: Workspace, run_id: str) -> list[RunRecord]:
    """The stages, trials or arms under a run, in the order of their start."""
    found = _search(workspace, f"tags.`{PARENT}` = {quoted(run_id)}", LOOKED_THROUGH)
    return [_record(run) for run in reversed(found)]


def _search(workspace: Workspace, wanted: str | None, limit: int) -> list["Run"]:
    client = open_client(workspace)
    with answered(workspace):
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found: list[Run] = []
        token: str | None = None
        while experiments and len(found) < limit:
            page = client.search_runs(
                experiments,
                wanted or "",
                max_results=min(limit - len(found), 1000),
                order_by=NEWEST_FIRST,
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                break
        return found


def _record(run: "Run") -> RunRecord:
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status.lower(),
        started=run.info.start_time,
        # a run that goes on still has the end of its last attempt
        ended=None if run.info.status == "RUNNING" else run.info.end_time,
        parent=run.data.tags.get(PARENT),
        key=run.data.tags.get(KEY),
        params=run.data.params,
        metrics=run.data.metrics,
        tags={key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
    )
