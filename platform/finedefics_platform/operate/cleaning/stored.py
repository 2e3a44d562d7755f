"""What lies in the workspace and is nobody's: drafts of killed writers, unnamed tables, caches."""

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.versions import unnamed
from finedefics_platform.operate.cleaning.finding import Dispensable, held
from finedefics_platform.tracking.own_database import is_own_database

_DRAFT = re.compile(r"\..+\.[0-9a-z_]{8}")  # as storage and `tempfile` name what is made aside
_YOUNGEST = timedelta(days=1)  # a writer that lives writes more often


def drafts(workspace: Workspace, older_than: timedelta) -> Iterator[Dispensable]:
    """Of writers that were killed; on a disk (in an object store the next writer of a thing removes them)."""
    root = workspace.root.local
    for path in _aside(root) if root is not None and root.is_dir() else ():
        place = Location.of(path)
        size, age = held(place)
        if age >= max(older_than, _YOUNGEST):
            yield Dispensable(place, "draft", size, age, "its writer was killed")


def unnamed_tables(workspace: Workspace, older_than: timedelta) -> Iterator[Dispensable]:
    """Files of tables that no version of their dataset names: of drivers that were killed."""
    for home in workspace.datasets.children():
        for file in unnamed(home):
            size, age = held(file)
            if age >= max(older_than, _YOUNGEST):
                yield Dispensable(file, "table", size, age, "no version names it", {"dataset": home.name})


def caches(workspace: Workspace, older_than: timedelta) -> Iterator[Dispensable]:
    """What is made, or fetched, again where somebody needs it."""
    again = "made again where a run asks for it"
    rooms = [(Location.of(workspace.features), again), (workspace.embeddings, again)]
    if not is_own_database(workspace):  # packages lie on the server, and here are copies
        for place in (workspace.models / "registered").children():
            if re.fullmatch(r".+-\d+-[0-9a-f]{12}", place.name):
                yield from _old(place, older_than, "fetched again from the server")
    for room, why in rooms:
        for place in room.children():
            yield from _old(place, older_than, why)


def _old(place: Location, older_than: timedelta, why: str) -> Iterator[Dispensable]:
    size, age = held(place)
    if age >= older_than:
        yield Dispensable(place, "cache", size, age, why)


def _aside(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            if _DRAFT.fullmatch(name):
                yield Path(folder) / name
        folders[:] = [name for name in folders if not _DRAFT.fullmatch(name)]
