"""Whether the workspace can be moved and copied: nothing in it names the place where it lies.

MLflow's database has to name it, and is put right when it is opened elsewhere (`tracking.own_database`).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.operate.checks.finding import Check
from finedefics_platform.tracking.own_database import named_in_records

# What is read as text; weights, tables of Parquet, pictures and their like name no place.
_TEXTS = {".json", ".jsonl", ".yaml", ".yml", ".md", ".html", ".txt", ".csv", ".tsv", ".cfg", ".jinja", ""}
_LARGEST = 16 << 20
_SAID = ("log", "ui.log")  # what was printed may name what it likes: nobody reads it back
_SHOWN = 4


def check_movable(workspace: Workspace) -> Check:
    """No file and no link in a workspace on a disk names the workspace's own place."""
    root = workspace.root.local
    if root is None:
        return Check("movable", "ok", "a workspace in an object store: nothing is looked through")
    if not root.is_dir():
        return Check("movable", "ok", "nothing is there yet")
    found = [*naming(root), *named_in_records(workspace)]
    if not found:
        return Check("movable", "ok", f"nothing in {root} names its own place")
    shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    cure = "they will name the old place after a move: make them again before one (a search: finish it)"
    return Check("movable", "warn", f"{len(found)} name the place of the workspace: {shown}", cure)


def naming(root: Path) -> Iterator[str]:
    """Files whose text has the folder's own path, and links that point into it by it; from the folder on."""
    needles = _spellings(root)
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        for name in [*folders, *files]:
            path = here / name
            if path.is_symlink() and os.readlink(path).startswith(f"{root}/"):
                yield path.relative_to(root).as_posix()
        folders[:] = sorted(f for f in folders if f not in _SAID and not (here / f).is_symlink())
        for name in sorted(files):
            if name not in _SAID and _holds(here / name, needles):
                yield (here / name).relative_to(root).as_posix()


def _spellings(root: Path) -> list[bytes]:
    plain = str(root)
    return [text.encode() for text in dict.fromkeys((plain, json.dumps(plain)[1:-1], root.as_uri()))]


def _holds(file: Path, needles: list[bytes]) -> bool:
    if file.suffix not in _TEXTS or file.is_symlink():
        return False
    try:
        if file.stat().st_size > _LARGEST:
            return False
        content = file.read_bytes()
    except OSError:  # gone meanwhile, or not ours to read
        return False
    return any(_names(content, needle) for needle in needles)


def _names(content: bytes, needle: bytes) -> bool:
    """Whether the path stands there, and not another that begins like it."""
    start = content.find(needle)
    while start >= 0:
        after = content[start + len(needle) : start + len(needle) + 1]
        if not after or not (after.isalnum() or after in b"_-."):
            return True
        start = content.find(needle, start + 1)
    return False
