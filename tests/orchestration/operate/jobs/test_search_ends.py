"""What a search holds on a cluster is free again when its job ends, in whatever way (ray#54305)."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import yaml

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.job import load_job
from finedefics_platform.data.store import Dataset
from finedefics_platform.operate.clusters.record import marked
from finedefics_platform.operate.clusters.state import look
from finedefics_platform.operate.jobs.following import stop
from finedefics_platform.operate.jobs.log import LogReader
from finedefics_platform.operate.jobs.records import JobRecord
from finedefics_platform.operate.jobs.submission import submit

if TYPE_CHECKING:
    from tests.orchestration.operate.jobs.conftest import Head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

FREE_SECONDS = 90  # Ray reports what is in use every few seconds


def searching(workspace: Workspace, dataset: Dataset, model: Path, folder: Path, seed: int) -> JobRecord:
    """A search of two trials at a time, each by Ray Train, that would go on for long."""
    stage = {"name": "a", "steps": 2000, "feeds": {"labelled": 2}, "terms": {"answer": 1}}
    experiment = {
        "name": "one",
        "data": {"dataset": dataset.name, "negatives": 2},
        "model": {"path": str(model)},
        "resources": {"workers": 1},
        "evaluation": {"every": 2},
        "stages": [stage],
    }
    search = {
        "name": f"ends-{seed}",
        "experiment": "one.yaml",
        "space": {"evaluation.limit": {"choice": [1, 2, 3, 4]}},
        "metric": "val_alignment_labelled",
        "trials": 4,
        "concurrent": 2,
        "grace_steps": 1000,
        "seed": seed,
    }
    for name, document in (("one", experiment), ("search", search)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
    spec = folder / "job.yaml"
    spec.write_text(
        yaml.safe_dump({"name": "ends", "job": "tune", "document": "search.yaml", "stop_grace": 90})
    )
    return submit(workspace, load_job(spec), spec).record


def groups(head: "Head") -> dict[str, int]:
    """Placement groups by their state."""
    found: dict[str, int] = {}
    for group in head.cluster.ask("/api/v0/placement_groups?limit=1000")["data"]["result"]["result"]:
        found[group["state"]] = found.get(group["state"], 0) + 1
    return found


def until_free(head: "Head") -> None:
    deadline = time.monotonic() + FREE_SECONDS
    while True:
        held = {state: count for state, count in groups(head).items() if state != "REMOVED"}
        used = look(head.jobs, head.token).used.get("CPU", 0.0)
        if not held and used == 0:
            return
        assert time.monotonic() < deadline, (held, used)
        time.sleep(1)


@pytest.mark.parametrize("way", ["stopped", "failed"])
def test_nothing_is_held_after_a_search_that(
    way: str,
    let_in: "Head",
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    record = searching(drawn_workspace, drawn_dataset, tiny_model, tmp_path, seed=len(way))

    def told() -> Any:
        return record.status(), LogReader(record.log).take(last=True)

    deadline = time.monotonic() + 600
    while groups(let_in).get("CREATED", 0) < 4:  # a trial's own, and that of its Ray Train
        assert time.monotonic() < deadline, (told(), groups(let_in))
        assert record.status().get("state", "running") == "running", told()
        time.sleep(0.5)
    if way == "stopped":
        assert stop(drawn_workspace, record).state == way
    else:
        (driver,) = [one for one in marked(let_in.mark) if "tune" in one.cmdline()]
        driver.kill()
        psutil.wait_procs([driver], 30)
        while record.status()["state"] == "running":
            assert time.monotonic() < deadline, told()
            time.sleep(0.5)
        assert record.status()["state"] == way, told()
    until_free(let_in)
