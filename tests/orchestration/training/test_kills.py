"""Killed on the way: workers and drivers, by SIGKILL and SIGTERM; the run ends as if nothing had happened.

One short run is trained by a chain of drivers, each a process of its own, all on the tests' cluster.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.events import EventReader
from finedefics_platform.base.storage import committed
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.checkpoints import saved_position
from finedefics_platform.training.run import (
    TrainedRun,
    events_of,
    open_run,
    resumed_experiment,
    run_key,
    train,
)

pytestmark = pytest.mark.slow

STEPS = 60


def document(model: Path, name: str) -> dict[str, Any]:
    # Rows enough that a step lasts longer than the cluster takes to note a checkpoint.
    stage = {"name": "name", "steps": STEPS, "feeds": {"labelled": 32}, "terms": {"answer": 1, "caption": 1}}
    return {
        "name": name,
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": str(model)},
        "stages": [stage],
        "tracking": {"checkpoint_every": 2},
    }


class Driver:
    """``finedefics train … --json`` as a process; what it says is read in a thread, and acted on at once."""

    def __init__(
        self, variables: dict[str, str], arguments: list[str], act: "Callable[[Driver, dict], None]"
    ) -> None:
        command = [sys.executable, "-m", "finedefics_platform.cli.main", "train", *arguments, "--json"]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[dict[str, Any]] = []
        self._act = act
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))
            self._act(self, self.said[-1])

    def told(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.said if event["event"] == name]

    def ends(self) -> tuple[int, str]:
        """Its exit code and what it said on stderr."""
        assert self.process.stderr is not None
        errors = self.process.stderr.read()
        code = self.process.wait(280)
        self._thread.join(10)
        return code, errors


@pytest.fixture
def variables(ray_cluster: Any, drawn_workspace: Workspace) -> dict[str, str]:
    address = ray_cluster.get_runtime_context().gcs_address
    return {"FINEDEFICS_HOME": drawn_workspace.root.uri, "RAY_ADDRESS": address}


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    started: list[Driver] = []
    yield started
    for driver in started:
        if driver.process.poll() is None:
            driver.process.kill()
            driver.process.wait(10)


def test_whoever_is_killed_the_run_goes_on_and_ends_the_same(
    variables: dict[str, str],
    drivers: list[Driver],
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    calm = train(drawn_workspace, parse_experiment(document(tiny_model, "calm"), place="test"))
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps(document(tiny_model, "hit")))

    def start(arguments: list[str], act: Callable[[Driver, dict], None]) -> Driver:
        drivers.append(Driver(variables, arguments, act))
        return drivers[-1]

    # 1: SIGTERM ends in order, and says how to go on
    def terminate(driver: Driver, event: dict) -> None:
        if event["event"] == "step" and event["step"] == 4:
            driver.process.terminate()

    first = start([str(file)], terminate)
    code, errors = first.ends()
    assert code == 143, errors
    (line,) = errors.strip().splitlines()
    key = first.told("step")[0]["run"]
    assert line.startswith(f"error: run {key}: terminated; run again, or finedefics train --resume {key}")
    (stopped,) = first.told("stopped")  # saved where it stood, not where a checkpoint was due
    unfinished(drawn_workspace, key)

    # 2: gone on with by its key, under another topology; a worker is killed, then the driver itself
    others: list[Driver] = []
    at = stopped["total_step"]

    def kill(driver: Driver, event: dict) -> None:
        if event["event"] == "step" and not others:
            others.append(start([str(file)], start_third))
        if event["event"] == "step" and event["step"] == at + 4 and len(driver.told("facts")) == 1:
            os.kill(driver.told("facts")[-1]["workers"][1]["pid"], signal.SIGKILL)
        if event["event"] == "step" and event["step"] >= at + 14:
            driver.process.kill()

    # 3 waits for 2 and takes over; 4 waits for 3 and finds the run finished
    def start_third(driver: Driver, event: dict) -> None:
        if event["event"] == "configuration" and len(others) == 1:  # seconds before its first step
            others.append(start([str(file)], lambda *_: None))

    second = start(["--resume", key, "--set", "resources.max_failures=3"], kill)
    code, errors = second.ends()
    assert code == -signal.SIGKILL, errors
    resumed = [event["step"] for event in second.told("resumed")]
    assert len(resumed) == 2, "after its own start, and after the loss of a worker"
    assert resumed[0] == at
    assert line.endswith(f": it goes on from step {at}")
    third = others[0]
    code, errors = third.ends()
    assert code == 0, errors
    (waited,) = third.told("waiting")
    assert waited["work"] == f"run {key}"
    assert f"process {second.process.pid}" in waited["holder"]
    assert third.told("resumed")[0]["step"] > at + 4
    fourth = others[1]
    code, errors = fourth.ends()
    assert code == 0, errors
    assert f"process {third.process.pid}" in fourth.told("waiting")[0]["holder"]
    assert fourth.told("skipped")
    assert not fourth.told("step")

    hit = open_run(drawn_workspace, key)
    assert losses(hit) == pytest.approx(losses(calm), abs=1e-6)
    assert [e["total_step"] for e in hit.events() if e["event"] == "step"] == [*range(1, STEPS + 1)]
    assert [a["outcome"] for a in hit.attempts()] == ["interrupted", None, "finished"]
    assert [a["topology"]["resources"]["max_failures"] for a in hit.attempts()] == [2, 3, 2]
    check_tracked(drawn_workspace, hit)


def unfinished(workspace: Workspace, key: str) -> None:
    """Nothing of it is taken for a result."""
    with pytest.raises(FinedeficsError, match=f"--resume {key} goes on with it"):
        open_run(workspace, key)
    assert committed(workspace.runs / key / "training-1" / "model") is None


def losses(run: TrainedRun) -> dict[int, float]:
    return {e["total_step"]: e["metrics"]["loss"] for e in run.events() if e["event"] == "step"}


def check_tracked(workspace: Workspace, run: TrainedRun) -> None:
    """MLflow has every step once, when it was done: also what a killed driver had not sent."""
    from mlflow import MlflowClient

    from finedefics_platform.tracking.tracker import server_run_id

    assert run.parent_run_id is not None
    client = MlflowClient(tracking_uri=workspace.tracking_uri)
    parent = client.get_run(server_run_id(workspace, run.parent_run_id)).info
    assert parent.status == "FINISHED"
    (stage,) = client.search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    assert stage.info.status == "FINISHED"
    curve = [(m.step, m.timestamp) for m in client.get_metric_history(stage.info.run_id, "loss")]
    assert [step for step, _ in curve] == [*range(1, STEPS + 1)]
    log = EventReader(run.model.parent / "events").take()
    done = {(event["step"], round(event["time"] * 1000)) for event in log if event["event"] == "step"}
    assert set(curve) <= done


def test_force_keeps_the_finished_run_until_the_new_one_is(
    variables: dict[str, str],
    drivers: list[Driver],
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    short = document(tiny_model, "forced")
    short["stages"][0]["steps"] = 8
    experiment = parse_experiment(short, place="test")
    before = train(drawn_workspace, experiment)
    as_before = losses(before)
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps(short))
    # a cluster that does not answer
    away = Driver({**variables, "RAY_ADDRESS": "127.0.0.1:1"}, [str(file), "--force"], lambda *_: None)
    drivers.append(away)
    code, errors = away.ends()
    assert (code, errors.count("\n")) == (1, 1), errors
    assert open_run(drawn_workspace, before.key) == before
    assert committed(before.model) is not None

    def kill(driver: Driver, event: dict) -> None:
        if event["event"] == "step" and event["step"] == 6:
            driver.process.kill()

    drivers.append(Driver(variables, [str(file), "--force"], kill))
    assert drivers[-1].ends()[0] == -signal.SIGKILL
    assert open_run(drawn_workspace, before.key) == before
    assert committed(before.model) is not None
    alone = resumed_experiment(drawn_workspace, before.key, ["resources.workers=1"])
    with pytest.raises(FinedeficsError, match=r"saved by 2 workers at ZeRO stage 1, .* by 1 at stage 1"):
        train(drawn_workspace, alone, resume=True)
    # an ordinary call returns what is finished; asked for by its key, the interrupted one goes on
    assert train(drawn_workspace, experiment) == before
    drivers.append(Driver(variables, ["--resume", before.key], lambda *_: None))
    code, errors = drivers[-1].ends()
    assert code == 0, errors
    assert drivers[-1].told("resumed")[0]["step"] in (2, 4, 6)
    after = open_run(drawn_workspace, before.key)
    assert after.model == after.place / "training-2" / "model"
    assert committed(before.model) is None
    assert losses(after) == pytest.approx(as_before, abs=1e-6)


def test_whoever_listens_hears_the_run_and_may_end_it(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    heard: list[dict[str, Any]] = []

    def stop(event: dict[str, Any]) -> None:
        heard.append(event)
        if event["event"] == "step" and event["step"] == 4:
            raise ArithmeticError("enough")

    experiment = parse_experiment(document(tiny_model, "listened"), place="test")
    with pytest.raises(ArithmeticError):
        train(drawn_workspace, experiment, listen=stop)
    assert [event["step"] for event in heard if event["event"] == "step"] == [1, 2, 3, 4]
    (place,) = [place for place in drawn_workspace.runs.children() if place.name.startswith("listened-")]
    unfinished(drawn_workspace, place.name)
    told = len(events_of(drawn_workspace, place.name))
    time.sleep(2)
    assert len(events_of(drawn_workspace, place.name)) == told, "the workers were ended"
    # whoever listens next hears first what stands, then what is done anew
    first = heard[0]
    heard.clear()
    with pytest.raises(ArithmeticError):
        train(drawn_workspace, experiment, listen=stop)
    assert [event["step"] for event in heard if event["event"] == "step"] == [1, 2, 3, 4]
    assert heard[0] == first


def test_checkpoints_stay_until_the_result_stands(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    short = document(tiny_model, "blocked")
    short["stages"][0]["steps"] = 2
    experiment = parse_experiment(short, place="test")
    place = drawn_workspace.runs / run_key(drawn_workspace, experiment, drawn_dataset)

    def block(event: dict[str, Any]) -> None:
        if event["event"] == "model":  # the last word of the workers
            (place / "result.json" / "in the way").write_text("")

    with pytest.raises(FinedeficsError, match="the storage did not do this"):
        train(drawn_workspace, experiment, listen=block)
    assert saved_position(place / "training-1") is not None
    (place / "result.json").delete()
    heard: list[dict[str, Any]] = []
    run = train(drawn_workspace, experiment, listen=heard.append)
    assert [event["step"] for event in heard if event["event"] == "step"] == [1, 2]  # from the log, not anew
    assert [attempt["outcome"] for attempt in run.attempts()][1] == "finished"
    assert saved_position(place / "training-1") is None
