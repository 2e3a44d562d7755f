"""Where what is unpacked is kept: for this process's time, unless whoever opens a tree has a better place."""

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

# (way, make): the file at this way, made aside by ``make(file)`` and moved there whole where it is not yet.
Keep = Callable[[str, Callable[[Path], None]], Path]


def keep_for_now(way: str, make: Callable[[Path], None]) -> Path:
    """A `Keep` in a temporary folder that goes with this process."""
    place = _folder() / way
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(f"{place.name}.{secrets.token_hex(4)}")
        try:
            make(aside)
            aside.replace(place)
        finally:
            aside.unlink(missing_ok=True)
    return place


@cache
def _folder() -> Path:
    folder, owner = Path(tempfile.mkdtemp(prefix="finedefics-")), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a child that was forked off must not remove it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
