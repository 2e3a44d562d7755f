"""A driver process of its own: ingests a folder and, unless it was to wait, describes and mines it.

    python driver.py HOME FOLDER hold|go

Prints one JSON object a line. ``hold``: when the first pictures are written it says so and waits for a line.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.data.describing import describe
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.mining import mine


class Printed:
    """A `Progress` that tells a machine everything."""

    def __init__(self, hold: bool) -> None:
        self.hold = hold

    def event(self, name: str, /, **fields: Any) -> None:
        print(json.dumps({"event": name, **fields}), flush=True)

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        self.event("begins", label=label, total=total)

        def advance(count: int) -> None:
            if self.hold and label == "writing samples":
                self.hold = False
                self.event("held")
                sys.stdin.readline()

        yield advance


def main() -> None:
    home, folder, way = sys.argv[1:]
    workspace, told = open_workspace(home), Printed(way == "hold")
    made = [ingest(workspace, "birds", folder, row_group_rows=4, progress=told)]
    if way == "go":
        made.append(describe(workspace, "birds", progress=told))
        made.append(mine(workspace, "birds", progress=told))
    told.event("done", digests=[dataset.digest for dataset in made])


if __name__ == "__main__":
    main()
