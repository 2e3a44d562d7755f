"""Runs as MLflow has them afterwards, read back with MLflow's own client."""

import json
import math
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.runs import app
from finedefics_platform.comparison.side_by_side import compare_runs
from finedefics_platform.tracking.delivery import Delivery
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.own_database import own_file
from finedefics_platform.tracking.runs import get_run, list_runs
from finedefics_platform.tracking.spool import Spool
from finedefics_platform.tracking.tracker import Tracker, destination, server_run_id, sync

NOBODY_LISTENS = "http://127.0.0.1:9"  # the discard port: refused at once


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Workspace:
    """One workspace for the file, its path with a space in it."""
    workspace = open_workspace(tmp_path_factory.mktemp("a workspace"))
    shutil.copyfile(empty_database, own_file(workspace))
    return workspace


@pytest.fixture(scope="module")
def client(recorded: Workspace) -> MlflowClient:
    return open_client(recorded)


def history(client: MlflowClient, run_id: str, key: str) -> dict[int, float]:
    found = client.get_metric_history(run_id, key)
    assert len({metric.step for metric in found}) == len(found), "a step was recorded twice"
    return {metric.step: metric.value for metric in found}


def test_a_pipeline_is_read_back_as_it_was_written(
    recorded: Workspace, client: MlflowClient, tmp_path: Path
) -> None:
    tracker = Tracker(recorded, "pipelines")
    parent = tracker.parent(
        "birds",
        key="birds-1",
        tags={"dataset_digest": "d123", "config_digest": "c456"},
        params={"seed": 3, "stages": [{"steps": 5}], "model": {"path": "tiny", "train": ["text"]}},
    )
    child = tracker.child(parent, "stage1", params={"learning_rate": 1e-3})
    losses = {step: 1 / (step + 1) for step in range(450)}
    for step, loss in losses.items():
        tracker.metrics(child, step, {"loss": loss, "never": math.nan if step % 2 else math.inf})
    (tmp_path / "table.txt").write_text("x")
    tracker.artifact(child, tmp_path / "table.txt", "tables")
    tracker.tags(child, {"restarts": 1})
    tracker.finish(child, "FAILED")
    tracker.finish(parent)

    assert history(client, child, "loss") == losses
    assert sum(math.isnan(value) for value in history(client, child, "never").values()) == 225
    run, stage = client.get_run(parent), client.get_run(child)
    assert run.data.params == {
        "seed": "3",
        "stages": '[{"steps": 5}]',
        "model.path": "tiny",
        "model.train": '["text"]',
    }
    assert (run.info.status, stage.info.status) == ("FINISHED", "FAILED")
    tags = run.data.tags
    assert (tags["finedefics.dataset_digest"], tags["finedefics.config_digest"]) == ("d123", "c456")
    assert {"mlflow.user", "mlflow.source.name", "mlflow.source.git.commit", "finedefics.code"} <= tags.keys()
    environment = json.loads(
        Path(client.download_artifacts(parent, "environment.json", str(tmp_path))).read_text()
    )
    assert {"version.torch", "version.mlflow", "python", "git_commit"} <= environment.keys()
    assert stage.data.tags["mlflow.parentRunId"] == parent
    assert stage.data.tags["finedefics.restarts"] == "1"
    assert [file.path for file in client.list_artifacts(child, "tables")] == ["tables/table.txt"]
    assert (recorded.artifacts / f"pipelines/{child}/artifacts/tables/table.txt").is_file()
    assert tracker.waiting() == 0


def test_a_rerun_finds_the_finished_run_and_continues_an_unfinished_one(recorded: Workspace) -> None:
    first = Tracker(recorded, "reruns")
    assert first.find_run("it's-1") is None
    parent = first.parent("run", key="it's-1", params={"a": 1})
    child = first.child(parent, "stage1")
    assert first.find_run("it's-1") is None, "it has not finished"

    second = Tracker(recorded, "reruns")
    assert second.parent("run", key="it's-1", params={"a": 2, "b": 3}) == parent
    assert second.child(parent, "stage1") == child
    assert second.child(parent, "stage2") != child
    second.finish(parent)
    assert first.find_run("it's-1") == parent
    assert first.find_run("it's-2") is None
    assert get_run(recorded, parent).params == {"a": "1", "b": "3"}

    fresh = second.parent("run", key="it's-1", fresh=True)
    assert fresh != parent
    assert first.find_run("it's-1") == parent, "the fresh one has not finished"


