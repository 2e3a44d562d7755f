"""Walking a user's folder: what cannot be looked into is an error, never an empty folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from finedefics.errors import FinedeficsError


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below, in no order.

    Raises:
        FinedeficsError: the folder, or one in it, cannot be listed.
    """

    def refused(error: OSError) -> None:
        raise FinedeficsError(
            f"this folder cannot be listed ({error.strerror})",
            place=str(error.filename),
            cure="check its rights",
        ) from error

    for place, _, names in os.walk(folder, onerror=refused):
        yield from (Path(place) / name for name in names)
