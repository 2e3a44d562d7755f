"""Runs that were marked deleted in the workspace's own database, and how their records end."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.tracking.mlflow_client import answered, open_client
from finedefics_platform.tracking.own_database import own_file, settle

_SECONDS = 30.0


@dataclass(frozen=True)
class DeletedRun:
    """A run marked deleted: when, and where its artefacts lie."""

    run_id: str
    name: str
    at: datetime
    place: Location


def deleted(workspace: Workspace) -> list[DeletedRun]:
    """Those whose artefacts lie in the workspace; MLflow's clients do not say when a run was deleted."""
    settle(workspace)
    query = (
        "SELECT run_uuid, name, COALESCE(deleted_time, end_time, start_time, 0), artifact_uri FROM runs "
        "WHERE lifecycle_stage = 'deleted'"
    )
    found = []
    for run_id, name, at, uri in _rows(workspace, query):
        place = Location.of(uri).parent  # …/<run id>/artifacts
        if place.relative_to(workspace.artifacts) is not None:
            found.append(DeletedRun(run_id, name or "", datetime.fromtimestamp(at / 1000, UTC), place))
    return found


def knows(workspace: Workspace, run_id: str) -> bool:
    """Whether the own database has a run, deleted or not."""
    return bool(_rows(workspace, "SELECT 1 FROM runs WHERE run_uuid = ?", run_id))


def end(workspace: Workspace, run: DeletedRun) -> None:
    """End the artefacts and then the record of a deleted run; one that was restored meanwhile stays.

    Raises:
        FinedeficsError: the place or the database cannot be written to.
    """
    if run.run_id not in {each.run_id for each in deleted(workspace)}:
        return
    client = open_client(workspace)
    run.place.delete()
    with answered(workspace):
        # `mlflow gc --run-ids` would end every deleted experiment and logged model along with it.
        client._tracking_client.store._hard_delete_run(run.run_id)


def _rows(workspace: Workspace, query: str, *values: str) -> list[tuple]:
    file = own_file(workspace)
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=_SECONDS)) as database:
        return list(database.execute(query, values))