def test_secrets_reach_neither_database_nor_files(
    recorded: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-battery")
    hub_token = "hf_" + "Q" * 30
    params: dict[str, Any] = {
        "describer": {"api_key": "open-sesame-1", "model": "m", "max_new_tokens": 96},
        "note": f"called with {hub_token} and correct-horse-battery",
        "storage": "s3://ann:open-sesame-2@host/bucket",
        "long": ["correct-horse-battery"] * 100,
        "nested": [{"password": "open-sesame-3"}],
    }
    tracker = Tracker(recorded, "secrets")
    run = tracker.parent("secrets", key="secrets-1", params=params, tags={"token": "open-sesame-4"})
    tracker.finish(run)
    stored = b"".join(path.read_bytes() for path in Path(recorded.root.uri).rglob("*") if path.is_file())
    for secret in ("open-sesame", hub_token, "correct-horse"):
        assert secret.encode() not in stored
    record = get_run(recorded, run)
    assert record.params["describer.max_new_tokens"] == "96"
    assert record.params["describer.api_key"] == "[hidden]"
    assert record.params["storage"] == "s3://[hidden]@host/bucket"


def test_a_long_parameter_is_a_digest_and_an_artefact(
    recorded: Workspace, client: MlflowClient, tmp_path: Path
) -> None:
    tracker = Tracker(recorded, "long")
    text = "class " * 5000
    run = tracker.parent("long", key="long-1", params={"names": text, "short": "x" * 500})
    record = get_run(recorded, run)
    assert record.params["names"].startswith("sha256:")
    assert record.params["short"] == "x" * 500
    file = client.download_artifacts(run, "parameters/names.txt", str(tmp_path))
    assert Path(file).read_text() == text


def test_threads_and_trackers_do_not_mix_their_runs(recorded: Workspace, client: MlflowClient) -> None:
    trackers = [Tracker(recorded, "threads") for _ in range(2)]
    parent = trackers[0].parent("search", key="threads-1")
    runs: dict[int, str] = {}

    def trial(number: int) -> None:
        tracker = trackers[number % 2]
        runs[number] = tracker.child(parent, f"trial-{number}", params={"number": number})
        for step in range(100):
            tracker.metrics(runs[number], step, {"value": number * 1000 + step})
        tracker.finish(runs[number])

    threads = [threading.Thread(target=trial, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(runs.values())) == 6
    for number, run in runs.items():
        assert history(client, run, "value") == {step: number * 1000 + step for step in range(100)}


def away(recorded: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, list[Any]]:
    """Record a pipeline with no server; returns its ids and the entries kept."""
    workspace = open_workspace(tmp_path / "away")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY_LISTENS)
    began = time.monotonic()
    tracker = Tracker(workspace, "away")
    parent = tracker.parent("birds", key="away-1", params={"a": 1})
    child = tracker.child(parent, "stage1")
    for step in range(1000):
        tracker.metrics(child, step, {"loss": float(step)})
    tracker.finish(child)
    tracker.finish(parent)
    assert tracker.find_run("away-1") is None
    assert time.monotonic() - began < 30
    result = sync(workspace)
    assert (result.sent, result.waiting) == (0, tracker.waiting())
    refused = CliRunner().invoke(app, ["sync"], env={"FINEDEFICS_HOME": workspace.root.uri})
    assert isinstance(refused.exception, FinedeficsError)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    other = sync(workspace)
    assert other.other_servers == (NOBODY_LISTENS,), "entries go to the server they were meant for"
    kept = [entry for path in (workspace.state / "spool").glob("*.jsonl") for entry in lines(path)[1:]]
    return parent, child, kept


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_an_absent_server_missed_is_sent_later_and_only_once(
    recorded: Workspace, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, child, kept = away(recorded, tmp_path, monkeypatch)
    folder = recorded.state / "spool"
    for attempt in range(
        2
    ):  # a connection that breaks after the server has stored everything: all of it again
        spool = Spool(folder, f"away-{attempt}", destination(recorded))
        spool.append(kept)
        assert spool.drain(Delivery(recorded, client, spool).send) == 0
        assert not spool.path.exists()
    stage = server_run_id(recorded, child)
    assert history(client, stage, "loss") == {step: float(step) for step in range(1000)}
    assert len(client.search_runs([client.get_run(stage).info.experiment_id])) == 2
    assert get_run(recorded, parent).status == "finished"
    assert get_run(recorded, "away-1").run_id == server_run_id(recorded, parent)


def test_a_refused_entry_does_not_take_its_neighbours_along(
    recorded: Workspace, client: MlflowClient, tmp_path: Path
) -> None:
    tracker = Tracker(recorded, "refused")
    run = tracker.parent("run", key="refused-1")
    tracker.metrics(run, 0, {"loss": 1.0})
    tracker.metrics(run, 1, {"what? no!": 1.0})
    tracker.metrics(run, 2, {"loss": 3.0})
    tracker.artifact(run, tmp_path / "was deleted")
    tracker.finish(run)
    assert history(client, run, "loss") == {0: 1.0, 2: 3.0}
    assert get_run(recorded, run).status == "finished"
    refused = lines(recorded.state / "spool" / "refused.jsonl")
    assert [entry["entry"] for entry in refused] == ["metrics", "artifact"]
    assert "what? no!" in refused[0]["reason"]


def test_a_line_cut_short_by_a_kill_is_skipped(recorded: Workspace, client: MlflowClient) -> None:
    run = Tracker(recorded, "cut").parent("run", key="cut-1")
    spool = Spool(recorded.state / "spool", "cut", destination(recorded))
    spool.append([{"run": run, "entry": "metrics", "step": 0, "time": 1, "values": {"loss": 2.0}}])
    with spool.path.open("a") as file:
        file.write('{"run": "')
    assert sync(recorded).sent == 1
    assert history(client, run, "loss") == {0: 2.0}


def test_a_wrong_address_is_refused_without_showing_its_password(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("./mlruns", "file:///tmp/mlruns", "htp://ann:geheim@host"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(FinedeficsError, match="MLFLOW_TRACKING_URI") as caught:
            Tracker(workspace, "any")
        assert caught.value.exit_code == 2
        assert "geheim" not in str(caught.value)


def test_a_deleted_experiment_is_reported_at_the_start(recorded: Workspace, client: MlflowClient) -> None:
    client.delete_experiment(client.create_experiment("deleted"))
    with pytest.raises(FinedeficsError, match=r"experiment=deleted: .*restore"):
        Tracker(recorded, "deleted")


def test_nothing_is_printed_and_nothing_is_left_in_the_working_folder(tmp_path: Path) -> None:
    script = (
        "from finedefics_platform.tracking.tracker import Tracker\n"
        "from finedefics_platform.base.workspace import open_workspace\n"
        "tracker = Tracker(open_workspace('w'), 'quiet')\n"
        "run = tracker.parent('run', key='k')\n"
        "tracker.metrics(run, 0, {'loss': 1.0})\n"
        "tracker.finish(run)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_runs_are_listed_shown_and_compared(recorded: Workspace) -> None:
    tracker = Tracker(recorded, "compared")
    ids = []
    for number in (1, 2):
        parent = tracker.parent(
            f"pipe-{number}", key=f"compared-{number}", params={"seed": number, "same": 0}
        )
        child = tracker.child(parent, "stage1")
        tracker.metrics(child, 0, {"loss": 5.0})
        tracker.metrics(parent, 0, {"accuracy": number / 10})
        tracker.finish(child)
        tracker.finish(parent)
        ids.append((parent, child))
    listed = [record.run_id for record in list_runs(recorded)]
    assert all(listed.index(child) == listed.index(parent) + 1 for parent, child in ids)

    comparison = compare_runs(recorded, ["compared-1", ids[1][0][:20]])
    assert comparison.settings == {"seed": ("1", "2")}
    assert comparison.metrics == {"accuracy": (0.1, 0.2), "loss": (5.0, 5.0)}

    environment = {"FINEDEFICS_HOME": str(recorded.root)}
    for command, words in (
        (["list", "--all"], ["compared-1", "stage1", "finished"]),
        (["show", ids[0][0]], ["accuracy", "0.1", "stage1"]),
        (["compare", "compared-1", "compared-2"], ["seed", "0.2"]),
        (["sync"], ["0 entries sent"]),
    ):
        shown = CliRunner().invoke(app, command, env=environment, catch_exceptions=False)
        assert [word for word in words if word not in shown.output] == []
        machine = CliRunner().invoke(app, [*command, "--json"], env=environment, catch_exceptions=False)
        events = [json.loads(line)["event"] for line in machine.stdout.splitlines()]
        assert events[-1] == "done"

    with pytest.raises(FinedeficsError, match="no such run") as caught:
        get_run(recorded, "nothing")
    assert caught.value.exit_code == 2
