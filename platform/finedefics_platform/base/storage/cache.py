"""The node's cache: copies of what lies in an object store, each kept under what it is, not where it was."""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.storage.location import Location

GIB = 2**30
_ABANDONED_AFTER_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """FINEDEFICS_CACHE, else ``finedefics`` in the user's cache folder; made when first asked for."""
    chosen = os.environ.get("FINEDEFICS_CACHE")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finedefics"
    folder = Path(chosen).expanduser().resolve() if chosen else usual
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FinedeficsError(
            f"cannot make the cache ({error.strerror})",
            place=str(folder),
            cure="free space or set FINEDEFICS_CACHE to a folder you may write to",
        ) from error
    return folder


def cached(file: Location) -> Path:
    """A local path with the content of a file that never changes: itself on a disk, else the node's copy.

    Raises:
        FileNotFoundError: there is no such file.
        FinedeficsError: the store does not answer, or the cache cannot be written to.
    """
    if file.local is not None:
        return file.local
    key = hashlib.sha256(file.uri.encode()).hexdigest()[:32]
    return keep(f"files/{key}/{file.name}", file.download)


def keep(way: str, make: Callable[[Path], None]) -> Path:
    """The cached file or folder at ``way``, made aside by ``make`` where the node does not have it yet."""
    root = cache_folder()
    place = root / way
    if not place.exists():
        _make_room(root)
        aside = root / "aside" / secrets.token_hex(8)
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            make(aside)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                aside.rename(place)
            except OSError:  # another process of this node was faster
                if not place.exists():
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True) if aside.is_dir() else aside.unlink(missing_ok=True)
    os.utime(place)  # what was used last is kept longest
    return place


def _make_room(root: Path) -> None:
    """Remove what was used longest ago where the cache has outgrown FINEDEFICS_CACHE_GIB (default 200)."""
    allowed = _allowed()
    entries = [entry for kind in ("files", "folders") for entry in root.glob(f"{kind}/*")]
    ages = sorted((_used(entry), entry) for entry in entries)
    total = sum(_size(entry) for _, entry in ages)
    for used, entry in ages:
        # whoever opened it a moment ago still reads it
        if total <= allowed or time.time() - used < _ABANDONED_AFTER_SECONDS / 24:
            break
        total -= _size(entry)
        shutil.rmtree(entry, ignore_errors=True)
    for left in root.glob("aside/*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _allowed() -> float:
    text = os.environ.get("FINEDEFICS_CACHE_GIB", "200")
    try:
        return float(text) * GIB
    except ValueError as error:
        raise wrong_use(
            f"not a number: {text!r}", place="FINEDEFICS_CACHE_GIB", cure="give gibibytes, such as 200"
        ) from error


def _used(entry: Path) -> float:
    return max((path.stat().st_mtime for path in [entry, *entry.glob("*")] if path.exists()), default=0.0)


def _size(entry: Path) -> int:
    return sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
