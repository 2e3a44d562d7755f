"""Training in one process without Ray Train: the same weights, and an end for whatever can happen to it."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.events import Event
from finedefics_platform.base.storage import fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.run import TrainedRun, train

STAGES = [
    {
        "name": "bridge",
        "steps": 2,
        "warmup_steps": 1,
        "feeds": {"labelled": 2, "captioned": 2, "text": 2},
        "terms": {"caption": 1, "object_attribute": 0.5, "attribute_category": 0.5},
    },
    {"name": "name", "steps": 2, "feeds": {"labelled": 2}, "terms": {"answer": 1}},
]


def experiment_of(model: Path, name: str, workers: int = 0, **changes: Any) -> Experiment:
    document = {
        "name": name,
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": str(model)},
        "resources": {"workers": workers},
        "stages": STAGES,
    }
    return parse_experiment({**document, **changes}, place="test")


def facts(run: TrainedRun) -> list[Event]:
    return [event for event in run.events() if event["event"] == "facts"]


def test_it_trains_the_weights_that_one_worker_of_ray_train_does(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    """Twice, as the second run finds what the first left in their process; by name they are other runs."""
    runs = [
        train(drawn_workspace, experiment_of(tiny_model, name, workers))
        for name, workers in (("first", 0), ("second", 0), ("trained", 1))
    ]
    pids = [{fact["workers"][0]["pid"] for fact in facts(run)} for run in runs]
    assert pids[0] == pids[1] != pids[2]
    assert len({model_digest(fetch(run.model)) for run in runs}) == 1
    assert {fact["world_size"] for run in runs for fact in facts(run)} == {1}
    assert not (runs[0].place / "training-1" / "checkpoints").exists()


@pytest.mark.slow
def test_processes_that_collate_change_nothing_and_one_that_is_lost_is_told(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    def with_cpus(name: str, cpus: int, stages: list[Any], **heard: Any) -> TrainedRun:
        resources = {"workers": 0, "cpus_per_worker": cpus}
        return train(
            drawn_workspace, experiment_of(tiny_model, name, resources=resources, stages=stages), **heard
        )

    one, three = (with_cpus(f"cpus-{cpus}", cpus, STAGES) for cpus in (1, 3))
    assert model_digest(fetch(one.model)) == model_digest(fetch(three.model))

    def kill(event: Event) -> None:
        if event["event"] == "step" and event["step"] == 3:
            trainer = psutil.Process(facts_heard[-1]["workers"][0]["pid"])
            server, *_ = (child for child in trainer.children() if "forkserver" in str(child.cmdline()))
            server.children()[0].kill()
        if event["event"] == "facts":
            facts_heard.append(event)

    facts_heard: list[Event] = []
    with pytest.raises(FinedeficsError, match=r"after step \d+: a process that collates was lost; look for"):
        with_cpus("lost", 3, [{**STAGES[1], "steps": 2000}], listen=kill)


@pytest.mark.slow
def test_a_listener_that_raises_ends_it_and_it_starts_again(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    def refuse(event: Event) -> None:
        if event["event"] == "step":
            raise RuntimeError("enough")

    experiment = experiment_of(tiny_model, "stopped")
    with pytest.raises(RuntimeError, match="enough"):
        train(drawn_workspace, experiment, listen=refuse)
    run = train(drawn_workspace, experiment)
    assert [event["total_step"] for event in run.events() if event["event"] == "step"] == [1, 2, 3, 4]


def test_a_lost_process_and_a_mistake_are_told(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    def kill(event: Event) -> None:
        if event["event"] == "facts":
            os.kill(event["workers"][0]["pid"], signal.SIGKILL)

    many = [{**STAGES[1], "steps": 2000}]
    with pytest.raises(FinedeficsError, match=r"run killed-.*workers were lost more often"):
        train(drawn_workspace, experiment_of(tiny_model, "killed", stages=many), listen=kill)
    wild = [{**STAGES[1], "learning_rate": 1e30, "steps": 9}]
    with pytest.raises(FinedeficsError, match=r"stage name: term answer is (nan|inf) at step"):
        train(drawn_workspace, experiment_of(tiny_model, "wild", stages=wild))


def test_checkpoints_are_not_promised_without_ray_train(tiny_model: Path) -> None:
    with pytest.raises(FinedeficsError, match=r"resources.workers 0 trains without it"):
        experiment_of(tiny_model, "saving", tracking={"checkpoint_every": 1})
