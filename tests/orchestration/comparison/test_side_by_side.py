"""`finedefics runs compare`: everything in which runs differ, in words and for machines."""

import json

import pytest
from reported import PICTURES, RIGHT, workspace_of_runs

from finedefics.errors import FinedeficsError
from finedefics.evaluation import paired_difference
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.comparison.side_by_side import compare_runs
from finedefics_platform.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = open_workspace(tmp_path_factory.mktemp("compared"))
    workspace_of_runs(workspace)
    return workspace


def test_settings_differ_key_by_key_stages_included(home: Workspace) -> None:
    found = compare_runs(home, ["joint", "plain"])
    assert (found.names, found.keys) == (("joint", "plain"), ("joint-0a1b2c", "plain-3d4e5f"))
    assert found.settings["seed"] == ("0", "1")
    assert found.settings["stages"] == ("joint", "align, tune")
    assert found.settings["stages.joint.terms.object_attribute.weight"] == ("0.5", None)
    assert found.settings["stages.tune.steps"] == (None, "6")
    assert {"data.dataset", "name", "stages.tune.terms.answer.feeds"}.isdisjoint(found.settings), "no news"


def test_metrics_are_the_last_ones(home: Workspace) -> None:
    found = compare_runs(home, ["joint", "plain"])
    assert found.metrics["loss_answer"] == pytest.approx((3 * 0.9**20, 3 * 0.9**40))
    assert found.metrics["loss_object_attribute"] == (pytest.approx(3 * 0.9**20), None)


def test_differences_are_paired_on_shared_pictures(home: Workspace) -> None:
    found = compare_runs(home, ["joint", "plain"])
    assert found.measured_on.endswith("test")
    joint, plain = found.accuracies["alignment/all/new"]
    assert joint is not None
    assert plain is not None
    assert (joint["accuracy"], plain["accuracy"]) == (RIGHT["joint"][1] / 8, RIGHT["plain"][1] / 8)
    row = next(
        row
        for row in found.paired
        if (row["answer"], row["scope"], row["group"]) == ("alignment", "all", "all")
    )
    assert (row["run"], row["against"], row["n"]) == ("plain", "joint", 6 * PICTURES)
    own, other = ([n < RIGHT[arm][1] for _ in range(6) for n in range(8)] for arm in ("plain", "joint"))
    wanted = paired_difference(own, other)
    assert (row["mean"], row["low"], row["high"]) == (wanted.mean, wanted.low, wanted.high)


def test_a_run_that_is_only_recorded_can_be_compared(home: Workspace) -> None:
    tracker = Tracker(home, "elsewhere")
    parent = tracker.parent("far", key="far-1", params={"seed": 3, "data": {"dataset": "birds@d2"}})
    stage = tracker.child(parent, "joint", params={"steps": 9})
    tracker.metrics(stage, 1, {"loss": 4.0})
    for run in (stage, parent):
        tracker.finish(run)
    found = compare_runs(home, ["joint", "far-1"])
    assert found.names == ("joint", "far")
    assert found.settings["seed"] == ("0", "3")
    assert found.settings["stages.joint.steps"] == ("4", "9")
    assert found.metrics["loss"][1] == 4.0


def test_the_command_prints_what_differs(
    home: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(home.root))
    assert main(["runs", "compare", "joint", "plain"]) == 0
    shown = capsys.readouterr().out
    for word in ("stages.tune.steps", "joint-0a1b2c", "Paired differences to joint", "below", "0.36473"):
        assert word in shown, word
    assert main(["runs", "compare", "joint", "plain", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = next(line for line in lines if line["event"] == "comparison")
    assert told["settings"]["seed"] == ["0", "1"]
    assert told["paired"][0]["n"] > 0
    assert lines[-1] == {"event": "done", "runs": ["joint-0a1b2c", "plain-3d4e5f"]}


def test_wrong_use_is_told_in_a_line(home: Workspace) -> None:
    with pytest.raises(FinedeficsError, match="the same run twice") as caught:
        compare_runs(home, ["joint", "joint-0a"])
    assert caught.value.exit_code == 2
    with pytest.raises(FinedeficsError, match="there is no run"):
        compare_runs(home, ["joint", "nobody"])
