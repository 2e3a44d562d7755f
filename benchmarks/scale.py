"""Many small pictures from a folder to a stream, and the memory that all processes take on the way (Linux).

    python -m benchmarks.scale                       # 200,000 pictures; takes minutes, prints one JSON object
    python -m benchmarks.scale --rows 5000 --folder /somewhere/empty

Pictures are drawn, ingested, mined (attributes of their categories) and streamed for an epoch,
each by the product's own function. Memory is that of this process and of all that it starts, twice a second:
"memory" counts pages that processes share once (PSS), "resident" counts them in each (RSS), "object_store" is
what has been touched of the shared memory that the raylet keeps objects in.
"""

import argparse
import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

CATEGORIES = 1000
SIDE = 16
BATCH = 256
ATTRIBUTES = {"crown": 10, "belly": 10, "wing": 10}
EVERY_SECONDS = 0.5
MIB = 1 << 20


class Watch:
    """Peaks of this process and of all that it has started, since the last question."""

    def __init__(self) -> None:
        self._peaks: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def peaks(self) -> dict[str, float]:
        """MiB since the last call."""
        with self._lock:
            found, self._peaks = self._peaks, {}
        return {name: round(value / MIB) for name, value in found.items()}

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def _look(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(EVERY_SECONDS):
            seen = {"memory": 0.0, "resident": 0.0, "object_store": 0.0, "processes": 0.0}
            for process in [own, *own.children(recursive=True)]:
                try:
                    used = process.memory_full_info()
                    stored = _stored(process) if process.name().startswith("raylet") else 0
                except (psutil.Error, OSError):  # it has just ended
                    continue
                seen["memory"] += used.pss
                seen["resident"] += used.rss
                seen["processes"] += MIB
                seen["object_store"] += stored
            with self._lock:
                self._peaks = {name: max(value, self._peaks.get(name, 0)) for name, value in seen.items()}


def _stored(raylet: psutil.Process) -> int:
    """Bytes of the file in shared memory that holds a raylet's objects, as far as it was ever written to."""
    opened = Path(f"/proc/{raylet.pid}/fd")
    stores = [fd for fd in opened.iterdir() if fd.readlink().name.startswith("plasma")]
    return max((fd.stat().st_blocks * 512 for fd in stores), default=0)


def draw(folder: Path, rows: int) -> None:
    """A training folder of tiny pictures, no two alike, and categories that have attributes."""
    rng = np.random.default_rng(0)
    categories = min(CATEGORIES, max(2, rows // 8))
    lines = []
    for number in range(categories):
        name = f"kind {number:04}"
        (folder / "train" / name).mkdir(parents=True)
        values = {
            key: f"{key} {number // size**place % size}"
            for place, (key, size) in enumerate(ATTRIBUTES.items())
        }
        lines.append(json.dumps({"name": name, "attributes": values}))
    (folder / "categories.jsonl").write_text("\n".join(lines) + "\n")
    for row in range(rows):
        pixels = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG", quality=60)
        place = folder / "train" / f"kind {row % categories:04}" / f"{row:07}.jpg"
        place.write_bytes(content.getvalue())


def stream(workspace: Any, name: str, rows: int) -> int:
    """One epoch as one rank; returns the rows that came."""
    from finedefics_platform.config.stage import Stage
    from finedefics_platform.data.store import open_dataset
    from finedefics_platform.training.stream import TrainingStream

    stage = Stage(name="one", steps=max(1, rows // BATCH), feeds={"labelled": BATCH}, terms={"answer": 1})
    found = TrainingStream(open_dataset(workspace, name), stage, 0, 0, 1)
    return sum(len(of_feed["labelled"]) for _, of_feed in found)


@contextmanager
def _folder(chosen: str | None) -> Iterator[Path]:
    if chosen:
        yield Path(chosen)
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def main(arguments: list[str]) -> int:
    """Print one JSON object: seconds and peaks of every part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--folder", help="where pictures and workspace go; kept")
    chosen = parser.parse_args(arguments)
    from finedefics_platform.base.cluster_session import ensure_ray
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data.ingesting import ingest
    from finedefics_platform.data.mining import mine

    with _folder(chosen.folder) as folder:
        pictures, workspace = folder / "pictures", open_workspace(folder / "workspace")
        parts: dict[str, Callable[[], object]] = {
            "draw": lambda: pictures.exists() or draw(pictures, chosen.rows),
            "start": ensure_ray,
            "ingest": lambda: ingest(workspace, "many", pictures),
            "mine": lambda: mine(workspace, "many", miner="attributes"),
            "stream": lambda: stream(workspace, "many", chosen.rows),
        }
        watch = Watch()
        found: dict[str, dict[str, float]] = {}
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            found[name] = {"seconds": round(time.perf_counter() - started, 1), **watch.peaks()}
            print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
        watch.end()
    print(json.dumps({"rows": chosen.rows, "unit": "MiB, seconds", "parts": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
