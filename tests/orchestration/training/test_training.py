"""Real runs: Ray Train starts two workers, DeepSpeed shards them, and the run folder tells what happened."""

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.events import read_events
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.run import TrainedRun, check, pin, run_key, train

STAGES = [
    {
        "name": "bridge",
        "steps": 4,
        "warmup_steps": 1,
        "feeds": {"labelled": 4, "captioned": 4, "text": 2},
        "terms": {"caption": 1, "object_attribute": 0.5, "attribute_category": 0.5},
    },
    {"name": "name", "steps": 2, "feeds": {"labelled": 4}, "terms": {"answer": 1}},
]


def experiment_of(model: Path, name: str, **changes: Any) -> Experiment:
    document = {
        "name": name,
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": str(model)},
        "deepspeed": {"zero_stage": 1},
        "stages": STAGES,
    }
    return parse_experiment({**document, **changes}, place="test")


class Watcher:
    """Progress that remembers."""

    def __init__(self, on_event: Any = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.bars: dict[str, int] = {}
        self.on_event = on_event

    def event(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields))
        if self.on_event is not None:
            self.on_event(name, fields)

    def say(self, text: str) -> None:
        pass

    @contextlib.contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Any]:
        self.bars.setdefault(label, 0)

        def advance(count: int) -> None:
            self.bars[label] += count

        yield advance


@pytest.fixture(scope="module")
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture(scope="module")
def run(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, watcher: Watcher
) -> TrainedRun:
    return train(drawn_workspace, experiment_of(tiny_model, "real"), progress=watcher)


def events_of(run: TrainedRun, name: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run.folder / "events.jsonl") if event["event"] == name]


