"""Real runs: Ray Train starts two workers, DeepSpeed shards them, and the run folder tells what happened."""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.events import EventReader
from finedefics_platform.base.storage import fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.assignment import Assignment
from finedefics_platform.training.run import TrainedRun, check, train
from finedefics_platform.training.worker import check_storage

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
        self.notes: list[tuple[str, str]] = []
        self.on_event = on_event

    def event(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields))
        if self.on_event is not None:
            self.on_event(name, fields)

    def say(self, text: str) -> None:
        pass

    def note(self, label: str, text: str) -> None:
        self.notes.append((label, text))

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
    return [event for event in run.events() if event["event"] == name]


def test_a_run_leaves_a_plain_model_and_its_account(run: TrainedRun, tiny_model: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    folder = fetch(run.model)
    AutoModelForImageTextToText.from_pretrained(folder)
    base, tuned = load_file(tiny_model / "model.safetensors"), load_file(folder / "model.safetensors")
    assert base.keys() == tuned.keys()
    moved = {name for name in base if not base[name].equal(tuned[name])}
    assert any("text_model" in name for name in moved)
    assert not any("vision_model" in name for name in moved)  # frozen by default
    assert [place.name for place in run.place.children()] == [
        "experiment.json",
        "lease",
        "result.json",
        "training-1",
    ]
    assert [place.name for place in run.model.parent.children()] == ["attempts", "events", "model"]


def test_a_run_says_what_it_was_made_of_and_nothing_where_it_lies(
    run: TrainedRun, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    assert run.dataset == drawn_dataset.reference
    assert run.base == model_digest(tiny_model)
    assert set(run.labelled) == drawn_dataset.labelled_category_ids()
    assert run.experiment().model.path == "workspace:models/tiny"
    (attempt,) = run.attempts()
    assert attempt["outcome"] == "finished"
    assert attempt["started"] < attempt["ended"]
    assert attempt["topology"]["resources"]["workers"] == 2
    assert "version.torch" in attempt["versions"]
    for way in run.place.files():
        if way.endswith((".json", ".jsonl")):
            assert str(drawn_workspace.root) not in (run.place / way).read_text(), way


def test_events_carry_the_time_at_which_they_happened_and_the_step_of_the_run(run: TrainedRun) -> None:
    times = [event["time"] for event in run.events()]
    assert times == sorted(times)
    (attempt,) = run.attempts()
    assert attempt["started"] < times[0] < times[-1] < attempt["ended"]
    assert [event["total_step"] for event in events_of(run, "step")] == [1, 2, 3, 4, 5, 6]


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
        for name in (
            "gradient_norm",
            "learning_rate",
            "samples_per_second",
            "forwarded_tokens",
            "memory_mib",
        ):
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
        tuned = 2 * tuned_parameters(fetch(run.model))  # AdamW keeps two numbers a parameter
        assert sum(elements) == pytest.approx(tuned, rel=0.02)


def tuned_parameters(model: Path) -> int:
    from finedefics.backbones import load_backbone

    return sum(p.numel() for p in load_backbone(model).parameters() if p.requires_grad)


def test_workers_log_the_configuration_they_have(run: TrainedRun, drawn_dataset: Dataset) -> None:
    (event,) = events_of(run, "configuration")
    assert len(event["digests"]) == 2
    assert len(set(event["digests"])) == 1
    assert event["configuration"]["data"]["dataset"] == drawn_dataset.reference
    assert event["configuration"] == run.experiment().model_dump(mode="json")
    assert event["digest"] == run.config_digest


def test_a_finished_run_is_not_run_again(
    run: TrainedRun, drawn_workspace: Workspace, tiny_model: Path
) -> None:
    again = Watcher()
    assert train(drawn_workspace, experiment_of(tiny_model, "real"), progress=again) == run
    assert len(run.attempts()) == 1
    assert again.events == [("skipped", {"run": run.key, "reason": "finished before"})]


def test_whoever_listens_to_a_finished_run_hears_what_happened(
    run: TrainedRun, drawn_workspace: Workspace, tiny_model: Path
) -> None:
    heard: list[dict[str, Any]] = []
    train(drawn_workspace, experiment_of(tiny_model, "real"), listen=heard.append)
    assert heard == run.events()


def test_a_reused_run_says_that_it_was_validated_otherwise(
    run: TrainedRun, drawn_workspace: Workspace, tiny_model: Path
) -> None:
    again = Watcher()
    asked = experiment_of(tiny_model, "real", evaluation={"every": 2})
    reused = train(drawn_workspace, asked, progress=again, validate=lambda *anything: {})
    assert reused == run
    assert again.events[-1][1]["trained_with"] == {"evaluation.every": None}


def test_a_loss_that_is_not_finite_is_one_line_that_names_it(
    run: TrainedRun, drawn_workspace: Workspace, tiny_model: Path
) -> None:
    stages = [{**STAGES[1], "learning_rate": 1e30, "warmup_steps": 0, "steps": 50, "gradient_clip": 1e30}]
    one = {"workers": 1}  # of Ray Train: each takes seconds to start
    with pytest.raises(FinedeficsError) as caught:
        train(drawn_workspace, experiment_of(tiny_model, "diverges", stages=stages, resources=one))
    assert str(caught.value).startswith("stage name: term answer is nan at step")
    assert "\n" not in str(caught.value)
    (failed,) = [place for place in drawn_workspace.runs.children() if place.name.startswith("diverges-")]
    assert not (failed / "result.json").exists()
    # The workers' own error ended the run: it was not started again, as after the loss of a worker.
    told = [event["event"] for event in EventReader(failed / "training-1" / "events").take()]
    assert told.count("configuration") == 1
    outcome = (failed / "training-1" / "attempts" / "0001.json").read_json()["outcome"]
    assert outcome.startswith("failed: stage name: term answer is nan")


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


def test_more_negatives_than_were_mined_are_refused(drawn_dataset: Dataset, tiny_model: Path) -> None:
    asked = {"data": {"dataset": "drawn", "negatives": 6}}
    with pytest.raises(FinedeficsError, match="6 hard negatives are asked for, and 5 were mined") as caught:
        check(experiment_of(tiny_model, "many", **asked), drawn_dataset)
    assert caught.value.exit_code == 2
    check(experiment_of(tiny_model, "many", data={"dataset": "drawn", "negatives": 5}), drawn_dataset)


def test_a_missing_val_split_is_found_at_the_start(drawn_dataset: Dataset, tiny_model: Path) -> None:
    counts = {**drawn_dataset.manifest["counts"], "val": {"": 3}}
    bare = replace(drawn_dataset, manifest={**drawn_dataset.manifest, "counts": counts})
    validated = experiment_of(tiny_model, "blind", evaluation={"every": 2})
    with pytest.raises(FinedeficsError, match="no labelled picture in the split val"):
        check(validated, bare, validating=True)
    check(validated, bare)  # nobody validates
    check(validated, drawn_dataset, validating=True)


def without(dataset: Dataset, table: str) -> Dataset:
    kept = {name: value for name, value in dataset.manifest["tables"].items() if name != table}
    return Dataset(dataset.root, "drawn", dataset.digest, {**dataset.manifest, "tables": kept})


def test_a_node_that_does_not_see_the_workspace_is_named(workspace: Workspace, tiny_model: Path) -> None:
    run = workspace.runs / "one" / "training-1"
    task = Assignment(experiment_of(tiny_model, "far"), workspace, run, run, 1, "token-of-the-driver")
    for there in (None, "token of another disk"):
        if there is not None:
            (run / "token").write_text(there)
        with pytest.raises(FinedeficsError, match=r"workspace: the node .* does not see the workspace"):
            check_storage(task)
    (run / "token").write_text("token-of-the-driver")
    check_storage(task)
