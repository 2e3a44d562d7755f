"""Drivers that are killed, drivers at once, and the same work in another store."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.data.describing import describe
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.mining import mine
from finedefics_platform.data.store import Dataset, dataset_names, open_dataset

DRIVER = Path(__file__).with_name("driver.py")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(ray_cluster: Any, tmp_path: Path) -> Iterator[Start]:
    """Starts `driver.py` as a job of the cluster: tasks get its variables, as those of a submitted job do."""
    drivers = []

    def start(home: Location, folder: Path, way: str) -> "subprocess.Popen[str]":
        variables = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
        variables["FINEDEFICS_CACHE"] = str(tmp_path / "cache")
        address = ray_cluster.get_runtime_context().gcs_address
        job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": variables}})}
        drivers.append(
            subprocess.Popen(
                [sys.executable, str(DRIVER), str(home), str(folder), way],
                env={**os.environ, **variables, **job, "RAY_ADDRESS": address},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.kill()
        driver.communicate()


def await_event(driver: "subprocess.Popen[str]", name: str) -> dict[str, Any]:
    assert driver.stdout is not None
    for line in driver.stdout:
        if (event := json.loads(line))["event"] == name:
            return event
    raise AssertionError(f"the driver ended ({driver.wait()}) without {name!r}")


@pytest.mark.parametrize("store", ["disk", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_killed_driver_leaves_nothing_half_made_and_the_next_goes_on(
    store: str, start: Start, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """SIGKILL while the pictures are written; on S3, what comes of it is what comes of it on a disk."""
    disk = Location.of(tmp_path / "home")
    root = disk if store == "disk" else Location.of(request.getfixturevalue("bucket")) / tmp_path.name
    driver = start(root, folder, "hold")
    await_event(driver, "held")
    driver.kill()
    driver.wait()
    workspace = open_workspace(root)
    home = workspace.datasets / "birds"
    assert dataset_names(workspace) == []
    assert not any(way.endswith(("manifest.json", "latest")) or "steps" in way for way in home.files())
    parts = [home / way for way in home.files() if "/samples/" in way]
    assert parts
    for later in parts[1:]:  # as if it had been killed when one was written
        later.delete()
    written = parts[0].modified()

    digests = [step(open_workspace(disk)).digest for step in steps(folder)]
    if store == "s3":
        assert await_event(start(root, folder, "go"), "done")["digests"] == digests
    assert parts[0].modified() == written, "what was there is gone on with"
    dataset = open_dataset(workspace, "birds")
    assert dataset.digest == digests[-1]
    assert len(dataset.samples("train")) == 14


def test_of_two_drivers_at_once_one_does_it_and_the_other_waits_and_says_for_whom(
    start: Start, folder: Path, workspace: Workspace
) -> None:
    driver = start(workspace.root, folder, "hold")
    await_event(driver, "held")
    told = Waits(driver)
    dataset = ingest(workspace, "birds", folder, row_group_rows=4, progress=told)
    assert [name for name, _ in told.events] == ["waiting", "skipped"]
    waiting = told.events[0][1]
    assert waiting["work"] == "ingest of birds"
    assert waiting["holder"].endswith(f"process {driver.pid}")
    assert told.lines[0].startswith(f"waiting: ingest of birds is being done by {waiting['holder']}, since ")
    assert await_event(driver, "done")["digests"][0] == dataset.digest


class Waits:
    """A `Progress` that lets the other driver go on once it is waited for."""

    def __init__(self, driver: "subprocess.Popen[str]") -> None:
        self.driver = driver
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.lines: list[str] = []

    def event(self, name: str, /, **fields: Any) -> None:
        self.events.append((name, fields))
        if name == "waiting":
            assert self.driver.stdin is not None
            self.driver.stdin.write("\n")
            self.driver.stdin.flush()

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        raise AssertionError(f"{label}: both do the work")
        yield


def steps(folder: Path) -> list[Callable[[Workspace], Dataset]]:
    return [
        lambda workspace: ingest(workspace, "birds", folder, row_group_rows=4),
        lambda workspace: describe(workspace, "birds"),
        lambda workspace: mine(workspace, "birds"),
    ]
