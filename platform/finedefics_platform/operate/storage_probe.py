"""Writes, reads and removes one small file in a workspace's storage; a program of its own.

What speaks to object stores tries again for minutes where nobody answers and cannot be told to stop: a
process can. Prints one line: nothing, or why the storage cannot be used.
"""

import os
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location


def main(uri: str, seconds: float) -> None:
    """Try the storage at ``uri``; print why it cannot be used, at the latest after ``seconds``."""
    watch = threading.Timer(seconds, _leave, (f"no answer within {seconds:.0f} s",))
    watch.daemon = True
    watch.start()
    root = Location.of(uri)
    try:
        root.exists()  # asked first: whoever is not let in is told so most plainly here
        with written(root, f"doctor-{secrets.token_hex(4)}", b"x") as probe:
            same = probe.read_bytes() == b"x"
    except (FinedeficsError, FileNotFoundError) as error:
        _leave(getattr(error, "thing", str(error)))
    _leave("" if same else "what was written is not what is read")


@contextmanager
def written(root: Location, name: str, content: bytes) -> Iterator[Location]:
    """A file that is there for a while; afterwards it is gone, and so are folders that were made for it."""
    local = root.local
    missing = [] if local is None else [one for one in (local, *local.parents) if not one.exists()]
    try:
        (root / name).write_bytes(content)
        try:
            yield root / name
        finally:
            (root / name).delete()
    finally:
        with suppress(OSError):  # somebody else wrote there meanwhile
            for folder in missing:
                folder.rmdir()


def _leave(reason: str) -> None:
    print(" ".join(reason.split()), flush=True)
    os._exit(0)  # threads of the storage's library may still be trying


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
