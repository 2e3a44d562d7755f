"""Jobs on a real local Ray cluster with token authentication: lines lost, and what a submission takes."""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.registry import Result, benchmark
from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.config.job import load_job
from finedefics_platform.operate.clusters.local import LocalCluster, down, up
from finedefics_platform.operate.clusters.record import ClusterRecord, marked
from finedefics_platform.operate.jobs.log import LogReader, LogWriter
from finedefics_platform.operate.jobs.submission import submit

SPOKEN = 2000  # lines over a storage that goes away
TALKS = """
import time
for number in range(10**6):
    print("line", number, time.time(), flush=True)
    time.sleep(0.01)
"""


@benchmark("job_log_lines_lost", "submit_to_first_step")
def jobs() -> dict[str, Result]:
    """One cluster for both: a first step is waited for, then the head is killed in the middle of a job."""
    with tempfile.TemporaryDirectory() as name, _cluster() as record:
        folder = Path(name)
        first_step = _first_step(folder, record)
        lost, seen = _lost_with_the_head(folder, record)
        cut = _lost_over_a_reconnect(Location.of(folder / "cut"))
    how = (
        f"lines printed a second or more before all processes of the job's cluster got SIGKILL that are not "
        f"in the workspace (of {seen}), and of {SPOKEN} lines over a storage that goes away ten times"
    )
    return {
        "job_log_lines_lost": Result(lost + cut, "lines", "lower", 0, (lost + cut, lost + cut), how),
        "submit_to_first_step": first_step,
    }


def _first_step(folder: Path, cluster: ClusterRecord) -> Result:
    workspace = open_workspace(folder / "workspace")
    spec = _spec(folder, "train", document="experiment.yaml")
    _tiny_experiment(workspace, folder / "experiment.yaml")
    started = time.time()
    made = submit(workspace, load_job(spec), spec, cluster=cluster.name)
    sent = time.time() - started
    begun = step = 0.0
    while not step:
        time.sleep(0.1)
        status = made.record.status()
        begun = begun or (time.time() - started if status else 0.0)
        step = float(status.get("run", {}).get("first_step", 0.0))
        if status.get("state") == "failed":
            raise RuntimeError("\n".join(LogReader(made.record.log).take(last=True)))
    seconds = step - started
    how = (
        f"from `jobs submit` to the first step of a tiny model, head without resources: checks and sending "
        f"{sent:.1f}, until the job's process runs {max(0.0, begun - sent):.1f}, imports, Ray Train and the "
        f"step {seconds - begun:.1f}; a busy machine takes longer"
    )
    return Result(seconds, "s", "lower", 90, (seconds, seconds), how)


def _lost_with_the_head(folder: Path, cluster: ClusterRecord) -> tuple[int, int]:
    (folder / "talks.py").write_text(TALKS)
    arguments = [str(folder), "--name", "x", "--reader", str(folder / "talks.py")]
    spec = _spec(folder, "ingest", arguments=arguments)
    workspace = open_workspace(folder / "workspace")
    record = submit(workspace, load_job(spec), spec, cluster=cluster.name).record
    while not any(line.startswith("line 500 ") for line in LogReader(record.log).take()):
        time.sleep(0.2)
    killed = time.time()
    for process in list(marked(cluster.mark)):
        try:
            process.kill()
        except psutil.Error:
            continue
    lines = [line.split() for line in LogReader(record.log).take() if line.startswith("line")]
    numbers = [int(line[1]) for line in lines]
    missing = max(numbers) + 1 - len(set(numbers))
    # what was printed between the last line that is there and a second before the end, one each 10 ms
    late = max(0.0, killed - 1 - float(lines[-1][2]))
    return missing + int(late / 0.011), max(numbers) + 1


class _Away(Location):
    """A folder that answers as an object store does, and now and then does not."""

    away = False

    @property
    def local(self) -> None:
        return None

    def __truediv__(self, name: str) -> "_Away":
        return _Away(f"{self.uri}/{name}")

    def _asked_of(self) -> Location:
        if _Away.away:
            raise FinedeficsError("away", place=self.uri, cure="wait")
        return Location(self.uri.removeprefix("x://"))

    def files(self) -> list[str]:
        return self._asked_of().files()

    def read_bytes(self) -> bytes:
        return self._asked_of().read_bytes()

    def write_bytes(self, content: bytes) -> None:
        self._asked_of().write_bytes(content)


def _lost_over_a_reconnect(place: Location) -> int:
    store = _Away(f"x://{place.uri}")
    writer, reader, read = LogWriter(store, 1), LogReader(store), list[str]()
    stop = threading.Event()

    def follow() -> None:
        while not stop.is_set():
            with suppress(FinedeficsError):
                read.extend(reader.take())
            time.sleep(0.05)

    follower = threading.Thread(target=follow)
    follower.start()
    for number in range(SPOKEN):
        writer.write(f"line {number}\n")
        time.sleep(0.002)
        if number % (SPOKEN // 20) == 0:
            _Away.away = not _Away.away
    _Away.away = False
    writer.close()
    stop.set()
    follower.join()
    read += reader.take(last=True)
    wanted = [f"line {number}" for number in range(SPOKEN)]
    return sum(a != b for a, b in zip(wanted, read, strict=False)) + abs(len(wanted) - len(read))


def _tiny_experiment(workspace: Workspace, file: Path) -> None:
    import io

    import torch
    from PIL import Image

    from benchmarks.stored import stored
    from finedefics.base_model import untrained_backbone

    torch.manual_seed(0)
    assert workspace.models.local is not None
    model = workspace.models.local / "tiny"
    untrained_backbone().save_pretrained(model)

    def picture(row: int) -> bytes:
        held = io.BytesIO()
        Image.new("RGB", (64, 64), (row % 256, 90, 40)).save(held, "JPEG")
        return held.getvalue()

    stored(workspace, "made-up", 64, picture, categories=8, words=10)
    stage = {"name": "name", "steps": 3, "feeds": {"labelled": 8}, "terms": {"answer": 1}}
    document = {
        "name": "first-step",
        "data": {"dataset": "made-up", "negatives": 0},
        "model": {"path": str(model)},
        "stages": [stage],
        "resources": {"workers": 1},
    }
    file.write_text(yaml.safe_dump(document))


def _spec(folder: Path, kind: str, **keys: Any) -> Path:
    file = folder / f"{kind}.yaml"
    file.write_text(yaml.safe_dump({"name": kind, "job": kind, "stop_grace": 10, **keys}))
    return file


@contextmanager
def _cluster() -> Iterator[ClusterRecord]:
    name = f"bench-{os.getpid()}"
    record = up(LocalCluster(name=name, workers=1, cpus_per_worker=8, port=0, jobs_port=0))
    try:
        yield record
    finally:
        down(name)
