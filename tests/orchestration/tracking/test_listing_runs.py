"""Runs as a person lists and calls them: by kind, with accuracy and why one failed, by any of their names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import lease
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.runs import app
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.runs import RunRecord, get_run, list_runs, mark_deleted
from finedefics_platform.tracking.tracker import Tracker

JOINT, BOTH, GONE = "joint-1a2b3c4d5e6f", "both-ffff00001111", "gone-777777777777"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Workspace:
    """A run with two stages and two evaluations, one that failed, one whose driver was killed, a search."""
    import shutil

    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.tracking.own_database import own_file

    workspace = open_workspace(tmp_path_factory.mktemp("listed"))
    shutil.copyfile(empty_database, own_file(workspace))
    tracker = Tracker(workspace, "birds")
    joint = tracker.parent("joint", key=JOINT, time=1000.0)
    for number, name in enumerate(("align", "tune")):
        stage = tracker.child(joint, name, time=1000.0 + 30 * number)
        tracker.metrics(stage, 1, {"loss": 2.5 - number})
        tracker.finish(stage, time=1030.0 + 30 * number)
    tracker.finish(joint, time=1065.0)
    for number, share in enumerate((0.25, 0.625)):
        tags = {"kind": "evaluation", "dataset": "birds@d1"}
        evaluation = tracker.child(joint, f"evaluation {number}", tags=tags, time=1100.0 + number)
        shares = {"accuracy.names.labelled": 0.1, "accuracy.names.new": 0.1}
        shares |= {"accuracy.alignment.labelled": share, "accuracy.alignment.new": 0.5}
        tracker.metrics(evaluation, 0, shares)
        tracker.finish(evaluation, time=1102.0)
    both = tracker.parent("both", key=BOTH, time=2000.0)
    error = FinedeficsError("none is sure enough", place="feed inferred", cure="label again")
    tracker.finish(both, "FAILED", why=error, time=2001.0)
    for place in (workspace.runs / JOINT, workspace.runs / BOTH, workspace.runs / GONE):
        (place / "experiment.json").write_text("{}")
    gone = tracker.parent("gone", key=GONE, time=3000.0)
    tracker.child(gone, "align", time=3000.0)
    tracker.child(gone, "warm", time=3001.0)
    search = tracker.parent("small", key="small-222222222222", tags={"kind": "search"}, time=4000.0)
    trial = tracker.child(search, "one-333333333333", tags={"kind": "trial", "key": "one-333333333333"})
    tracker.tags(trial, {"stopped_early": True})
    tracker.finish(trial, "KILLED", why=KeyboardInterrupt())
    tracker.finish(search, "KILLED", why=KeyboardInterrupt(), time=4100.0)
    return workspace


@pytest.fixture
def by_name(recorded: Workspace) -> dict[str, RunRecord]:
    return {record.name: record for record in list_runs(recorded)}


def shown(recorded: Workspace, *command: str) -> str:
    environment = {"FINEDEFICS_HOME": str(recorded.root), "COLUMNS": "300"}
    return CliRunner().invoke(app, [*command], env=environment, catch_exceptions=False).output


def events(recorded: Workspace, *command: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shown(recorded, *command, "--json").splitlines()]


def test_every_run_has_its_kind_and_duration(by_name: dict[str, RunRecord]) -> None:
    kinds = {name: record.kind for name, record in by_name.items()}
    assert kinds == {
        "joint": "pipeline",
        "both": "pipeline",
        "gone": "pipeline",
        "align": "stage",
        "tune": "stage",
        "warm": "stage",
        "evaluation 0": "evaluation",
        "evaluation 1": "evaluation",
        "small": "search",
        "one-333333333333": "trial",
    }
    assert by_name["joint"].seconds == 65.0
    assert by_name["small"].seconds == 100.0


def test_why_it_did_not_finish_and_how_to_go_on(by_name: dict[str, RunRecord]) -> None:
    assert by_name["joint"].failure is None
    assert by_name["both"].failure == "feed inferred: none is sure enough; label again"
    assert by_name["gone"].status == "lost"
    assert by_name["gone"].failure == f"its process is gone; go on: finedefics train --resume {GONE}"
    assert by_name["warm"].status == "lost", "under one that is"
    assert by_name["small"].failure == "interrupted; go on: the same `finedefics tune`"
    assert by_name["one-333333333333"].failure == "stopped early by its search"


def test_a_run_that_somebody_works_on_is_not_lost(recorded: Workspace) -> None:
    with lease(recorded.runs / GONE / "lease", "run gone"):
        assert get_run(recorded, GONE).status == "running"
    assert get_run(recorded, GONE).status == "lost"


def test_the_list_hides_what_is_under_a_run_and_says_that_it_is_there(recorded: Workspace) -> None:
    listed = shown(recorded, "list")
    (joint,) = [line for line in listed.splitlines() if JOINT in line]
    for words in ("pipeline", "finished", "1 min 5 s", "1.5", "2 stages, 2 evaluations"):
        assert words in joint
    assert "alignment 62.5 %" in joint, "of the newest evaluation the righter answer"
    (machine,) = [event for event in events(recorded, "list")[:-1] if event["key"] == JOINT]
    assert machine["evaluated"]["alignment"] == {"labelled": 0.625, "new": 0.5}
    assert "align " not in listed.replace("alignment", "")
    assert "  tune" in shown(recorded, "list", "--all")
    only = events(recorded, "list", "--kind", "search")
    assert [event["kind"] for event in only[:-1]] == ["search", "trial"]


def test_the_limit_counts_runs_and_not_what_is_under_them(recorded: Workspace) -> None:
    found = list_runs(recorded, limit=2)
    assert [record.name for record in found] == [
        "small",
        "one-333333333333",
        "gone",
        "align",
        "warm",
    ]


def test_show_takes_every_name_that_the_list_prints(recorded: Workspace) -> None:
    for event in events(recorded, "list", "--all")[:-1]:
        for name in (event["run_id"], event["run_id"][:12], event["key"], event["name"]):
            if name is None or name == "align":
                continue
            assert events(recorded, "show", name)[0]["run_id"] == event["run_id"]
    assert get_run(recorded, "join").name == "joint", "the beginning of a key"
    with pytest.raises(FinedeficsError, match=r"several runs are called so; give one of: \w{32} \(align\)"):
        get_run(recorded, "align")


def test_near_names_are_suggested(recorded: Workspace) -> None:
    for wrong in ("joimt", "joint-1a2b3c4d5e66"):
        with pytest.raises(FinedeficsError, match=f"did you mean .*{JOINT}"):
            get_run(recorded, wrong)
    with pytest.raises(FinedeficsError) as caught:
        get_run(recorded, "xyzzy")
    assert str(caught.value) == "xyzzy: there is no such run; see `finedefics runs list`"
    assert caught.value.exit_code == 2


def test_a_deleted_run_is_not_listed_and_its_children_neither(new_workspace: Callable[[str], Any]) -> None:
    workspace = new_workspace("deleted")
    tracker = Tracker(workspace, "birds")
    parent = tracker.parent("old", key="old-1")
    stage = tracker.child(parent, "align")
    tracker.finish(parent)
    assert mark_deleted(workspace, parent) == 2
    assert list_runs(workspace) == []
    assert get_run(workspace, stage).status == "deleted"
    open_client(workspace).restore_run(parent)
    assert [record.name for record in list_runs(workspace)] == ["old"]
