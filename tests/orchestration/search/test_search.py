"""A real search: Ray Tune's trials are ordinary runs that open, are recorded, and leave nothing running."""

import time
from pathlib import Path
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.search.run import run_search
from finedefics_platform.search.space import trial_experiment
from finedefics_platform.tracking.runs import children, get_run
from finedefics_platform.training.run import open_run, pin, run_key

from .conftest import STEPS, Found, document_of, search_of

GOOD, WORSE, UNJUDGED = 2, 3, 1  # pictures looked at
# three trials have run before the first assertion; a busy machine takes its time
pytestmark = pytest.mark.timeout(1500)


def test_a_trial_of_full_length_finishes_and_the_winner_opens(found: Found) -> None:
    best = found.result.best
    assert best == found.trial(GOOD)
    assert (best["status"], best["step"], best["metric"]) == ("finished", sum(STEPS), 1.0)
    run = open_run(found.workspace, best["run"])
    assert "model.safetensors" in run.model.files()


def test_a_trial_that_fell_behind_is_stopped_and_not_failed(found: Found) -> None:
    worse = found.trial(WORSE)
    assert (worse["status"], worse["error"], worse["metric"]) == ("stopped", None, 0.0)
    assert worse["step"] < sum(STEPS)
    record = get_run(found.workspace, worse["run"])
    assert record.status == "killed"
    assert record.tags["finedefics.stopped_early"] == "true"


def test_a_trial_without_the_metric_fails_alone(found: Found) -> None:
    unjudged = found.trial(UNJUDGED)
    assert unjudged["status"] == "failed"
    assert "did not report val_alignment_labelled" in unjudged["error"]
    assert len(found.result.trials) == 3
    assert get_run(found.workspace, unjudged["run"]).status == "failed"


def test_steps_count_over_all_stages(found: Found) -> None:
    run = open_run(found.workspace, found.result.best["run"])
    told = [event["total_step"] for event in run.events() if event["event"] == "validation"]
    assert told == list(range(2, sum(STEPS) + 1, 2))


def test_trials_stand_under_their_search_with_true_times(found: Found) -> None:
    search = get_run(found.workspace, found.result.parent_run_id or "")
    trials = children(found.workspace, search.run_id)
    assert search.status == "finished"
    assert {trial.key for trial in trials} == {trial["run"] for trial in found.result.trials}
    winner = get_run(found.workspace, found.result.best["run"])
    assert winner.status == "finished"
    assert winner.run_id == open_run(found.workspace, winner.key or "").parent_run_id
    took = {trial.run_id: (trial.ended or 0) - trial.started for trial in trials}
    assert took[winner.run_id] > 3000
    assert (search.ended or 0) - search.started >= max(took.values())
    stages = children(found.workspace, winner.run_id)
    assert [stage.name for stage in stages] == ["a", "b"]
    assert all("val_alignment_labelled" in stage.metrics for stage in stages)


def test_a_search_whose_trials_failed_goes_on_once_the_cause_is_gone(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    document = document_of(tiny_model, resources={"workers": 0})
    search = search_of(name="mended", trials=1, space={"evaluation.limit": {"choice": [GOOD]}})
    experiment = trial_experiment(document, {"evaluation.limit": GOOD}, "mended")
    experiment = pin(drawn_workspace, experiment, drawn_dataset)
    place = drawn_workspace.runs / run_key(drawn_workspace, experiment, drawn_dataset)
    place.write_text("in the way")
    with pytest.raises(FinedeficsError, match="no trial finished"):
        run_search(drawn_workspace, search, document)
    place.delete()
    (trial,) = run_search(drawn_workspace, search, document).trials
    assert (trial["status"], trial["step"], trial["metric"]) == ("finished", sum(STEPS), 1.0)


def test_no_worker_and_no_reservation_survives_a_search(found: Found, ray_cluster: Any) -> None:
    from ray._private.state import actors

    ours = ("Trial", "TrainController", "RayTrainWorker", "PlacementGroupCleaner", "_Mailbox")
    deadline = time.monotonic() + 60
    while True:
        alive = [a["ActorClassName"] for a in actors().values() if a["State"] not in ("DEAD",)]
        left = [name for name in alive if any(each in name for each in ours)]
        groups = ray_cluster.util.placement_group_table().values()
        left += [group["state"] for group in groups if group["state"] != "REMOVED"]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert left == []


def test_a_finished_search_is_returned_at_once(found: Found) -> None:
    assert run_search(found.workspace, found.search, found.document) == found.result


def test_the_winner_is_evaluated_and_registered_by_its_key(
    found: Found, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from finedefics_platform.cli.main import main

    monkeypatch.setenv("FINEDEFICS_HOME", str(found.workspace.root))
    run = found.result.best["run"]
    name = f"winners-{found.search.name}"
    asked = ["--data", "drawn", "--answers", "alignment", "--split", "val", "--limit", "4"]
    code = main(["evaluate", run, *asked, "--register", name, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    done = json.loads(printed.out.splitlines()[-1])
    assert done["version"] == f"{name}/1"
