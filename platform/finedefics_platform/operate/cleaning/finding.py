"""A finding of the cleaning, and how it is removed."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location, holder, lease
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.tracking.deleted import DeletedRun, end

Kind = Literal["evaluation", "training", "search", "draft", "table", "package", "recorded", "cache"]
ABANDONED = timedelta(days=7)


@dataclass(frozen=True)
class Dispensable:
    """A folder or file that nothing which is finished needs.

    Attributes:
        place: the folder or file.
        kind: ``evaluation`` (parts of one that is not finished), ``training`` and ``search`` (what finished
            ones left over), ``draft`` (of a writer that was killed), ``table`` (no version names it),
            ``package`` (of no registered version), ``recorded`` (a run deleted in MLflow), ``cache``.
        bytes: of its files.
        age: since the last of them was written, or since it was deleted.
        why: it can go, in words.
        about: what it is, as it says of itself; empty where it does not.
        claims: the lease under which somebody may be making it.
        run: the recorded run.
    """

    place: Location
    kind: Kind
    bytes: int
    age: timedelta
    why: str
    about: dict[str, Any] = field(default_factory=dict)
    claims: Location | None = None
    run: DeletedRun | None = None


def remove(workspace: Workspace, found: Dispensable) -> bool:
    """Remove it; False where somebody has taken it up meanwhile.

    Raises:
        FinedeficsError: the place cannot be written to.
    """
    if found.run is not None:
        end(workspace, found.run)
        return True
    if found.claims is None:
        found.place.delete()
        return True
    if holder(found.claims) is not None:
        return False
    try:
        # Under its lease, so that whoever goes on with it now finds all of it or nothing.
        with lease(found.claims, f"cleaning of {found.kind} {found.place.name}", wait=False):
            found.place.delete()
    except FinedeficsError:
        if holder(found.claims) is None:
            raise
        return False
    return True


def held(place: Location) -> tuple[int, timedelta]:
    """Bytes below, and how long ago the last of them was written."""
    if place.is_file():
        return place.size(), datetime.now(UTC) - place.modified()
    size, written = place.held()
    # a folder without a file is what somebody begins just now, or left long ago: its own time tells
    return size, datetime.now(UTC) - (written or place.modified())
