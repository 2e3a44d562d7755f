"""Runs, searches and studies go with their records, and nothing goes that somebody needs."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from registered import answers, evaluation_of, trained_run

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location, lease
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli import main as shell
from finedefics_platform.models.packaging import open_package
from finedefics_platform.models.registration import register_run
from finedefics_platform.models.registry import get_version
from finedefics_platform.operate.cleaning import dispensable, remove
from finedefics_platform.operate.deleting import delete, doomed
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.runs import list_runs
from finedefics_platform.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One registered run and its workspace, for the file."""
    workspace = open_workspace(tmp_path_factory.mktemp("home"))
    run = trained_run(workspace, "kept-1")
    register_run(workspace, "kept", run, evaluation_of(workspace, run, answers(3, 12)))
    return workspace


@pytest.fixture
def told(
    home: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    monkeypatch.setenv("FINEDEFICS_HOME", str(home.root))

    def command(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
        code = shell.main([*arguments, "--json"])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return command


def held(place: Location) -> int:
    return place.held()[0]


def test_a_look_first_and_then_the_run_and_its_record(home: Workspace, told: Any) -> None:
    run = trained_run(home, "old-1")
    size = held(run.place)
    code, (found, done) = told("runs", "delete", "old-1")
    assert (code, found["run"], found["bytes"], found["needed_by"]) == (0, "old-1", size, [])
    assert done == {"event": "done", "deleted": 0, "bytes": size}
    assert run.model.exists(), "a look deletes nothing"
    assert told("runs", "delete", "old-1", "--yes")[1][-1]["deleted"] == 1
    assert not run.place.exists()
    assert "old-1" not in [record.key for record in list_runs(home)]
    code, (failed,) = told("runs", "delete", "old-1")
    assert (code, failed["error"]["thing"]) == (2, "there is no such run")
    again = trained_run(home, "old-1")
    assert again.parent_run_id != run.parent_run_id, "trained again, it is recorded anew"
    assert told("runs", "delete", "old-1", "--yes")[0] == 0


def test_a_run_that_was_not_recorded_goes_by_its_folder(home: Workspace, told: Any) -> None:
    run = trained_run(home, "untold-1", tracked=False)
    assert told("runs", "delete", "untold", "--yes")[0] == 0
    assert not run.place.exists()


def test_what_a_registered_model_needs_stays(home: Workspace, told: Any) -> None:
    other = trained_run(home, "bystander-1")
    code, events = told("runs", "delete", "bystander-1", "kept-1", "--yes")
    assert code == 1
    assert events[-1]["error"]["thing"] == "it is needed by registered model kept/1, so nothing was deleted"
    assert other.place.exists()
    assert (home.runs / "kept-1").exists()


def test_what_a_study_needs_stays_until_the_study_goes(home: Workspace) -> None:
    run = trained_run(home, "step-1")
    step = {"title": "train joint in world 3", "result": {"run": "step-1"}}
    (home.studies / "steps" / "a1.json").write_json(step)
    study = home.studies / "both-0a0a0a0a0a0a"
    (study / "study.json").write_json({"addresses": ["a1"]})
    (found,) = doomed(home, ["step-1"])
    assert found.needed_by == ("study both-0a0a0a0a0a0a (train joint in world 3)",)
    (study / "study.json").write_json({"addresses": ["b2"]})
    assert doomed(home, ["step-1"])[0].needed_by == ()
    (study / "study.json").write_json({})
    assert doomed(home, ["step-1"])[0].needed_by, "a study that does not say what it is made of"
    both = doomed(home, ["step-1", "both"])
    assert [each.needed_by for each in both] == [(), ()]
    for each in both:
        delete(home, each)
    assert not run.place.exists()
    assert not study.exists()


def test_a_search_goes_with_its_trials_and_its_best_not_without_it(home: Workspace) -> None:
    tracker = Tracker(home, "models")
    search = tracker.parent("small", key="small-1", tags={"kind": "search"})
    tracker.finish(search)
    trials = [trained_run(home, f"trial-{number}", tracked=False) for number in range(2)]
    told = {"best": {"run": "trial-0"}, "trials": [{"run": "trial-0"}, {"run": "trial-1"}, {"run": None}]}
    (home.searches / "small-1" / "search.json").write_json(told)
    (best,) = doomed(home, ["trial-0"])
    assert best.needed_by == ("search small-1, whose best trial it is",)
    found = doomed(home, ["small-1"])
    assert [(each.key, each.kind, each.needed_by) for each in found] == [
        ("small-1", "search", ()),
        ("trial-0", "trial", ()),
        ("trial-1", "trial", ()),
    ]
    for each in found:
        delete(home, each)
    assert not any(trial.place.exists() for trial in trials)
    assert not (home.searches / "small-1").exists()


def test_what_somebody_works_on_stays(home: Workspace) -> None:
    run = trained_run(home, "busy-1")
    (found,) = doomed(home, ["busy-1"])
    with lease(run.place / "lease", "run busy-1"):
        (busy,) = doomed(home, ["busy-1"])
        assert "who works on it" in busy.needed_by[0]
        with pytest.raises(FinedeficsError, match="is being done by"):
            delete(home, found)
    assert run.model.exists()


def test_a_stage_goes_with_its_run(home: Workspace) -> None:
    tracker = Tracker(home, "models")
    parent = tracker.parent("whole", key="whole-1")
    stage = tracker.child(parent, "align")
    with pytest.raises(FinedeficsError, match="this stage goes with its run") as caught:
        doomed(home, [stage])
    assert caught.value.exit_code == 2


def test_the_record_of_a_deleted_run_ends_and_others_stay(home: Workspace) -> None:
    """MLflow's own command would end every deleted experiment with it."""
    client = open_client(home)
    aside = client.create_experiment("aside")
    client.delete_experiment(aside)
    run = trained_run(home, "ended-1")
    client.log_text(run.parent_run_id, "x" * 50, "note.txt")
    (each,) = doomed(home, ["ended-1"])
    delete(home, each)
    client.delete_run(get_version(home, "kept/1").run_id)  # by hand, though a version needs it
    recorded = [one for one in dispensable(home, timedelta(0)) if one.kind == "recorded"]
    ours = next(one for one in recorded if one.about["id"] == run.parent_run_id)
    assert ours.bytes == 50
    assert get_version(home, "kept/1").run_id not in [one.about["id"] for one in recorded]
    assert [one for one in dispensable(home) if one.kind == "recorded"] == [], "deleted just now"
    client.restore_run(run.parent_run_id)
    assert remove(home, ours)
    assert client.get_run(run.parent_run_id).info.lifecycle_stage == "active", "restored meanwhile"
    client.delete_run(run.parent_run_id)
    assert remove(home, ours)
    left = client.search_runs(["0", run_experiment(home)], run_view_type=ViewType.ALL)
    assert run.parent_run_id not in [one.info.run_id for one in left]
    assert not ours.place.exists()
    assert client.get_experiment(aside).lifecycle_stage == "deleted"
    client.restore_run(get_version(home, "kept/1").run_id)


def run_experiment(home: Workspace) -> str:
    return open_client(home).get_experiment_by_name("models").experiment_id


def test_a_package_of_no_version_goes_and_a_registered_one_stays(home: Workspace) -> None:
    run = trained_run(home, "twice-1")
    first = register_run(home, "twice", run, evaluation_of(home, run, answers(3, 12)))
    second = register_run(home, "twice", run, evaluation_of(home, run, answers(4, 12)))
    gone = home.place_of(first.tags["package"])
    assert [one for one in dispensable(home, timedelta(0)) if one.kind == "package"] == []
    open_client(home).delete_model_version("twice", "1")
    (found,) = (one for one in dispensable(home, timedelta(0)) if one.kind == "package")
    assert found.place == gone
    assert remove(home, found)
    assert not gone.exists()
    assert (open_package(home, second) / "model" / "config.json").is_file()


def test_what_finished_work_left_over_goes_at_any_age(home: Workspace) -> None:
    run = trained_run(home, "left-1")
    (run.place / "training-1" / "checkpoints" / "1" / "shard").write_text("x" * 100)
    (home.searches / "left-2" / "tune-1" / "state").write_text("x" * 10)
    (home.searches / "left-2" / "search.json").write_json({"best": {"run": "left-1"}, "trials": []})
    with lease(run.place / "lease", "run left-1"):
        assert "training" not in [one.kind for one in dispensable(home)]
    found = {one.kind: one for one in dispensable(home)}
    assert (found["training"].bytes, found["search"].bytes) == (100, 10)
    for one in found.values():
        assert remove(home, one)
    assert run.model.exists()
    assert (home.searches / "left-2").exists()
    assert dispensable(home) == []


def test_drafts_of_killed_writers_go_and_young_ones_stay(home: Workspace, tmp_path: Path) -> None:
    import os
    import time

    old = home.models / ".thing.0123abcd"
    young = home.models / ".thing.4567abcd"
    for place in (old, young):
        (place / "weights").write_text("x")
    days_ago = time.time() - 10 * 24 * 3600
    os.utime((old / "weights").uri, (days_ago, days_ago))
    drafts = [one for one in dispensable(home, timedelta(0)) if one.kind == "draft"]
    assert [one.place for one in drafts] == [old]
    assert remove(home, drafts[0])
    assert young.exists()
    young.delete()
