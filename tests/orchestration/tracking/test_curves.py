"""Curves are stamped when they happened, and stay whole and single through a killed driver."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finedefics_platform.base.times import in_words
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.runs import app
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.runs import get_run
from finedefics_platform.tracking.spool import Spool
from finedefics_platform.tracking.tracker import Tracker, destination, sync

Make = Callable[[str], Workspace]
BEGAN = 1_700_000_000.0

# Tells its log what happens, as training does, and is killed with entries in its memory.
DRIVER = """
import json, os, signal, sys
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.tracking.tracker import Tracker

tracker = Tracker(open_workspace(sys.argv[1]), "killed")
stage = tracker.child(tracker.parent("train", key="killed-1", time=1.7e9), "stage1", time=1.7e9)
with open(sys.argv[2], "w", buffering=1) as log:
    for step in range(12):
        event = {"step": step, "time": 1.7e9 + step, "metrics": {"loss": 1 / (step + 1), "seconds": 0.5}}
        log.write(json.dumps(event) + "\\n")
        tracker.metrics(stage, step, event["metrics"], time=event["time"])
        if step == 7:
            tracker.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def points(workspace: Workspace, run: str, key: str) -> list[tuple[int, float, float]]:
    """(step, value, Unix seconds) of every point that the store has."""
    found = open_client(workspace).get_metric_history(run, key)
    return sorted((point.step, point.value, point.timestamp / 1000) for point in found)


def test_a_killed_driver_leaves_one_gapless_curve(new_workspace: Make, tmp_path: Path) -> None:
    workspace = new_workspace("w")
    log = tmp_path / "events.jsonl"
    killed = subprocess.run([sys.executable, "-c", DRIVER, workspace.root.uri, str(log)], timeout=120)
    assert killed.returncode == -signal.SIGKILL

    tracker = Tracker(workspace, "killed")
    parent = tracker.parent("train", key="killed-1", time=BEGAN + 500)
    stage = tracker.child(parent, "stage1", time=BEGAN)
    assert [step for step, *_ in points(workspace, stage, "loss")] == list(range(8)), (
        "four were in its memory"
    )
    for event in map(json.loads, log.read_text().splitlines()):
        tracker.metrics(stage, event["step"], event["metrics"], time=event["time"])
    for step in range(10, 20):  # from the checkpoint before step 10, slower this time
        values = {"loss": 1 / (step + 1), "seconds": 0.7}
        tracker.metrics(stage, step, values, time=BEGAN + 500 + step)
    tracker.finish(stage, time=BEGAN + 520)
    tracker.finish(parent, time=BEGAN + 530)

    happened = [BEGAN + step + (500 if step >= 12 else 0) for step in range(20)]
    assert points(workspace, stage, "loss") == [(s, 1 / (s + 1), happened[s]) for s in range(20)]
    assert points(workspace, stage, "seconds") == [
        (s, 0.5 if s < 12 else 0.7, happened[s]) for s in range(20)
    ]
    assert (
        len(open_client(workspace).search_runs([open_client(workspace).get_run(parent).info.experiment_id]))
        == 2
    )
    assert get_run(workspace, "killed-1").seconds == 530


def test_a_spool_of_a_dead_driver_adds_nothing_that_was_told_again(new_workspace: Make) -> None:
    workspace = new_workspace("w")
    tracker = Tracker(workspace, "spooled")
    run = tracker.parent("train", key="spooled-1")
    event = {"run": run, "entry": "metrics", "once": True}
    old = [{**event, "step": s, "time": 1000 + s, "values": {"loss": float(s)}} for s in range(5)]
    Spool(workspace.state / "spool", "dead", destination(workspace)).append(old)
    for step in range(10):
        tracker.metrics(run, step, {"loss": float(step)}, time=50.0 + step)
    tracker.finish(run)
    assert sync(workspace).sent == 5
    assert [step for step, *_ in points(workspace, run, "loss")] == list(range(10))


def test_a_value_that_is_measured_again_is_recorded_again(new_workspace: Make) -> None:
    workspace = new_workspace("w")
    tracker = Tracker(workspace, "measured")
    run = tracker.parent("train", key="measured-1")
    for accuracy in (0.5, 0.25):
        tracker.metrics(run, 0, {"accuracy": accuracy})
        tracker.flush()
    assert {value for _, value, _ in points(workspace, run, "accuracy")} == {0.5, 0.25}


def test_runs_last_what_they_lasted(new_workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = new_workspace("w")
    tracker = Tracker(workspace, "lasted")
    search = tracker.parent("search", key="lasted-1", time=BEGAN)
    trial = tracker.child(search, "trial", time=BEGAN + 1.25)
    tracker.metrics(trial, 3, {"loss": 1.0}, time=BEGAN + 2)
    tracker.finish(trial, time=BEGAN + 4.75)
    tracker.finish(search, time=BEGAN + 3 * 3600 + 61)
    assert points(workspace, trial, "loss") == [(3, 1.0, BEGAN + 2)]
    assert (get_run(workspace, trial).seconds, get_run(workspace, search).seconds) == (3.5, 10861.0)

    monkeypatch.setattr("time.time", lambda: BEGAN + 100)
    assert tracker.parent("search", key="lasted-1") == search
    record = get_run(workspace, search)
    assert (record.status, record.ended, record.seconds) == ("running", None, 100.0)
    listed = CliRunner().invoke(
        app,
        ["list", "--all"],
        env={"FINEDEFICS_HOME": workspace.root.uri, "COLUMNS": "200"},
        catch_exceptions=False,
    )
    assert "3.5 s" in listed.output
    assert "1 min 40 s" in listed.output


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0.0 s"),
        (0.31, "0.3 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3725, "1 h 2 min"),
        (180_000, "2 days 2 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert in_words(seconds) == shown


def test_equal_runs_that_are_opened_at_once_are_one(new_workspace: Make) -> None:
    workspace = new_workspace("w")
    trackers = [Tracker(workspace, "at once") for _ in range(4)]
    opened: list[tuple[str, str]] = []
    together = threading.Barrier(len(trackers))

    def open_both(tracker: Tracker) -> None:
        together.wait()
        parent = tracker.parent("train", key="at-once-1")
        opened.append((parent, tracker.child(parent, "stage1")))

    threads = [threading.Thread(target=open_both, args=(tracker,)) for tracker in trackers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    assert len(set(opened)) == 1
