"""Evaluations in MLflow: each once, under the run that made the model, and later where the server is away."""

from pathlib import Path

import pytest
from registered import answers, evaluation_of, registered, trained_run

from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.evaluation.recording import record_evaluation
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.notes import NOTE
from finedefics_platform.tracking.runs import children, get_run, list_runs
from finedefics_platform.tracking.tracker import sync


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(tmp_path_factory.mktemp("a workspace"))


def test_an_evaluation_is_a_run_under_the_one_that_made_the_model(recorded: Workspace) -> None:
    run = trained_run(recorded, "measured")
    assert run.parent_run_id is not None
    evaluated = evaluation_of(recorded, run, answers(300))
    made = record_evaluation(recorded, evaluated, "measured", run=run, began=1.7e9 - 60)
    (child,) = children(recorded, run.parent_run_id)
    assert (child.run_id, child.status, child.seconds) == (made.run_id, "finished", 60)
    assert child.metrics == {"accuracy.alignment.new": 0.75, "unparsed.alignment": 0.0}
    assert child.tags["finedefics.kind"] == "evaluation"
    assert child.tags["finedefics.evaluation"] == evaluated.place.name
    assert child.tags["finedefics.model_digest"] == evaluated.summary["model_digest"]
    assert child.tags["finedefics.dataset"] == "birds@d1"
    assert (child.params["split"], child.params["options"]) == ("test", "4")
    client = open_client(recorded)
    stored = client.get_run(made.run_id)
    (given,) = stored.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("birds", "d1")
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "evaluation")]
    names = sorted(file.path for file in client.list_artifacts(made.run_id))
    assert names == ["environment.json", "items.parquet", "summary.json"]
    assert "| birds test | alignment | new | 75.0 % | 70.5 to 79.0 | 400 |" in stored.data.tags[NOTE]
    parent = client.get_run(run.parent_run_id).data.tags
    assert "| birds test | alignment | new | 75.0 %" in parent[NOTE]
    assert "| align | 4 |" in parent[NOTE]
    assert "finedefics evaluate measured --data birds" in parent[NOTE]
    assert parent["mlflow.user"]
    assert parent["mlflow.source.name"].startswith("finedefics")
    assert parent["finedefics.code"].startswith(parent["mlflow.source.git.commit"])
    assert not any("version" in tag for tag in parent), "those are in an artefact"
    experiment = client.get_experiment_by_name("models")
    assert "finedefics runs list" in experiment.tags[NOTE]
    assert stored.info.experiment_id == experiment.experiment_id, "a child stands where its parent does"


def test_an_evaluation_is_recorded_once_and_a_smaller_one_beside_it(recorded: Workspace) -> None:
    run = trained_run(recorded, "once")
    assert run.parent_run_id is not None
    full, few = (
        evaluation_of(recorded, run, answers(300)),
        evaluation_of(recorded, run, answers(12, 12), limit=12),
    )
    first = record_evaluation(recorded, full, "once", run=run)
    before = len(list_runs(recorded, limit=1000))
    assert record_evaluation(recorded, full, "once", run=run) == first
    assert len(list_runs(recorded, limit=1000)) == before
    record_evaluation(recorded, few, "once", run=run)
    assert len(children(recorded, run.parent_run_id)) == 2
    note = open_client(recorded).get_run(run.parent_run_id).data.tags[NOTE]
    assert note.index("| 400 |") < note.index("| 12 |"), "the larger one comes first"


def test_an_encoder_and_a_version_are_recorded_too(recorded: Workspace) -> None:
    other = trained_run(recorded, "an-encoder", tracked=False)
    encoder = evaluation_of(recorded, other, answers(390), answers=("knn",), encoder=True)
    alone = get_run(recorded, record_evaluation(recorded, encoder, "clip:openai/clip").run_id)
    assert (alone.parent, alone.name.partition(" (")[0]) == (None, "clip on birds test")
    version = registered(recorded, "gulls", 300)
    run = trained_run(recorded, "gulls-0")
    evaluated = evaluation_of(recorded, run, answers(20, 40), dataset="parts@d2")
    child = get_run(recorded, record_evaluation(recorded, evaluated, "gulls/1", run_id=version.run_id).run_id)
    assert child.parent == version.run_id


def test_a_server_that_is_away_gets_it_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow keeps artefacts of a database that is not the workspace's own
    workspace = open_workspace(tmp_path / "away")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = trained_run(workspace, "waiting", tracked=False)
    evaluated = evaluation_of(workspace, run, answers(300))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: refused at once
    made = record_evaluation(workspace, evaluated, "waiting", run=run)
    assert made.waiting > 0
    (spool,) = (workspace.state / "spool").glob("2*.jsonl")
    here = f"sqlite:///{tmp_path / 'server.db'}"  # the server is back, by another name
    spool.write_text(spool.read_text().replace("http://127.0.0.1:9", here))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
    assert sync(workspace).sent == made.waiting
    (found,) = list_runs(workspace)
    assert found.metrics["accuracy.alignment.new"] == 0.75
    assert found.tags["finedefics.evaluation"] == evaluated.place.name
    assert record_evaluation(workspace, evaluated, "waiting", run=run).run_id == found.run_id
