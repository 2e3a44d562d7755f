"""Sources by their places: what the platform adds to `finedefics.data.readers` is where copies are kept.

An archive in an object store is copied to the node first, a compressed one is unpacked there, both under what
they are. A tree travels to tasks as its place, and is opened again on their node.
"""

import hashlib
import os
from collections.abc import Mapping

from finedefics.data import opening, readers, tree
from finedefics.data.readers import Source
from finedefics.errors import wrong_use
from finedefics_platform.base.storage import Location
from finedefics_platform.base.storage.cache import keep


def open_source(
    place: str | os.PathLike[str] | Location, *, seed: int = 0, columns: Mapping[str, str] | None = None
) -> Source:
    """A source that a user names: a folder, an archive, a table; on this machine or in an object store.

    Args:
        seed: decides splits where the source has none.
        columns: what the reader should know of a table's columns (see `parse_columns`).

    Raises:
        FinedeficsError: nothing is there (exit code 2), the store does not answer, or an archive is damaged.
    """
    location = Location.of(place)
    if location.local is None and location.name.lower().endswith(tree.ARCHIVES):
        return Source(open_tree(location.uri), None, seed, columns or {})
    # a table may be a link to its content elsewhere, and its pictures lie beside the link
    named = location.uri if location.local is None else _unresolved(place)
    source = readers.open_source(named, seed=seed, columns=columns, keep=keep)
    above = named.rpartition("/")[0] or "/" if source.file is not None else named
    source.tree.reopened_by(open_tree, above)
    return source


def _unresolved(place: str | os.PathLike[str] | Location) -> str:
    text = place.uri if isinstance(place, Location) else os.fspath(place)
    if text.startswith("file://"):
        return Location.of(text).uri
    return os.path.abspath(os.path.expanduser(text))


def open_tree(place: str) -> tree.Tree:
    """The tree at a place (an absolute path or a URI), in whatever process; raises as `open_source`."""
    location = Location(place)
    here = place
    if location.local is None and location.name.lower().endswith(tree.ARCHIVES):
        here = _copy(location)
    return opening.open_tree(here, keep=keep).reopened_by(open_tree, place)


def parse_columns(text: str) -> dict[str, str]:
    """``image=path,label=species`` as a mapping; FinedeficsError (exit code 2) for anything else."""
    columns: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not name or key in columns:
            raise wrong_use(
                f"{part!r} is no column", place="--columns", cure="write image=NAME,label=NAME, each key once"
            )
        columns[key] = name
    return columns


def _copy(archive: Location) -> str:
    """The node's copy of an archive: of this one, should another come to be at its place."""
    try:
        identity = f"{archive.uri}\0{archive.size()}\0{archive.modified().timestamp()}"
    except FileNotFoundError as error:
        raise wrong_use(
            "there is no such archive", place=archive.uri, cure="check the address, or give a folder's"
        ) from error
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return str(keep(f"files/{key}/{archive.name}", archive.download))
