"""Searches whose driver was killed go on; searches that start over do, and keep the old one until then."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.search.document import Search
from finedefics_platform.search.run import SearchResult, run_search
from finedefics_platform.tracking.runs import children, get_run
from finedefics_platform.tracking.tracker import Tracker
from finedefics_platform.training.run import open_run

from .conftest import STAGE, document_of, search_of

ROOT = Path(__file__).parents[3]
KILLED_AFTER_SECONDS = 300


pytestmark = pytest.mark.slow


def search(concurrent: int = 1) -> Search:
    """Two trials, one after the other unless asked otherwise."""
    space = {"stages.0.learning_rate": {"uniform": [1e-5, 1e-4]}}
    return search_of(name="killed", space=space, metric="val_alignment", trials=2, concurrent=concurrent)


def document(model: Path) -> dict[str, Any]:
    """Of a few steps."""
    return document_of(
        model, stages=[{**STAGE, "name": "a", "steps": 3}], evaluation={"every": 3, "limit": 2}
    )


@pytest.fixture(scope="module")
def killed(drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path) -> str:
    """The key of the run that was finished when the driver of its search was killed."""
    command = [sys.executable, "-m", "tests.orchestration.search.driver"]
    driver = subprocess.Popen(
        [*command, str(drawn_workspace.root), str(tiny_model)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + KILLED_AFTER_SECONDS
        while not (finished := _finished(drawn_workspace)) and time.monotonic() < deadline:
            assert driver.poll() is None, "the search ended before it could be killed"
            time.sleep(0.2)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    assert len(finished) == 1
    return finished[0]


def _finished(workspace: Workspace) -> list[str]:
    runs = workspace.runs.children()
    return [run.name for run in runs if run.name.startswith("killed") and (run / "result.json").is_file()]


@pytest.fixture(scope="module")
def restored(ray_cluster: Any, drawn_workspace: Workspace, killed: str, tiny_model: Path) -> SearchResult:
    tracker = Tracker(drawn_workspace, "searches")
    return run_search(drawn_workspace, search(), document(tiny_model), tracker=tracker)


def test_a_killed_search_goes_on_and_repeats_no_finished_trial(
    drawn_workspace: Workspace, killed: str, restored: SearchResult
) -> None:
    assert [trial["status"] for trial in restored.trials] == ["finished"] * 2
    assert killed in {trial["run"] for trial in restored.trials}
    assert sorted(_finished(drawn_workspace)) == sorted(trial["run"] for trial in restored.trials)
    starts = {
        trial["run"]: len(open_run(drawn_workspace, trial["run"]).attempts()) for trial in restored.trials
    }
    assert starts[killed] == 1


def test_a_restored_search_is_one_run_with_its_trials(
    drawn_workspace: Workspace, restored: SearchResult
) -> None:
    record = get_run(drawn_workspace, restored.parent_run_id or "")
    assert record.status == "finished"
    trials = children(drawn_workspace, record.run_id)
    assert sorted(str(trial.key) for trial in trials) == sorted(trial["run"] for trial in restored.trials)
    assert {trial.status for trial in trials} == {"finished"}


def test_nothing_of_the_state_of_ray_is_left(restored: SearchResult) -> None:
    assert restored.place.files() == ["search.json"]


def test_force_trains_every_trial_again(
    drawn_workspace: Workspace, restored: SearchResult, tiny_model: Path
) -> None:
    before = {t["run"]: open_run(drawn_workspace, t["run"]) for t in restored.trials}
    again = run_search(drawn_workspace, search(concurrent=2), document(tiny_model), force=True)
    assert (again.key, again.trials == restored.trials) == (restored.key, False)
    assert {t["run"] for t in again.trials} == set(before)
    for key, run in before.items():
        assert open_run(drawn_workspace, key).model != run.model
