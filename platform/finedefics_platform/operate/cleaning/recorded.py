"""What only the tracking database knows to be nobody's: deleted runs, packages without a version.

Only the workspace's own database is asked: of a shared one nobody here knows who else needs it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.packaging import made_by
from finedefics_platform.models.registry import versions
from finedefics_platform.operate.cleaning.finding import Dispensable, held
from finedefics_platform.tracking.deleted import deleted, knows
from finedefics_platform.tracking.own_database import has_records, is_own_database


def deleted_runs(workspace: Workspace, older_than: timedelta) -> Iterator[Dispensable]:
    """Runs that were marked deleted so long ago, and that no registered version was made by."""
    if not _is_ours(workspace) or not (found := deleted(workspace)):
        return
    needed = {version.run_id for version in versions(workspace)}
    for run in found:
        age = datetime.now(UTC) - run.at
        if age < older_than or run.run_id in needed:
            continue
        size = run.place.held()[0]
        why = "deleted; this ends its record"
        about = {"run": run.name, "id": run.run_id}
        yield Dispensable(run.place, "recorded", size, age, why, about, run=run)


def unregistered_packages(workspace: Workspace, older_than: timedelta) -> Iterator[Dispensable]:
    """Packages that this database's runs made and no registered version names: registering was cut off, or
    the version was deleted."""
    there = (workspace.models / "registered").children() if _is_ours(workspace) else []
    if not there:
        return
    named = {version.tags.get("package") for version in versions(workspace)}
    for place in there:
        if workspace.name_of(place) in named:
            continue
        run_id = made_by(place)
        if run_id is None or not knows(workspace, run_id):  # registered in another database
            continue
        size, age = held(place)
        if age >= older_than:
            claims = place.parent / f".{place.name.rpartition('-')[0]}.lease"
            yield Dispensable(place, "package", size, age, "no registered version is in it", {}, claims)


def _is_ours(workspace: Workspace) -> bool:
    return is_own_database(workspace) and has_records(workspace)
