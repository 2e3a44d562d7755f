"""Folders that appear at once: filled aside, complete when they are seen, replaced in one step."""

import hashlib
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage.cache import keep
from finedefics_platform.base.storage.location import Location

MANIFEST = "committed.json"  # of a folder in an object store: where its data is, and each file's digest
_ABANDONED_AFTER_SECONDS = 24 * 3600
_BLOCK = 1 << 20
_DEEPEST = 5  # folders between a place and the manifest of what it is inside of


@contextmanager
def commit(target: Location, *, replace: bool = False) -> Iterator[Path]:
    """A local folder to fill; when the block ends it stands at ``target`` as a whole, if it fails not at all.

    Killed at any moment, a writer leaves nothing that a reader takes for the thing. Of two that make the same
    thing, the first one's stays.

    Args:
        replace: take the place of what is at ``target`` once the new folder is complete.

    Raises:
        FinedeficsError: the place cannot be written to.
    """
    if target.local is not None:
        with _local_draft(target.local) as draft:
            yield draft
            _put_in_place(draft, target.local, replace=replace)
        return
    with tempfile.TemporaryDirectory(prefix="finedefics-") as name:
        draft = Path(name) / "draft"
        draft.mkdir()
        yield draft
        if replace or committed(target) is None:
            _send(draft, target)


def committed(target: Location) -> Location | None:
    """Where the files of a committed folder are; None where there is none, or none that is complete.

    Of a folder in an object store it is good until the folder is replaced.
    """
    if target.local is not None:
        return target if target.local.is_dir() else None
    manifest = _manifest(target)
    return None if manifest is None else target / manifest["data"]


def fetch(target: Location) -> Path:
    """A local folder with the whole content of a committed one: itself on a disk, else the node's copy.

    Args:
        target: a committed folder, or a place inside the files of one (as `committed` names them).

    Raises:
        FileNotFoundError: nothing complete is there.
        FinedeficsError: the store does not answer, or a file differs from what was committed.
    """
    if target.local is not None:
        if not target.local.is_dir():
            raise FileNotFoundError(target.uri)
        return target.local
    try:
        return _copy(target)
    except FileNotFoundError:
        # Replaced while it was read, perhaps: the manifest names the new data by now.
        return _copy(target)


def _copy(target: Location) -> Path:
    """The node's copy of a committed folder in an object store, or of what is inside of one."""
    place = target
    for _ in range(_DEEPEST):
        if (manifest := _manifest(place)) is not None:
            files: dict[str, str] = manifest["files"]
            content = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:32]
            source = place / manifest["data"]
            way = "" if place == target or target == source else target.relative_to(source)
            if way is None:  # data of before it was replaced
                break
            folder = keep(f"folders/{content}/{place.name}", partial(_receive, source, files)) / way
            if not folder.is_dir():
                break
            return folder
        if "/" not in place.uri.partition("://")[2]:
            break
        place = place.parent
    raise FileNotFoundError(target.uri)


def discard(target: Location) -> None:
    """Remove a committed folder: it is gone at once, its data right after."""
    if (folder := target.local) is not None:
        aside = _aside(folder)
        try:
            folder.rename(aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside, ignore_errors=True)
        return
    (target / MANIFEST).delete()
    target.delete()


@contextmanager
def _local_draft(target: Path) -> Iterator[Path]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        draft = _aside(target)
        draft.mkdir()
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _put_in_place(draft: Path, target: Path, *, replace: bool) -> None:
    try:
        if replace and target.exists():
            # The old folder is moved aside, not removed: it goes when the new one stands.
            old = _aside(target)
            target.rename(old)
            try:
                draft.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old, ignore_errors=True)
            return
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    except OSError as error:
        raise _unwritable(target, error) from error


def _send(draft: Path, target: Location) -> None:
    before = _manifest(target)
    data = secrets.token_hex(8)
    files = {}
    for file in sorted(path for path in draft.rglob("*") if path.is_file()):
        way = file.relative_to(draft).as_posix()
        (target / data / way).upload(file)
        files[way] = _digest(file)
    (target / MANIFEST).write_json({"data": data, "files": files})
    if before is not None:
        (target / before["data"]).delete()
    _sweep_data(target, data)


def _receive(source: Location, files: dict[str, str], aside: Path) -> None:
    aside.mkdir()
    for way, digest in files.items():
        file = aside / way
        file.parent.mkdir(parents=True, exist_ok=True)
        (source / way).download(file)
        if _digest(file) != digest:
            raise FinedeficsError(
                "the file is not what was committed", place=str(source / way), cure="make it again"
            )


def _manifest(target: Location) -> dict | None:
    try:
        return (target / MANIFEST).read_json()
    except FileNotFoundError:
        return None


def _digest(file: Path) -> str:
    sha = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            sha.update(block)
    return sha.hexdigest()


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}")


def _sweep(folder: Path) -> None:
    """Remove what writers that were killed have left; one a day old has no living writer."""
    for left in folder.glob(".*.????????"):
        try:
            if left.is_dir() and time.time() - left.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue


def _sweep_data(target: Location, current: str) -> None:
    for left in target.children():
        if left.name in (current, MANIFEST):
            continue
        ages = [(left / way).modified() for way in left.files()[:1]]
        if not ages or (datetime.now(UTC) - ages[0]).total_seconds() > _ABANDONED_AFTER_SECONDS:
            left.delete()


def _unwritable(target: Path, error: OSError) -> FinedeficsError:
    return FinedeficsError(
        f"cannot write here ({error.strerror or error})",
        place=str(target),
        cure="free space, check the rights, or set FINEDEFICS_HOME to a place you may write to",
    )
