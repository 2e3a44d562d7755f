"""What MLflow is told of a run: when things happened, and how it ended."""

import json
from pathlib import Path
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.progress import SILENT
from finedefics_platform.base.signals import Terminated
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.tracking.notes import NOTE
from finedefics_platform.tracking.tracker import Tracker, server_run_id
from finedefics_platform.training.pace import Pace
from finedefics_platform.training.recording import Recorder, beside_the_bar, cost

LONG_AGO = 1_600_000_000.0


def told() -> list[dict[str, Any]]:
    """Two steps of a stage, a minute apart, as a log has them."""
    place = {"stage": "name", "number": 0, "steps": 2}
    return [
        {"event": "configuration", "time": LONG_AGO, "digests": ["d"], "total_step": 0},
        {"event": "stage", "time": LONG_AGO, "step": 0, "total_step": 0, **place},
        *(
            {
                "event": "step",
                "stage": "name",
                "time": LONG_AGO + 60 * n,
                "step": n,
                "total_step": n,
                "metrics": {"loss": 1 / n},
            }
            for n in (1, 2)
        ),
        {"event": "stage_done", "time": LONG_AGO + 180, "step": 2, "total_step": 2, "stage": "name"},
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (FinedeficsError("a", place="b", cure="c"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (Terminated(), "KILLED"),
    ],
)
def test_a_run_is_recorded_as_it_ended_and_with_the_times_at_which_it_happened(
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    error: BaseException | None,
    status: str,
) -> None:
    from mlflow import MlflowClient

    stage = {"name": "name", "steps": 2, "feeds": {"labelled": 4}, "terms": {"answer": 1}}
    document = {"name": "told", "data": {"dataset": "drawn"}, "model": {"path": "m"}, "stages": [stage]}
    experiment = parse_experiment(document, place="test")
    tracker = Tracker(drawn_workspace, "recording")
    key = f"told-{status}-{type(error).__name__}"
    recorder = Recorder(experiment, drawn_dataset, key, SILENT, tracker)
    events = told()
    try:
        with recorder:
            recorder.replay(events[:3])
            for event in events[3:]:
                recorder.handle(event)
            if error is not None:
                raise error
    except BaseException as caught:
        assert caught is error  # noqa: PT017
    assert recorder.last_metrics == {"loss": 0.5}
    assert recorder.parent_run_id is not None
    client = MlflowClient(tracking_uri=drawn_workspace.tracking_uri)
    parent = client.get_run(server_run_id(drawn_workspace, recorder.parent_run_id)).info
    assert parent.status == status
    recorded = client.get_run(parent.run_id)
    (given,) = recorded.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("drawn", drawn_dataset.digest)
    assert json.loads(given.dataset.profile) == {"num_rows": 48}
    assert f"Training run **{key}** on `{drawn_dataset.reference}`" in recorded.data.tags[NOTE]
    wanted = f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
    (child,) = client.search_runs([parent.experiment_id], wanted)
    assert (child.info.start_time, child.info.end_time) == (LONG_AGO * 1000, (LONG_AGO + 180) * 1000)
    curve = client.get_metric_history(child.info.run_id, "loss")
    assert [(m.step, m.timestamp) for m in curve] == [(n, (LONG_AGO + 60 * n) * 1000) for n in (1, 2)]


def test_a_person_sees_what_a_step_costs() -> None:
    found = {"samples_per_second": 12.345, "memory_mib": 2048.0, "data_wait_share": 0.031, "loss": 1.0}
    assert cost(found) == "12.3 samples/s · 2.0 GiB · 3 % waiting for data"
    assert cost(found | {"mfu": 0.412}) == "12.3 samples/s · MFU 41 % · 2.0 GiB · 3 % waiting for data"


def test_the_loss_and_the_time_left_stand_beside_the_bar() -> None:
    def step(stage: str, number: int, at: float) -> dict[str, Any]:
        return {"event": "step", "stage": stage, "total_step": number, "time": at}

    pace = Pace(20)
    assert pace.left(step("a", 1, 100.0)) is None, "the first step waits for imports and data"
    assert pace.left(step("a", 3, 104.0)) == 34.0, "17 steps of two seconds, of all stages"
    assert pace.left(step("a", 5, 118.0)) == 67.5, "a check between them counts"
    assert pace.left(step("b", 11, 200.0)) is None, "another stage has another pace"
    assert pace.left(step("b", 12, 201.0)) == 8.0
    assert pace.left(step("b", 11, 300.0)) is None, "after a restart"
    assert pace.left(step("b", 20, 309.0)) == 0.0
    told = beside_the_bar({"loss": 1.23456, "samples_per_second": 12.0}, 7530.0)
    assert told == "loss 1.235 · 2 h 5 min left · 12 samples/s"
    assert beside_the_bar({"loss": 2.0}, None) == "loss 2"
