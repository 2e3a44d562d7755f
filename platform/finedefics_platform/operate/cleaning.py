"""What a workspace could do without: what was cut off and never gone on with, and what can be made again."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location, committed, holder, lease
from finedefics_platform.base.workspace import Workspace

Kind = Literal["evaluation", "features"]
ABANDONED = timedelta(days=7)


@dataclass(frozen=True)
class Dispensable:
    """A folder that nothing which is finished needs.

    Attributes:
        place: the folder.
        kind: ``evaluation`` (parts of one that is not finished) or ``features`` (of pictures, kept).
        bytes: of its files.
        age: since the last of them was written.
        why: it can go, in words.
        about: what it is, as it says of itself; empty where it does not.
    """

    place: Location
    kind: Kind
    bytes: int
    age: timedelta
    why: str
    about: dict[str, Any]


def dispensable(
    workspace: Workspace, older_than: timedelta = ABANDONED, *, features: bool = False
) -> list[Dispensable]:
    """What could go, oldest first; nothing is touched.

    Parts of an evaluation that somebody is making are never among it, however old they are.

    Args:
        older_than: so long nothing was written there. Parts of an evaluation that is finished are left over
            at any age.
        features: what frozen towers made of pictures too. A run that reads them goes on and makes them again.

    Raises:
        FinedeficsError: the storage does not answer.
    """
    found = list(_evaluations(workspace, older_than))
    if features:
        found += _features(workspace, older_than)
    return sorted(found, key=lambda each: each.age, reverse=True)


def remove(workspace: Workspace, found: Dispensable) -> bool:
    """Remove it; False where somebody has taken it up meanwhile.

    Raises:
        FinedeficsError: the place cannot be written to.
    """
    if found.kind == "features":
        found.place.delete()
        return True
    claims = workspace.evaluation_lease(found.place.name)
    if holder(claims) is not None:
        return False
    try:
        # Under its lease, so that whoever goes on with it now finds all of it or nothing.
        with lease(claims, f"cleaning of evaluation {found.place.name}", wait=False):
            found.place.delete()
    except FinedeficsError:
        if holder(claims) is None:
            raise
        return False
    return True


def _evaluations(workspace: Workspace, older_than: timedelta) -> Iterator[Dispensable]:
    for place in workspace.evaluation_parts.children():
        if holder(workspace.evaluation_lease(place.name)) is not None:
            continue
        size, age = _held(place)
        if committed(workspace.evaluations / place.name) is not None:
            why = "left over: the evaluation is finished"
        elif age >= older_than:
            why = "the evaluation was cut off"
        else:
            continue
        yield Dispensable(place, "evaluation", size, age, why, _about(place))


def _features(workspace: Workspace, older_than: timedelta) -> Iterator[Dispensable]:
    for place in Location.of(workspace.features).children():
        size, age = _held(place)
        if age >= older_than:
            yield Dispensable(place, "features", size, age, "made again where a run asks for them", {})


def _held(place: Location) -> tuple[int, timedelta]:
    size, written = place.held()
    # a folder without a file is what somebody begins just now, or left long ago: its own time tells
    return size, datetime.now(UTC) - (written or place.modified())


def _about(place: Location) -> dict[str, Any]:
    try:
        told: dict[str, Any] = (place / "about.json").read_json()
    except (FileNotFoundError, ValueError):
        return {}
    return told
