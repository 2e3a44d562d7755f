"""A study whose process was killed goes on: no step that was finished is done again."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finedefics_platform.base.events import read_events
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.study.document import Study
from finedefics_platform.study.plan import plan
from finedefics_platform.study.run import open_study, run_study
from finedefics_platform.tracking.runs import children, get_run
from finedefics_platform.tracking.tracker import Tracker

from .conftest import EXPERIMENT, document_of

ROOT = Path(__file__).parents[3]
KILLED_AFTER_SECONDS = 300
FINISHED = 4  # steps when it is killed: data, base and figures of the first world's base, and the truth

pytestmark = pytest.mark.slow


def planned_study(**changes: Any) -> tuple[Study, dict[str, dict[str, Any]]]:
    return Study.model_validate(document_of(**changes)), {"oracle": EXPERIMENT}


def test_a_killed_study_goes_on_and_repeats_no_finished_step(workspace: Workspace, ray_cluster: Any) -> None:
    study, documents = planned_study()
    key = plan(workspace, study, documents).key
    steps, events = workspace.studies / "steps", workspace.studies / key / "events"
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.orchestration.study.driver", str(workspace.root)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + KILLED_AFTER_SECONDS
        while len(steps.children()) < FINISHED and time.monotonic() < deadline:
            assert driver.poll() is None, "the study ended before it could be killed"
            time.sleep(0.1)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    before = {place.name.removesuffix(".json") for place in steps.children()}
    assert FINISHED <= len(before) < 12

    tracker = Tracker(workspace, "studies")
    done = run_study(workspace, study, documents, tracker=tracker)
    assert (done.done, done.reused) == (12 - len(before), len(before))
    told = Counter((event["event"], event.get("address")) for event in read_events(events))
    finished = {address: n for (name, address), n in told.items() if name == "step_finished"}
    assert len(finished) == 12
    assert set(finished.values()) == {1}
    assert {told["step_started", address] for address in before} == {1}

    assert done.summary["arms"]["oracle"]["new/names"]["n"] == 2
    assert done.summary["tokens"]["base"] is None
    assert done.summary["tokens"]["oracle"] > 0
    assert open_study(workspace, "small")[1] == done.summary
    record = get_run(workspace, done.parent_run_id or "")
    assert record.status == "finished"
    assert len(children(workspace, record.run_id)) == 4
    other, documents = planned_study(name="other", question="Another?")
    again = run_study(workspace, other, documents)
    assert (again.done, again.reused) == (0, 12), "what is finished is shared by studies"
    assert again.summary["figures"] == done.summary["figures"]