def test_a_run_leaves_a_plain_model_and_its_account(run: TrainedRun, tiny_model: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    AutoModelForImageTextToText.from_pretrained(run.model)
    base, tuned = load_file(tiny_model / "model.safetensors"), load_file(run.model / "model.safetensors")
    assert base.keys() == tuned.keys()
    moved = {name for name in base if not base[name].equal(tuned[name])}
    assert any("text_model" in name for name in moved)
    assert not any("vision_model" in name for name in moved)  # frozen by default
    assert sorted(path.name for path in run.folder.iterdir()) == [
        ".lock",
        "events.jsonl",
        "experiment.json",
        "model",
        "result.json",
    ]


def test_every_step_is_recorded_with_what_it_cost(run: TrainedRun, watcher: Watcher) -> None:
    steps = events_of(run, "step")
    assert [(event["stage"], event["step"]) for event in steps] == [
        *(("bridge", step) for step in range(1, 5)),
        *(("name", step) for step in range(1, 3)),
    ]
    for event in steps:
        metrics = event["metrics"]
        terms = {name for name in metrics if name.startswith("loss_")}
        wanted = {"bridge": {"caption", "object_attribute", "attribute_category"}, "name": {"answer"}}
        assert terms == {f"loss_{name}" for name in wanted[event["stage"]]}
        assert all(math.isfinite(value) for value in metrics.values())
        assert 0 <= metrics["data_wait_share"] <= 1
        assert metrics["useful_tokens_per_second"] <= metrics["forwarded_tokens_per_second"]
        for name in ("gradient_norm", "learning_rate", "samples_per_second", "memory_mib"):
            assert metrics[name] > 0, name
    bridge = [event["metrics"] for event in steps if event["stage"] == "bridge"]
    assert bridge[0]["loss"] == pytest.approx(
        bridge[0]["loss_caption"]
        + 0.5 * (bridge[0]["loss_object_attribute"] + bridge[0]["loss_attribute_category"])
    )
    assert bridge[-1]["loss"] < bridge[0]["loss"]
    assert {"bridge": 4, "name": 2}.items() <= watcher.bars.items()
    shown = [fields for name, fields in watcher.events if name == "step"]
    assert shown[0]["loss"] == bridge[0]["loss"]
    assert shown[0]["run"] == run.key


def test_two_processes_share_the_optimizer_state(run: TrainedRun) -> None:
    facts = events_of(run, "facts")
    assert [event["stage"] for event in facts] == ["bridge", "name"]
    for event in facts:
        assert event["world_size"] == 2
        assert event["zero_stage"] == 1
        assert len({worker["pid"] for worker in event["workers"]} - {os.getpid()}) == 2
        elements = [worker["optimizer_elements"] for worker in event["workers"]]
        assert elements[0] == pytest.approx(elements[1], rel=0.01)
        tuned = 2 * tuned_parameters(run.model)  # AdamW keeps two numbers a parameter
        assert sum(elements) == pytest.approx(tuned, rel=0.02)


def tuned_parameters(model: Path) -> int:
    from finedefics.backbones import load_backbone

    return sum(p.numel() for p in load_backbone(model).parameters() if p.requires_grad)


def test_workers_log_the_configuration_they_have(run: TrainedRun, drawn_dataset: Dataset) -> None:
    (event,) = events_of(run, "configuration")
    assert len(event["digests"]) == 2
    assert len(set(event["digests"])) == 1
    assert event["configuration"]["data"]["dataset"] == drawn_dataset.reference
    assert event["configuration"] == json.loads((run.folder / "experiment.json").read_text())
    assert event["digest"] == run.config_digest


def test_a_finished_run_is_not_run_again(
    run: TrainedRun, drawn_workspace: Workspace, tiny_model: Path
) -> None:
    again = Watcher()
    started = time.monotonic()
    assert train(drawn_workspace, experiment_of(tiny_model, "real"), progress=again) == run
    assert time.monotonic() - started < 5
    assert [name for name, _ in again.events] == ["skipped"]


def test_a_loss_that_is_not_finite_is_one_line_that_names_it(
    run: TrainedRun, drawn_workspace: Workspace, tiny_model: Path
) -> None:
    stages = [{**STAGES[1], "learning_rate": 1e30, "warmup_steps": 0, "steps": 50, "gradient_clip": 1e30}]
    with pytest.raises(FinedeficsError) as caught:
        train(drawn_workspace, experiment_of(tiny_model, "diverges", stages=stages))
    assert str(caught.value).startswith("stage name: term answer is nan at step")
    assert "\n" not in str(caught.value)
    failed = next(drawn_workspace.local.runs.glob("diverges-*"))
    assert not (failed / "result.json").exists()
    # The workers' own error ended the run: it was not started again, as after the loss of a worker.
    assert [e["event"] for e in read_events(failed / "events.jsonl")].count("configuration") == 1


def test_what_would_fail_in_the_workers_is_refused_before_they_start(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    odd = experiment_of(tiny_model, "odd", stages=[{**STAGES[1], "feeds": {"labelled": 3}}])
    with pytest.raises(FinedeficsError, match="cannot be shared equally by 2 workers"):
        train(drawn_workspace, odd)
    with pytest.raises(FinedeficsError, match=r"no negatives yet; run `finedefics data mine drawn`"):
        check(experiment_of(tiny_model, "bare"), without(drawn_dataset, "negatives"))
    captions = {"name": "say", "steps": 2, "feeds": {"labelled": 4}, "terms": {"answer": 1, "caption": 1}}
    with pytest.raises(FinedeficsError, match=r"term caption learns from descriptions, and no labelled"):
        check(experiment_of(tiny_model, "bare", stages=[captions]), without(drawn_dataset, "descriptions"))
    check(experiment_of(tiny_model, "bare", stages=[captions]), drawn_dataset)


def without(dataset: Dataset, table: str) -> Dataset:
    kept = {name: value for name, value in dataset.manifest["tables"].items() if name != table}
    return Dataset(dataset.root, "drawn", dataset.digest, {**dataset.manifest, "tables": kept})


def test_the_key_follows_content(drawn_dataset: Dataset, tiny_model: Path) -> None:
    experiment = experiment_of(tiny_model, "key")
    key = run_key(experiment, drawn_dataset)
    assert run_key(pin(experiment, drawn_dataset), drawn_dataset) == key
    other = Dataset(drawn_dataset.root, "drawn", "0" * 12, drawn_dataset.manifest)
    changed = experiment_of(tiny_model, "key", seed=1)
    assert len({key, run_key(experiment, other), run_key(changed, drawn_dataset)}) == 3


@pytest.mark.slow
def test_a_killed_worker_changes_nothing_but_the_time(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    """SIGKILL of one worker between two checkpoints: every loss is that of the undisturbed run."""
    killed: list[int] = []

    def kill_once(name: str, fields: dict[str, Any]) -> None:
        if name == "facts":
            pids.extend(worker["pid"] for worker in fields["workers"])
        if name == "step" and fields["stage"] == "bridge" and fields["step"] == 3 and not killed:
            killed.append(pids[1])
            os.kill(pids[1], signal.SIGKILL)

    pids: list[int] = []
    longer = [{**STAGES[0], "steps": 40}, STAGES[1]]
    tracking = {"checkpoint_every": 2}
    calm = train(drawn_workspace, experiment_of(tiny_model, "calm", stages=longer, tracking=tracking))
    hit = train(
        drawn_workspace,
        experiment_of(tiny_model, "hit", stages=longer, tracking=tracking),
        progress=Watcher(kill_once),
    )
    assert killed
    (resumed,) = events_of(hit, "resumed")
    assert resumed["stage"] == "bridge"
    assert 0 < resumed["step"] < 40
    assert losses(hit) == pytest.approx(losses(calm), abs=1e-6)


def losses(run: TrainedRun) -> dict[tuple[str, int], float]:
    """Loss by stage and step; a step done twice counts as done last."""
    return {(event["stage"], event["step"]): event["metrics"]["loss"] for event in events_of(run, "step")}


def test_a_second_process_waits_for_the_first(drawn_workspace: Workspace) -> None:
    from finedefics_platform.training.run import _alone

    folder = drawn_workspace.local.runs / "locked"
    folder.mkdir()
    order: list[str] = []

    def second() -> None:
        with _alone(folder):
            order.append("second")

    with _alone(folder):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
